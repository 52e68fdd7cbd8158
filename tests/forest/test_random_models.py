"""Models trained with settings that nobody chose are bit-equal on all rows."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.forest.models import OBJECTIVES, assert_equal, data, labels, train

from modeld.forest.proof import ODD

_SHORT = 25


@st.composite
def trainings(draw: st.DrawFn) -> dict[str, Any]:
    """What to train: data and parameters."""
    name = draw(st.sampled_from(sorted(OBJECTIVES)))
    kind, needs = OBJECTIVES[name]
    boosting = draw(st.sampled_from(["gbdt", "gbdt", "dart", "rf"]))
    features = draw(st.integers(2, 12))
    categories = draw(st.integers(0, min(3, features - 1)))
    parameters: dict[str, Any] = {"objective": name} | needs
    parameters |= {
        "boosting": boosting,
        "num_leaves": draw(st.sampled_from([2, 3, 8, 31, 300])),
        "max_depth": draw(st.sampled_from([-1, 1, 4])),
        "max_bin": draw(st.sampled_from([3, 15, 255, 1000])),
        "min_data_in_leaf": draw(st.sampled_from([1, 5, 40])),
        "learning_rate": draw(st.sampled_from([0.01, 0.1, 0.9])),
        "zero_as_missing": draw(st.booleans()),
        "use_missing": draw(st.booleans()),
        "extra_trees": draw(st.booleans()),
        "max_cat_to_onehot": draw(st.sampled_from([1, 4, 64])),
        "seed": draw(st.integers(0, 1000)),
    }
    if boosting == "rf":
        parameters |= {"bagging_freq": 1, "bagging_fraction": 0.5}
    seed = draw(st.integers(0, 10_000))
    rows = draw(st.sampled_from([60, 400, 1200]))
    matrix = data(
        seed,
        rows,
        features,
        missing=draw(st.sampled_from([0.0, 0.05, 0.5])),
        zeros=draw(st.sampled_from([0.0, 0.3])),
        categories=categories,
    )
    target = labels(matrix, kind)
    # Some columns in other units: denormals, prices, huge numbers.
    scale = draw(st.sampled_from([1e-310, 1e-36, 1e-3, 1.0, 1e5, 1e200]))
    matrix[:, 0] *= scale
    return {
        "matrix": matrix,
        "target": target,
        "kind": kind,
        "categories": categories,
        "trees": draw(st.integers(1, 30)),
        **parameters,
    }


def check_equal(training: dict[str, Any]) -> None:
    matrix = training["matrix"]
    booster = train(**training)
    odd = np.random.default_rng(0).choice(np.array(ODD), matrix.shape)
    assert_equal(booster, matrix, odd)


def test_random_models(campaign: int) -> None:
    """Any objective, boosting, missing handling, categories, depth, classes and size."""
    run = settings(
        max_examples=_SHORT * campaign,
        deadline=None,
        derandomize=campaign == 1,
        suppress_health_check=list(HealthCheck),
    )
    run(given(trainings())(check_equal))()
