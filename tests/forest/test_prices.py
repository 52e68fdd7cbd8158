"""Models of real prices: ties, repeated values and features in their own units, as random numbers never have them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from tests.forest.models import Matrix, assert_equal, train

from modeld.demo.features import load_closes, make_rows


@pytest.fixture(scope="module")
def real() -> tuple[Matrix, Matrix]:
    """Features and next-day returns of the demo's bundled prices: some 3,000 rows, with holes as real data has."""
    rows = make_rows(load_closes())
    step = max(1, len(rows.target) // 3000)
    matrix = rows.features[::step].copy()
    matrix[np.random.default_rng(5).random(matrix.shape) < 0.02] = np.nan
    return matrix, rows.target[::step]


@pytest.mark.parametrize(
    "parameters",
    [
        {},
        {"num_leaves": 63, "trees": 60},
        {"objective": "binary"},
        {"objective": "multiclass", "num_class": 3},
        {"objective": "quantile", "alpha": 0.9, "boosting": "dart"},
        {"boosting": "rf", "bagging_freq": 1, "bagging_fraction": 0.5, "zero_as_missing": True},
    ],
    ids=str,
)
def test_models_of_real_prices(real: tuple[Matrix, Matrix], parameters: dict[str, Any]) -> None:
    """Trained on momentum, volatility, RSI and averages of real closes, plans give LightGBM's bits on all the rows."""
    matrix, returns = real
    target = returns
    if parameters.get("objective") == "binary":
        target = (returns > 0).astype(np.float64)
    if "num_class" in parameters:
        target = np.digitize(returns, np.quantile(returns, [1 / 3, 2 / 3])).astype(np.float64)
    # Prices have ticks: rounded features fall on thresholds and on each other.
    ticks = np.round(matrix, 3)
    booster = train(ticks, target=target, **parameters)
    assert assert_equal(booster, matrix, ticks) >= {"walk"}
