"""The kernel's predictions are LightGBM's, bit for bit, in every layout and version."""

from __future__ import annotations

import threading
from typing import Any

import lightgbm
import numpy as np
import pytest
from tests.forest.models import OBJECTIVES, assert_equal, data, labels, train

from modeld.forest import Forest, KernelMissing, PlanUnsupported
from modeld.forest.compile import compile_text
from modeld.forest.proof import first_difference


@pytest.mark.parametrize("name", OBJECTIVES)
def test_objectives(name: str) -> None:
    """Each objective's output transform is LightGBM's own, to the bit."""
    kind, parameters = OBJECTIVES[name]
    booster = train(data(missing=0.1), kind, **({"objective": name} | parameters))
    assert assert_equal(booster) == {"lanes", "walk"}


@pytest.mark.parametrize(
    "parameters",
    [{}, {"zero_as_missing": True}, {"use_missing": False}, {"max_bin": 7, "zero_as_missing": True}],
    ids=str,
)
def test_missing_values(parameters: dict[str, Any]) -> None:
    """NaN and zero go where LightGBM sends them, by each node's missing type and default direction."""
    rows = data(missing=0.2, zeros=0.2)
    booster = train(rows, **parameters)
    assert assert_equal(booster, rows) == {"lanes", "walk"}


def test_default_directions_both_ways() -> None:
    """A model whose nodes send missing values left in some places and right in others."""
    booster = train(data(3, missing=0.3), trees=40)
    lines = booster.model_to_string().splitlines()
    kinds = {int(k) for line in lines if line.startswith("decision_type=") for k in line[14:].split()}
    assert {8, 10} <= kinds
    assert_equal(booster)


def test_categories() -> None:
    """Categorical splits by sets, with unseen, negative, fractional and huge categories."""
    rows = data(5, categories=2, missing=0.05)
    booster = train(rows, categories=2, trees=20)
    assert "num_cat=0" not in booster.model_to_string().split("Tree=1")[0]
    assert_equal(booster, rows)


def test_one_hot_categories_and_missing_as_zero() -> None:
    """Categories split one against the rest, beside zeros that are missing."""
    rows = data(6, categories=3, zeros=0.2)
    assert_equal(train(rows, categories=3, max_cat_to_onehot=64, zero_as_missing=True), rows)


@pytest.mark.parametrize("classes", [2, 3, 7])
def test_random_forest(classes: int) -> None:
    """A random forest's outputs are averages over its iterations before they are transformed."""
    booster = train(
        data(7),
        "class",
        objective="multiclass",
        num_class=max(classes, 3),
        boosting="rf",
        bagging_freq=1,
        bagging_fraction=0.6,
    )
    assert_equal(booster)
    assert_equal(booster, start_iteration=2, num_iteration=5)


@pytest.mark.parametrize("boosting", ["dart", "goss", "rf"])
def test_boostings(boosting: str) -> None:
    """Other ways of boosting leave models of the same kind."""
    extra = {"bagging_freq": 1, "bagging_fraction": 0.5} if boosting == "rf" else {}
    assert_equal(train(data(8), "binary", objective="binary", boosting=boosting, **extra))


@pytest.mark.parametrize("iterations", [(0, 1), (0, 5), (3, 4), (10, 100), (4, -1)])
def test_some_iterations(iterations: tuple[int, int]) -> None:
    """start_iteration and num_iteration choose as in Booster.predict."""
    start, count = iterations
    booster = train(data(9), "class", objective="multiclass", num_class=3)
    assert_equal(booster, start_iteration=start, num_iteration=count)


def test_best_iteration_by_default() -> None:
    """A booster that stopped early predicts with its best iteration, and so does its forest."""
    rows = data(10)
    held_out = data(11)
    booster = lightgbm.train(
        {
            "objective": "regression",
            "verbosity": -1,
            "num_threads": 1,
            "learning_rate": 0.6,
            "num_leaves": 31,
        },
        lightgbm.Dataset(rows, labels(rows, "real")),
        60,
        valid_sets=[lightgbm.Dataset(held_out, labels(held_out, "real"))],
        keep_training_booster=True,
        callbacks=[lightgbm.early_stopping(3, verbose=False)],
    )
    assert 0 < booster.best_iteration < booster.current_iteration()
    forest = Forest.from_booster(booster)
    assert forest.predict(held_out).tobytes() == booster.predict(held_out, num_threads=1).tobytes()


def test_trees_with_one_leaf() -> None:
    """Trees that never split, alone and among others."""
    rows = data(12)
    constant = train(rows, min_data_in_leaf=1000, min_gain_to_split=1e9)
    assert "num_leaves=1" in constant.model_to_string()
    assert_equal(constant)
    mixed = train(rows, "class", objective="multiclass", num_class=3, min_gain_to_split=3.0, trees=40)
    leaves = {line for line in mixed.model_to_string().splitlines() if line.startswith("num_leaves=")}
    assert "num_leaves=1" in leaves
    assert len(leaves) > 1
    assert_equal(mixed)


def test_large_trees_and_many_thresholds_are_walked() -> None:
    """What doesn't fit bytes (256 leaves, 254 thresholds of a feature, 256 columns) gets the walk layout."""
    rows = data(13, rows=3000)
    assert assert_equal(train(rows, num_leaves=400, trees=3)) == {"walk"}
    assert assert_equal(train(rows, max_bin=2000, trees=150, min_data_in_bin=1)) == {"walk"}
    assert assert_equal(train(data(14, features=300), trees=150)) == {"walk"}


@pytest.mark.parametrize("trees", [1, 63, 64, 65, 129, 256, 257, 330])
def test_numbers_of_trees(trees: int) -> None:
    """Vectors and chunks of trees that are full, one over, and one under."""
    booster = train(data(15, missing=0.1), trees=trees, num_leaves=4)
    assert assert_equal(booster) == {"lanes", "walk"}


@pytest.mark.parametrize("rows", [0, 1, 7, 8, 9, 19, 20, 31, 32, 71, 72, 255, 256, 257, 1000])
def test_numbers_of_rows(rows: int) -> None:
    """Portions of rows that are full, one over, and one under; none at all."""
    booster = train(data(16), "class", objective="multiclass", num_class=3)
    matrix = data(17, rows=max(rows, 1))[:rows]
    for layout in ("lanes", "walk"):
        got = Forest.from_booster(booster, layout=layout).predict(matrix)
        assert got.shape == (rows, 3)
        if rows:
            assert got.tobytes() == booster.predict(matrix, num_threads=1).tobytes()


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.float64])
def test_types_and_strides(dtype: Any) -> None:
    """float32, whole numbers, Fortran order, strides, odd addresses, the other byte order: as LightGBM takes them."""
    booster = train(data(18))
    matrix = (data(19, rows=80) * 3).astype(dtype)
    shifted = np.empty(matrix.nbytes + 1, np.uint8)[1:].view(dtype).reshape(matrix.shape)
    shifted[:] = matrix
    assert not shifted.flags.aligned
    swapped = matrix.astype(matrix.dtype.newbyteorder())
    for view in (matrix, np.asfortranarray(matrix), matrix[::2], matrix[::-1], shifted):
        assert Forest.from_booster(booster).predict(view).tobytes() == booster.predict(view).tobytes()
    assert Forest.from_booster(booster).predict(swapped).tobytes() == booster.predict(matrix).tobytes()


def test_custom_objective() -> None:
    """A model of an objective of one's own gives plain sums, also for several outputs."""

    def objective(score: Any, dataset: Any) -> tuple[Any, Any]:
        return score - dataset.get_label(), np.ones_like(score)

    assert_equal(train(data(20), objective=objective))


def test_continued_training_and_refit() -> None:
    """Trees of several trainings in one model: other bins, other missing types, refitted leaves."""
    first = data(21, missing=0.2)
    booster = train(first)
    second = np.nan_to_num(data(22, zeros=0.3))
    more = lightgbm.train(
        {"objective": "regression", "zero_as_missing": True, "verbosity": -1, "num_threads": 1},
        lightgbm.Dataset(second, labels(second, "real")),
        10,
        init_model=booster,
    )
    assert_equal(more)
    assert_equal(more.refit(second, labels(second, "real")))


def test_leaves_named_otherwise() -> None:
    """A tree whose leftmost leaf isn't leaf 0, as other tools write them."""
    booster = train(data(23), trees=1, num_leaves=3)
    lines = booster.model_to_string().split("\n")
    for at, line in enumerate(lines):
        if line.startswith("leaf_value="):
            a, b, c = line[11:].split()
            lines[at] = f"leaf_value={c} {b} {a}"
        if line.startswith(("left_child=", "right_child=")):
            key, values = line.split("=")
            swap = {"-1": "-3", "-3": "-1"}
            lines[at] = key + "=" + " ".join(swap.get(v, v) for v in values.split())
    text = "\n".join(line for line in lines if not line.startswith("tree_sizes="))
    for layout in ("lanes", "walk"):
        forest = Forest.from_text(text, layout=layout)
        assert forest.predict(data(24)).tobytes() == booster.predict(data(24), num_threads=1).tobytes()


def test_linear_trees_are_unsupported() -> None:
    """Linear trees are refused with their name, not served wrongly."""
    with pytest.raises(PlanUnsupported, match="linear trees"):
        Forest.from_booster(train(data(25), linear_tree=True))


@pytest.mark.parametrize(
    ("old", "new", "why"),
    [
        ("objective=regression", "objective=novel", "objective 'novel'"),
        ("num_tree_per_iteration=1", "num_tree_per_iteration=5", "12 trees for 5 outputs"),
        ("num_tree_per_iteration=1", "num_tree_per_iteration=-1", "-1 outputs"),
        ("num_class=1\nnum_tree_per_iteration=1", "num_class=0", "0 outputs"),
        ("max_feature_idx=5", "max_feature_idx=0", "a feature that the model doesn't have"),
        ("max_feature_idx=5", "max_feature_idx=-1", "0 features"),
        ("max_feature_idx=5", "max_feature_idx=99999999999", "100000000000 features"),
        ("num_leaves=", "num_leaves=99999999999999999999", "isn't as LightGBM writes it"),
        ("num_leaves=", "num_leaves=-", "isn't as LightGBM writes it"),
        ("\nleft_child=1", "\nleft_child=0", "a child that isn't behind its parent"),
        ("\nleaf_value=", "\nleaf_value=nan ", "leaf_value"),
        ("\nthreshold=", "\nthreshold=1 ", "threshold"),
        ("\nsplit_feature=", "\nsplit_features=", "split_feature"),
    ],
)
def test_text_that_isnt_lightgbms(old: str, new: str, why: str) -> None:
    """Text that can't be understood is refused with the reason."""
    text = train(data(26)).model_to_string()
    assert old in text
    with pytest.raises(PlanUnsupported, match=why):
        compile_text(text.replace(old, new))


def test_what_is_no_model_is_told_in_one_sentence() -> None:
    """A wrapper of scikit-learn's kind, text that isn't a model's, bytes, a file that was cut off."""
    with pytest.raises(TypeError, match="LGBMClassifier isn't a lightgbm"):
        Forest.from_booster(lightgbm.LGBMClassifier())
    whole = train(data(26)).model_to_string()
    for text, why in (
        ("junk", "its header has no num_class"),
        (whole.encode(), "a str, not bytes"),
        (whole[: whole.index("end of trees")], "cut off"),
    ):
        with pytest.raises(PlanUnsupported, match=why):
            Forest.from_text(text)


def test_a_proof_sees_one_bit() -> None:
    """The proof finds a leaf that is off by its last bit, a threshold that is, and a default direction."""
    booster = train(data(27, missing=0.2), trees=30)
    text = booster.model_to_string()

    def off_by_a_bit(key: str, at: int) -> str:
        head, _, rest = text.partition(f"\n{key}=")
        line, _, tail = rest.partition("\n")
        values = line.split()
        values[at] = repr(float(np.nextafter(float(values[at]), np.inf)))
        return f"{head}\n{key}={' '.join(values)}\n{tail}"

    for wrong in (
        off_by_a_bit("leaf_value", 0),
        off_by_a_bit("threshold", 0),
        text.replace("decision_type=10 ", "decision_type=8 ", 1),
    ):
        assert wrong != text
        scorer = Forest.from_text(wrong).scorer
        assert "LightGBM" in str(first_difference(scorer, lambda rows: booster.predict(rows, num_threads=1)))


def test_threads_share_a_forest() -> None:
    """Several threads may predict with one forest at once."""
    booster = train(data(28, missing=0.1), trees=100)
    forest = Forest.from_booster(booster)
    matrix = data(29, rows=2000)
    wanted = booster.predict(matrix, num_threads=1).tobytes()
    wrong: list[bytes] = []

    def run() -> None:
        wrong.extend(got for _ in range(5) if (got := forest.predict(matrix).tobytes()) != wanted)

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_wrong_shapes_are_refused() -> None:
    """A matrix of another width, or a bare row, is a ValueError and not a read out of bounds."""
    forest = Forest.from_booster(train(data(30)))
    for shape in ((3, 5), (3, 7), (6,), (1, 1, 6)):
        with pytest.raises(ValueError, match="takes"):
            forest.predict(np.zeros(shape))
    with pytest.raises(ValueError, match="rows"):
        forest.scorer.score_bytes(bytes(47), 1)


def test_without_a_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    """An install without the kernel imports, compiles plans, and says what is missing when one is to be evaluated."""
    booster = train(data(31))
    monkeypatch.setenv("MODELD_NO_KERNEL", "1")
    assert compile_text(booster.model_to_string())
    with pytest.raises(KernelMissing, match="MODELD_NO_KERNEL"):
        Forest.from_booster(booster)
