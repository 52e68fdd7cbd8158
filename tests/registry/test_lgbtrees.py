"""Which LightGBM texts are trees, and which would make LightGBM read what isn't there."""

from __future__ import annotations

import re
from typing import Any

import lightgbm
import numpy as np
import pytest

from modelreg.errors import LoadError
from modelreg.lgbtext import check_complete
from modelreg.lgbtrees import check_trees


def text(rounds: int = 5, **parameters: Any) -> bytes:
    chance = np.random.default_rng(1)
    matrix = chance.normal(size=(600, 4))
    matrix[:, 3] = chance.integers(0, 40, 600)
    target = matrix[:, 0] - matrix[:, 1] + 5 * (matrix[:, 3] % 7 > 2)
    if parameters.get("objective") == "multiclass":
        target = np.digitize(target, [0.5, 4])
    categorical = [3] if "linear_tree" not in parameters else []
    booster = lightgbm.train(
        {"verbosity": -1, "num_threads": 1, "num_leaves": 15, "min_data_per_group": 5, **parameters},
        lightgbm.Dataset(matrix, target, categorical_feature=categorical),
        rounds,
    )
    model: str = booster.model_to_string()
    return model.encode()


def check(data: bytes) -> None:
    starts = [match.start() for match in re.finditer(rb"(?m)^Tree=", data)]
    ends = [*starts[1:], data.index(b"end of trees")]
    sizes = b" ".join(b"%d" % (end - start) for start, end in zip(starts, ends, strict=True))
    data = re.sub(rb"(?m)^tree_sizes=.*$", b"tree_sizes=" + sizes, data)
    check_trees(data, check_complete(data, where="m.txt"), where="m.txt")


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"linear_tree": True},
        {"min_data_in_leaf": 599},
        {"objective": "multiclass", "num_class": 3},
        {"boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.5},
        {"boosting": "dart"},
    ],
)
def test_what_lightgbm_writes_is_trees(parameters: dict[str, Any]) -> None:
    """With and without sizes in the header: numeric, categorical and linear splits, single leaves, several classes."""
    data = text(**parameters)
    check(data)
    old = re.sub(rb"(?m)^tree_sizes=.*\n", b"", data)
    check_trees(old, check_complete(old, where="m.txt"), where="m.txt")


def changed(data: bytes, name: bytes, wrong: bytes) -> bytes:
    """The first number of the first line of that name, replaced."""
    assert re.search(rb"(?m)^" + name + rb"=-?[\d.]", data)
    return re.sub(rb"(?m)^(" + name + rb"=)[^ \n]+", rb"\g<1>" + wrong, data, count=1)


@pytest.mark.parametrize(
    ("name", "wrong", "problem"),
    [
        (b"split_feature", b"4", "feature 4, of 4"),
        (b"split_feature", b"-1", "feature -1, of 4"),
        (b"split_feature", b"2147483647", "feature 2147483647, of 4"),
        (b"split_feature", b"99999999999999999999", "of 4"),
        (b"split_feature", b"x", "isn't as LightGBM writes it"),
        (b"left_child", b"0", "left child 0"),
        (b"left_child", b"99999", "left child 99999"),
        (b"right_child", b"-16", "right child -16"),
        (b"num_leaves", b"14", "numbers where"),
        (b"num_leaves", b"0", "without leaves"),
        (b"leaf_value", b"1 2", "numbers where"),
        (b"threshold", b"", "numbers where"),
    ],
)
def test_a_number_that_leads_astray_is_told(name: bytes, wrong: bytes, problem: str) -> None:
    """A feature, a child or a count that isn't there, in a branch that no test row may ever take."""
    with pytest.raises(LoadError, match=re.escape(problem)):
        check(changed(text(), name, wrong))


@pytest.mark.parametrize(
    ("name", "wrong"), [(b"cat_boundaries", b"1"), (b"num_cat", b"99"), (b"cat_threshold", b"")]
)
def test_sets_of_categories_have_to_be_there(name: bytes, wrong: bytes) -> None:
    """A categorical split looks its set up by number, in memory that nobody has checked."""
    with pytest.raises(LoadError):
        check(changed(text(), name, wrong))


def test_a_split_that_says_it_is_categorical_needs_a_set() -> None:
    """One flipped bit makes a threshold the number of a set."""
    data = text(linear_tree=True)  # no categories in it
    with pytest.raises(LoadError, match="set of categories"):
        check(changed(data, b"decision_type", b"1"))


def test_a_linear_leaf_needs_its_features() -> None:
    """Coefficients belong to features of the model."""
    data = text(linear_tree=True)
    with pytest.raises(LoadError, match="linear leaf"):
        check(re.sub(rb"(?m)^(leaf_features= *)\d+", rb"\g<1>77", data, count=1))


def test_a_line_that_is_there_twice() -> None:
    """Which of the two would LightGBM take?"""
    data = text()
    line = re.search(rb"(?m)^split_feature=.*\n", data)
    assert line is not None
    with pytest.raises(LoadError, match="twice"):
        check(data.replace(line[0], line[0] + line[0], 1))
