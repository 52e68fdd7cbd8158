"""Features of daily prices, numpy alone: what is known after a day's close, to predict the next day's return.

Every feature of day t is computed from the closes of day t and the days before it; the target of day t is the
return from its close to the close of day t + 1. Nothing else crosses from the future into the past.
"""

from __future__ import annotations

import csv
import gzip
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Dates = NDArray[np.datetime64]

#: Windows, in trading days.
MOMENTUM_DAYS = (1, 2, 3, 5, 10, 20, 60, 120, 250)
VOLATILITY_DAYS = (5, 10, 20, 60, 120)
RSI_DAYS = (7, 14, 21, 28)
SMA_DAYS = (5, 10, 20, 50, 100, 200)

#: The features' names, in the order of the columns.
FEATURE_NAMES: tuple[str, ...] = (
    *(f"mom_{days}" for days in MOMENTUM_DAYS),
    *(f"vol_{days}" for days in VOLATILITY_DAYS),
    *(f"rsi_{days}" for days in RSI_DAYS),
    *(f"sma_ratio_{days}" for days in SMA_DAYS),
)
#: Trading days before the first one that has every feature.
WARM_UP_DAYS = max(*MOMENTUM_DAYS, *VOLATILITY_DAYS, *RSI_DAYS, *SMA_DAYS)

DATA_FILE = Path(__file__).with_name("sp500_closes.csv.gz")


@dataclass(frozen=True, slots=True, eq=False)
class Closes:
    """Closing prices: `prices[day, share]`, float64 `[d, s]`."""

    dates: Dates
    shares: tuple[str, ...]
    prices: Floats


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Tidy rows, ordered by day and then by share: one for each day and share that has features and a target.

    Attributes:
        dates: the day of each row, datetime64[D] `[n]`.
        shares: the share's column in `Closes`, int64 `[n]`.
        features: float64 `[n, 24]`, columns as `FEATURE_NAMES`.
        target: the next day's return, a fraction, float64 `[n]`.
    """

    dates: Dates
    shares: NDArray[np.int64]
    features: Floats
    target: Floats

    def where(self, mask: NDArray[np.bool_]) -> Rows:
        """The rows that the mask `[n]` picks, in the same order."""
        return Rows(self.dates[mask], self.shares[mask], self.features[mask], self.target[mask])


def load_closes(path: Path = DATA_FILE) -> Closes:
    """Read the bundled prices.

    Raises:
        OSError: the file can't be read.
        ValueError: a price isn't a number.
    """
    with gzip.open(path, "rt", encoding="ascii", newline="") as file:
        header, *lines = csv.reader(file)
    return Closes(
        dates=np.array([line[0] for line in lines], dtype="datetime64[D]"),
        shares=tuple(header[1:]),
        prices=np.array([line[1:] for line in lines], dtype=np.float64),
    )


def feature_cube(prices: Floats) -> Floats:
    """All features of all days and shares: `[d, s]` prices to `[d, s, 24]`, NaN until a window is full."""
    log_prices = np.log(prices)
    returns = np.vstack([np.full((1, prices.shape[1]), np.nan), np.diff(log_prices, axis=0)])
    columns = [
        *(_momentum(log_prices, days) for days in MOMENTUM_DAYS),
        *(_rolling(returns, days).std(axis=-1) for days in VOLATILITY_DAYS),
        *(_rsi(returns, days) for days in RSI_DAYS),
        *(prices / _rolling(prices, days).mean(axis=-1) - 1 for days in SMA_DAYS),
    ]
    return np.stack(columns, axis=-1)


def make_rows(closes: Closes) -> Rows:
    """The tidy rows of all days that have every feature and a next day."""
    prices = closes.prices
    days, shares = prices.shape
    target = prices[1:] / prices[:-1] - 1
    usable = slice(WARM_UP_DAYS, days - 1)
    features = feature_cube(prices)[usable]
    return Rows(
        dates=np.repeat(closes.dates[usable], shares),
        shares=np.tile(np.arange(shares), len(features)),
        features=features.reshape(-1, features.shape[-1]),
        target=target[usable].ravel(),
    )


def _momentum(log_prices: Floats, days: int) -> Floats:
    out = np.full_like(log_prices, np.nan)
    out[days:] = log_prices[days:] - log_prices[:-days]
    return out


def _rsi(returns: Floats, days: int) -> Floats:
    """Cutler's relative strength index, 0 to 100: plain means over the window, so no memory beyond it."""
    gains = _rolling(np.maximum(returns, 0), days).mean(axis=-1)
    losses = _rolling(np.maximum(-returns, 0), days).mean(axis=-1)
    moved = gains + losses
    # A price that didn't move at all was neither bought nor sold strongly: 50.
    return np.where(moved == 0, 50.0, 100 * gains / np.where(moved == 0, 1.0, moved))


def _rolling(values: Floats, days: int) -> Floats:
    """`[d, s]` to `[d, s, days]`: each day's window, ending with that day; NaN where it isn't full."""
    padding = np.full((days - 1, values.shape[1]), np.nan)
    return sliding_window_view(np.vstack([padding, values]), days, axis=0)
