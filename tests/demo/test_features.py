"""The features look back, never ahead."""

from __future__ import annotations

import numpy as np
import pytest

from modeld.demo.features import FEATURE_NAMES, WARM_UP_DAYS, Closes, feature_cube, load_closes, make_rows


def some_prices(days: int = 300, shares: int = 3) -> np.ndarray:
    steps = np.random.default_rng(5).normal(0, 0.02, (days, shares))
    return 100 * np.exp(np.cumsum(steps, axis=0))


def column(name: str) -> int:
    return FEATURE_NAMES.index(name)


def test_the_bundled_prices_are_complete() -> None:
    """20 shares, 8,313 days in order, and every price a positive number."""
    closes = load_closes()
    assert closes.prices.shape == (8313, 20)
    assert len(closes.shares) == 20
    assert (closes.prices > 0).all()
    assert (np.diff(closes.dates) > np.timedelta64(0, "D")).all()
    assert (str(closes.dates[0]), str(closes.dates[-1])) == ("1990-01-02", "2022-12-28")


@pytest.mark.parametrize("day", [WARM_UP_DAYS, 270, 298])
def test_the_future_does_not_change_a_feature(day: int) -> None:
    """Whatever happens after a day, all features up to that day stay equal to the bit."""
    prices = some_prices()
    other = prices.copy()
    other[day + 1 :] *= np.linspace(0.3, 4, len(other) - day - 1)[:, None]
    before, after = feature_cube(prices), feature_cube(other)
    assert before[: day + 1].tobytes() == after[: day + 1].tobytes()
    assert not np.array_equal(before[day + 1], after[day + 1])


def test_the_present_does_change_every_feature() -> None:
    """The look-ahead test can fail: each feature of a day does react to that day's close."""
    prices = some_prices()
    other = prices.copy()
    other[280] *= 1.5
    assert (feature_cube(prices)[280] != feature_cube(other)[280]).all()


def test_features_by_hand() -> None:
    """On a price that grows at a steady rate each family has the value that its definition gives."""
    prices = np.exp2(np.arange(300.0) / 10)[:, None]
    last = feature_cube(prices)[-1, 0]
    assert last[column("mom_5")] == pytest.approx(0.5 * np.log(2))
    assert last[column("vol_20")] == pytest.approx(0, abs=1e-12)
    assert last[column("rsi_14")] == pytest.approx(100)
    assert last[column("sma_ratio_5")] == pytest.approx(5 / np.exp2(-np.arange(5) / 10).sum() - 1)


def test_a_price_that_stands_still_is_neither_bought_nor_sold() -> None:
    """Without any move RSI is 50, not a division by zero."""
    assert feature_cube(np.full((300, 1), 7.0))[-1, 0, column("rsi_14")] == 50


def test_rows_are_tidy_and_complete() -> None:
    """Rows run by day and then share, hold no NaN, and the target is the next day's return."""
    prices = some_prices(days=260)
    dates = np.datetime64("2020-01-01") + np.arange(260)
    rows = make_rows(Closes(dates, ("A", "B", "C"), prices))
    assert rows.features.shape == ((260 - WARM_UP_DAYS - 1) * 3, len(FEATURE_NAMES))
    assert np.isfinite(rows.features).all()
    assert rows.shares[:4].tolist() == [0, 1, 2, 0]
    assert rows.dates[0] == dates[WARM_UP_DAYS]
    assert rows.target[1] == prices[WARM_UP_DAYS + 1, 1] / prices[WARM_UP_DAYS, 1] - 1


def test_feature_names_are_distinct() -> None:
    """24 names, none twice."""
    assert len(set(FEATURE_NAMES)) == len(FEATURE_NAMES) == 24
