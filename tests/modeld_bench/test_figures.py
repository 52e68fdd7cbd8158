"""Figures are what they are called, and are left out where they would be something else."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from modeld.bench.figures import Sample, Summary, median_ratio, median_summary, percentile, summarise


def sample(*latency_us: float, seconds: float = 1.0) -> Sample:
    """A sample with these latencies."""
    latency = np.array([int(value * 1000) for value in latency_us], np.int64)
    return Sample(np.arange(len(latency)), latency, seconds, 0, 0, np.empty(0, np.int64))


def summary(p50: float | None, per_second: float = 1.0, max_us: float = 0.0) -> Summary:
    """A summary with this median."""
    return Summary(10, per_second, {"p50": p50, "p90": None, "p99": None, "p99.9": None}, max_us)


@given(st.lists(st.integers(0, 10**12), min_size=1), st.sampled_from([0.5, 0.9, 0.99]))
def test_a_percentile_is_a_measured_value_with_enough_values_below_it(
    values: list[int], fraction: float
) -> None:
    """Nearest rank: at least that fraction is at or below it, and fewer are below it."""
    ordered = np.sort(np.array(values, np.int64))
    found = percentile(ordered, fraction)
    if found is None:
        assert len(values) * (1 - fraction) < 1
    else:
        assert found in values
        assert np.mean(ordered <= found) >= fraction - 1e-12
        assert np.mean(ordered < found) < fraction


def test_percentiles_of_a_hundred_are_known() -> None:
    """Of 1 to 100, p50 is 50, p99 is 99, and p99.9 can't be told."""
    ordered = np.arange(1, 101)
    assert [percentile(ordered, fraction) for fraction in (0.5, 0.9, 0.99, 0.999)] == [50, 90, 99, None]


def test_the_median_of_a_single_request_is_shown() -> None:
    """One request has a median and a maximum, and no tail."""
    figures = summarise(sample(7))
    assert (figures.percentiles_us["p50"], figures.max_us) == (7, 7)
    assert figures.percentiles_us["p90"] is None


def test_throughput_is_replies_over_the_time_they_took() -> None:
    """Four replies in two seconds are two a second."""
    assert summarise(sample(1, 2, 3, 4, seconds=2)).per_second == 2


def test_a_round_without_replies_has_no_figures() -> None:
    """Nothing is not zero microseconds."""
    with pytest.raises(ValueError, match="no reply"):
        summarise(sample())


def test_rounds_are_summed_up_by_medians_and_the_worst_maximum() -> None:
    """One disturbed round doesn't move the median, and its maximum isn't hidden."""
    both = median_summary([summary(10, 100, 50), summary(12, 90, 60), summary(99, 5, 7000)])
    assert (both.percentiles_us["p50"], both.per_second, both.max_us, both.requests) == (12, 90, 7000, 30)


def test_a_percentile_that_one_round_lacks_is_left_out() -> None:
    """A median over fewer rounds than it says would be another figure."""
    assert median_summary([summary(10), summary(None)]).percentiles_us["p50"] is None


def test_ratios_pair_the_rounds() -> None:
    """A slow spell that hits both sides of one round leaves the ratio alone."""
    assert median_ratio([20, 400, 22], [10, 200, 11]) == 2.0


@pytest.mark.parametrize(("ours", "theirs"), [([1, None], [1, 1]), ([1, 1], [1, 0]), ([1], [None])])
def test_a_ratio_without_both_figures_is_left_out(
    ours: list[float | None], theirs: list[float | None]
) -> None:
    """No figure, or nothing to divide by, makes no ratio."""
    assert median_ratio(ours, theirs) is None
