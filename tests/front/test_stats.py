"""Histograms against numpy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeld.front.stats import Histogram, Stats, lower_bound_us


@given(st.lists(st.integers(0, 2**30 - 1), min_size=1, max_size=200))
def test_quantiles_are_those_of_numpy_within_a_bucket(values):
    """The lower bound of the bucket: exact below 1,024 µs, at most 1/16 below the true value above."""
    histogram = Histogram()
    for us in values:
        histogram.add(us)
    fractions = (0.0, 0.5, 0.9, 0.99, 1.0)
    for got, fraction in zip(histogram.quantiles(*fractions), fractions, strict=True):
        rank = max(1, round(fraction * len(values)))
        true = int(np.sort(values)[rank - 1])
        assert got is not None
        assert got <= true
        assert true == got if true < 1024 else true - got < true / 16
    assert histogram.total() == len(values)


def test_quantiles_of_much_data_agree_with_numpy():
    """Where there are enough values for the definition of a quantile not to matter."""
    values = np.random.default_rng(1).lognormal(5, 1.5, 20_000).astype(int)
    histogram = Histogram()
    for us in values.tolist():
        histogram.add(us)
    for fraction, got in zip((0.5, 0.99), histogram.quantiles(0.5, 0.99), strict=True):
        assert got == pytest.approx(np.quantile(values, fraction), rel=0.08)


def test_every_bucket_begins_where_the_one_before_ends():
    """The smallest value of a bucket falls into it, the one below into the bucket before."""
    for bucket in range(1, len(Histogram().counts) - 1):
        low = lower_bound_us(bucket)
        histogram = Histogram()
        histogram.add(low)
        histogram.add(low - 1)
        assert (histogram.counts[bucket], histogram.counts[bucket - 1]) == (1, 1)


def test_what_is_longer_than_the_last_bucket_is_counted_there():
    """A duration of hours is no error."""
    histogram = Histogram()
    histogram.add(2**40)
    assert histogram.counts[-1] == 1


def test_nothing_counted_has_no_quantiles():
    """None, not zero: zero would look like a very quick answer."""
    assert Histogram().quantiles(0.5, 0.99) == [None, None]


def test_errors_are_counted_by_code():
    """Each code has its own counter."""
    stats = Stats()
    for code in ("BUSY", "INTERNAL", "BUSY"):
        stats.error(code)
    assert stats.errors == {"BUSY": 2, "INTERNAL": 1}
