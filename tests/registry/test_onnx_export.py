"""LightGBM text converted to ONNX: the same answers as float32 allows, or a refusal."""

from __future__ import annotations

import lightgbm
import numpy as np
import onnxruntime
import pytest
from tests.registry.conftest import FEATURES, features_and_returns

from modelreg import LoadError, NotFoundError
from modelreg.onnxconvert import compare, convert, round_down


def trained(objective: str, **more) -> lightgbm.Booster:
    matrix, target = features_and_returns("AAPL", 400)
    matrix = matrix.copy()
    matrix[::7, 1] = np.nan if more.pop("holes", True) else matrix[::7, 1]
    if objective in ("binary", "cross_entropy", "cross_entropy_lambda"):
        target = (target > 0).astype(float)
    elif objective.startswith("multiclass"):
        target = np.digitize(target, np.quantile(target, [1 / 3, 2 / 3]))
        more["num_class"] = 3
    elif objective in ("poisson", "gamma", "tweedie"):
        target = np.abs(target) + 0.01
    parameters = {
        "objective": objective,
        "verbosity": -1,
        "num_leaves": 7,
        "num_threads": 1,
        "seed": 1,
        **more,
    }
    return lightgbm.train(parameters, lightgbm.Dataset(matrix, target, feature_name=list(FEATURES)), 8)


def rows() -> np.ndarray:
    matrix, _ = features_and_returns("KO", 200)
    matrix = matrix.copy()
    matrix[::5, 0] = np.nan
    matrix[1::5, 2] = 0.0
    return matrix


@pytest.mark.parametrize(
    ("objective", "more"),
    [
        ("regression", {}),
        ("regression", {"reg_sqrt": True}),
        ("regression", {"holes": False, "use_missing": False}),
        ("regression", {"boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.7}),
        ("regression", {"min_data_in_leaf": 10_000}),
        ("quantile", {}),
        ("binary", {"sigmoid": 2.0}),
        ("cross_entropy", {}),
        ("cross_entropy_lambda", {}),
        ("poisson", {}),
        ("multiclass", {}),
        ("multiclassova", {}),
    ],
)
def test_each_objective_answers_as_the_booster(objective, more):
    """Missing values, zeros, stumps, averaged forests, several classes: within float32 of the Booster."""
    booster = trained(objective, **more)
    data = convert({"p": booster.dump_model()}, len(FEATURES))
    compare(data, {"p": booster}, rows())
    answer = onnxruntime.InferenceSession(data).run(["p"], {"rows": rows().astype(np.float32)})[0]
    assert answer.shape == (len(rows()), 3 if objective.startswith("multiclass") else 1)


def test_the_comparison_can_fail():
    """Another model's conversion isn't let through."""
    other = convert({"p": trained("regression", seed=2, num_leaves=4).dump_model()}, len(FEATURES))
    with pytest.raises(LoadError, match="more than float32 explains"):
        compare(other, {"p": trained("regression")}, rows())


def test_thresholds_are_rounded_down():
    """x <= t is then true for just the same float32 numbers x."""
    for threshold in (0.1, -0.1, 1e-50, -1e-50, 1e300, -1e300, 0.5, 16777217.0):
        rounded = round_down(threshold)
        assert rounded <= threshold
        with np.errstate(over="ignore"):
            assert float(np.nextafter(np.float32(rounded), np.float32(np.inf))) > threshold


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"decision_type": "=="}, "categories"),
        ({"missing_type": "Zero", "default_left": False, "threshold": 1.0}, "zeros that count as missing"),
    ],
)
def test_splits_without_a_counterpart_are_refused(change, problem):
    """They are named, and nothing is converted."""
    dumped = trained("regression").dump_model()
    dumped["tree_info"][0]["tree_structure"].update(change)
    with pytest.raises(LoadError, match=problem):
        convert({"p": dumped}, len(FEATURES))


def test_linear_trees_and_unknown_objectives_are_refused():
    """Half a model would be a wrong model."""
    with pytest.raises(LoadError, match="linear trees"):
        convert({"p": trained("regression", linear_tree=True, holes=False).dump_model()}, len(FEATURES))
    with pytest.raises(LoadError, match="'astrology' can't be converted"):
        convert({"p": {**trained("regression").dump_model(), "objective": "astrology"}}, len(FEATURES))


@pytest.mark.parametrize("golden", [None, False])
def test_export_converts_every_output(registry, models, tmp_path, golden):
    """One graph with an output for each estimator, made in a process of its own; what was added goes before."""
    files = {"1d": models["a"].path, "7d": models["b"].path}
    made = registry.register("m", files, version="1.0.0", golden=golden)
    path = registry.export(made.ref, format="onnx", to=tmp_path / "m.onnx")
    session = onnxruntime.InferenceSession(path.read_bytes())
    assert [output.name for output in session.get_outputs()] == ["1d", "7d"]
    compare(path.read_bytes(), {"1d": models["a"].booster, "7d": models["b"].booster}, rows())
    (tmp_path / "own.onnx").write_bytes(b"own")
    registry.add_export(made.ref, tmp_path / "own.onnx", format="onnx")
    assert registry.export(made.ref, format="onnx", to=tmp_path / "2.onnx").read_bytes() == b"own"


def test_export_refuses_what_it_cant_convert(registry, models, tmp_path):
    """A file that isn't a model: a LoadError, and no file is left; pmml isn't made at all."""
    (tmp_path / "bad.txt").write_bytes(
        models["a"].path.read_bytes().replace(b"objective=regression", b"objective=astrology ")
    )
    made = registry.register("m", tmp_path / "bad.txt", version="1.0.0", golden=False)
    with pytest.raises(LoadError, match=r"m:1\.0\.0"):
        registry.export(made.ref, format="onnx", to=tmp_path / "m.onnx")
    assert not (tmp_path / "m.onnx").exists()
    with pytest.raises(NotFoundError, match="add-export"):
        registry.export(made.ref, format="pmml")
