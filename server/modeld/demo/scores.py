"""How good predictions of returns were, from the predictions and what then happened. numpy alone."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]

#: Trading days in a year, for the Sharpe ratio.
DAYS_PER_YEAR = 252


def score(predicted: Floats, realised: Floats, shares: int) -> dict[str, float]:
    """The metrics of predictions ordered by day and then share, each day with the same number of shares.

    Args:
        predicted: predicted next-day returns, float64 `[days * shares]`.
        realised: the returns that followed, same shape.
        shares: shares a day.

    Returns:
        `ic`: mean over the days of Spearman's rank correlation across the shares; `directional_accuracy`: the
        part of the rows that moved whose sign was right; `sharpe`: yearly Sharpe ratio of a long/short
        portfolio weighted by predicted rank, before costs; `rmse`: root of the mean squared error.

    Raises:
        ValueError: the rows aren't whole days.
    """
    by_day, then = predicted.reshape(-1, shares), realised.reshape(-1, shares)
    moved = realised != 0
    weights = _centred_ranks(by_day)
    gross = np.abs(weights).sum(axis=1, keepdims=True)
    profit = (weights / np.where(gross == 0, 1, gross) * then).sum(axis=1)
    deviation = profit.std()
    return {
        "ic": float(daily_ic(by_day, then).mean()),
        "directional_accuracy": float((np.sign(predicted) == np.sign(realised))[moved].mean()),
        "sharpe": float(profit.mean() / deviation * np.sqrt(DAYS_PER_YEAR)) if deviation else 0.0,
        "rmse": float(np.sqrt(np.mean((predicted - realised) ** 2))),
    }


def daily_ic(predicted: Floats, realised: Floats) -> Floats:
    """Spearman's rank correlation of each row of two `[d, s]` arrays; 0 on a day that ranks nothing."""
    left, right = _centred_ranks(predicted), _centred_ranks(realised)
    norm = np.sqrt((left**2).sum(axis=1) * (right**2).sum(axis=1))
    return np.asarray((left * right).sum(axis=1) / np.where(norm == 0, 1, norm), dtype=np.float64)


def _centred_ranks(values: Floats) -> Floats:
    """Ranks within each row, ties sharing their mean rank, less the mean: `[d, s]` to `[d, s]`."""
    here, there = values[:, :, None], values[:, None, :]
    below_or_half = (there < here).sum(axis=2) + 0.5 * (there == here).sum(axis=2)
    return np.asarray(below_or_half - values.shape[1] / 2, dtype=np.float64)
