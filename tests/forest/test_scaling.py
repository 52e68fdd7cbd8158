"""Plans with a scaler: the bits of scikit-learn's transform and LightGBM behind it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import lightgbm
import numpy as np
import pytest
from sklearn.preprocessing import MinMaxScaler, RobustScaler, StandardScaler
from tests.forest.models import Matrix, data, train

from modeld.forest import Forest, PlanUnsupported, Scaling
from modeld.forest import kernel as kernels
from modeld.forest.compile import compile_text
from modeld.forest.proof import first_difference, rows_for
from modeld.forest.scorer import Scorer
from modeld.work import plan
from modelreg.loaders.scaled import ScaledModel


def prices(seed: int = 0, rows: int = 400) -> Matrix:
    """Columns in very different units, one of them constant, some values missing."""
    matrix = data(seed, rows, missing=0.1) * [1e-4, 1.0, 3e5, 1.0, 1e12, 2.0] + [
        0.01,
        100.0,
        4e6,
        0.0,
        0.0,
        7.0,
    ]
    matrix[:, 3] = 5.0
    return matrix


def fitted(rows: Matrix, **settings: Any) -> tuple[StandardScaler, lightgbm.Booster]:
    scaler = StandardScaler(**settings).fit(rows)
    scaled = scaler.transform(rows.copy())
    return scaler, train(scaled, target=np.nan_to_num(scaled[:, 1]) + np.nan_to_num(scaled[:, 5]))


def through(scaler: Any, booster: lightgbm.Booster, matrix: Matrix) -> Matrix:
    """The two libraries, one after the other."""
    with np.errstate(all="ignore"):
        scaled = scaler.transform(matrix.copy())
    return booster.predict(scaled, num_threads=1)


@pytest.mark.parametrize("with_mean", [True, False])
@pytest.mark.parametrize("with_std", [True, False])
@pytest.mark.parametrize("layout", ["lanes", "walk"])
def test_a_scaler_in_front(with_mean: bool, with_std: bool, layout: Any) -> None:
    """Rows go through (value - mean) / scale first, to the bit, in every version of the kernel."""
    rows = prices()
    scaler, booster = fitted(rows, with_mean=with_mean, with_std=with_std)
    scaling = Scaling.from_sklearn(scaler)
    made = Forest.from_booster(booster, layout=layout, scaling=scaling)
    more = rows_for(made.scorer.checked, 3)
    assert np.isfinite(more[~np.isnan(more)]).all()
    for version in range(kernels.load().version + 1):
        forest = Forest(made.plan, version=version)
        for matrix in (rows, more):
            wanted = through(scaler, booster, matrix)
            assert forest.predict(matrix).tobytes() == wanted.tobytes()
            assert forest.predict(matrix[7:8])[0] == wanted[7]


@pytest.mark.parametrize(("name", "with_mean"), [("means", True), ("scales", False)])
def test_a_proof_sees_a_mean_or_scale_that_is_off_by_a_bit(name: str, with_mean: bool) -> None:
    """One bit of one mean is a difference; one of a scale is, where subtracting a mean doesn't round it away."""
    rows = prices(1)
    scaler, booster = fitted(rows, with_mean=with_mean)
    right = Scaling.from_sklearn(scaler)
    text = booster.model_to_string()

    def difference(scaling: Scaling) -> str | None:
        scorer = Scorer(memoryview(bytes(compile_text(text, scaling=scaling))))
        return first_difference(scorer, lambda matrix: through(scaler, booster, matrix))

    assert difference(right) is None
    values = {"means": right.means.copy(), "scales": right.scales.copy()}
    values[name][1] = np.nextafter(values[name][1], np.inf)
    assert "LightGBM" in str(difference(Scaling(**values)))


class Doubles(StandardScaler):
    """A subclass, which does something else."""

    def transform(self, X: Any, copy: bool | None = None) -> Any:
        return super().transform(X, copy) * 2


@pytest.mark.parametrize("kind", [MinMaxScaler, RobustScaler, Doubles])
def test_other_scalers_are_unsupported(kind: Any) -> None:
    """Only a StandardScaler, and of that very class, is two operations."""
    with pytest.raises(PlanUnsupported, match=f"isn't a StandardScaler: {kind.__name__}"):
        Scaling.from_sklearn(kind().fit(prices()))


@pytest.mark.parametrize(
    ("means", "scales", "why"),
    [
        ([0.0] * 6, [1.0] * 5 + [0.0], "a scale of 0.0"),
        ([0.0] * 6, [1.0] * 5 + [np.inf], "a scale of inf"),
        ([0.0] * 5 + [np.nan], [1.0] * 6, "a mean of nan"),
        ([0.0] * 5, [1.0] * 6, "means of shape"),
    ],
)
def test_numbers_that_dont_scale(means: list[float], scales: list[float], why: str) -> None:
    """Not finite, zero, or too few: no plan."""
    text = train(data()).model_to_string()
    with pytest.raises(PlanUnsupported, match=why):
        compile_text(text, scaling=Scaling(np.array(means), np.array(scales)))


def test_a_scaler_that_isnt_fitted() -> None:
    """A StandardScaler without numbers is refused with the reason."""
    with pytest.raises(PlanUnsupported, match="isn't fitted"):
        Scaling.from_sklearn(StandardScaler())


class Bundle:
    """What a LightGBM loader gives: a Booster for each output."""

    def __init__(self, boosters: dict[str, lightgbm.Booster]) -> None:
        self.boosters = boosters
        self.outputs = tuple(boosters)
        self.n_features = 6

    def predict(self, rows: Matrix) -> list[Matrix]:
        return [booster.predict(rows, num_threads=1) for booster in self.boosters.values()]


def made(scaler: Any, boosters: dict[str, lightgbm.Booster], rows: Matrix) -> tuple[list[bytearray], str]:
    """What a worker makes of a bundle."""
    model = ScaledModel(scaler, Bundle(boosters))
    sealed: Any = SimpleNamespace(
        metadata=SimpleNamespace(
            format="lightgbm-text", name="alpha", version="1.0.0", outputs=list(boosters),
            files={f"{name}.txt": SimpleNamespace(role="estimator", output=name) for name in boosters},
        ),
        files={f"{name}.txt": booster.model_to_string().encode() for name, booster in boosters.items()},
    )  # fmt: skip
    return plan.make(sealed, model, rows, model.predict(rows))


def test_a_worker_plans_a_bundle_with_a_scaler() -> None:
    """A plan for each estimator, all with the scaler; a scaler that writes into its rows changes nobody's rows."""
    rows = prices(2)
    scaler, first = fitted(rows, copy=False)
    _, second = fitted(prices(3))
    before = rows.copy()
    plans, why = made(scaler, {"1d": first, "7d": second}, rows)
    assert why == ""
    np.testing.assert_array_equal(rows, before)
    for one, booster in zip(plans, (first, second), strict=True):
        wanted = through(scaler, booster, rows)
        assert Forest(one).predict(rows).tobytes() == wanted.tobytes()


def test_a_worker_says_why_a_scaler_has_no_plan() -> None:
    """The reason names the scaler's class; the version serves by workers."""
    rows = np.nan_to_num(prices(4))
    _, booster = fitted(rows)
    plans, why = made(RobustScaler().fit(rows), {"1d": booster}, rows)
    assert (plans, why) == ([], "a scaler that isn't a StandardScaler: RobustScaler")
    patched = StandardScaler().fit(rows)
    patched.transform = lambda matrix: matrix * 2
    plans, why = made(patched, {"1d": booster}, rows)
    assert plans == []
    assert "the plan" in why
