"""Latencies to figures: percentiles, throughput, ratios, medians over rounds. Pure functions.

Percentiles are nearest-rank: a figure that is printed is a latency that was measured, never one between two.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

#: The percentiles that are shown, by their name.
PERCENTILES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}


@dataclass(frozen=True, slots=True, eq=False)
class Sample:
    """One subject's share of one round.

    Attributes:
        started_ns: when each request was sent (closed loop) or due (open loop), monotonic ns, int64.
        latency_ns: how long each reply took from then, int64.
        seconds: from the first of these to the last reply.
        errors: error replies among them.
        lost: requests that had no reply when the round was over; they aren't in the arrays.
        late_ns: open loop: how long after its due time each request was really sent, int64; else empty.
    """

    started_ns: NDArray[np.int64]
    latency_ns: NDArray[np.int64]
    seconds: float
    errors: int
    lost: int
    late_ns: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Summary:
    """One sample's figures. A percentile that too few requests can't show is None."""

    requests: int
    per_second: float
    percentiles_us: dict[str, float | None]
    max_us: float


def percentile(sorted_values: NDArray[np.int64], fraction: float) -> float | None:
    """The nearest-rank percentile of ascending values; None where fewer than one value would lie above it.

    A p99.9 of 200 requests would only be their maximum under another name.
    """
    count = len(sorted_values)
    if count == 0 or (fraction > 0.5 and count * (1 - fraction) < 1 - 1e-9):
        return None
    return float(sorted_values[max(math.ceil(fraction * count - 1e-9) - 1, 0)])


def summarise(sample: Sample) -> Summary:
    """The figures of one sample.

    Raises:
        ValueError: it holds no reply.
    """
    if not len(sample.latency_ns):
        raise ValueError("no reply in this round")
    ordered = np.sort(sample.latency_ns)
    values = {name: percentile(ordered, fraction) for name, fraction in PERCENTILES.items()}
    return Summary(
        requests=len(ordered),
        per_second=len(ordered) / sample.seconds,
        percentiles_us={name: None if value is None else value / 1000 for name, value in values.items()},
        max_us=float(ordered[-1]) / 1000,
    )


def median_summary(rounds: Sequence[Summary]) -> Summary:
    """Each figure's median over the rounds; the number of requests is the sum, and max the maximum.

    A percentile that one of the rounds couldn't show isn't shown.
    """
    return Summary(
        requests=sum(one.requests for one in rounds),
        per_second=statistics.median(one.per_second for one in rounds),
        percentiles_us={name: _median([one.percentiles_us[name] for one in rounds]) for name in PERCENTILES},
        max_us=max(one.max_us for one in rounds),
    )


def ratios(ours: Sequence[float | None], theirs: Sequence[float | None]) -> list[float]:
    """Each round's ratio. Rounds are paired: a disturbance that lasts a while hits both sides of a pair.

    Empty where a round has no figure to divide.
    """
    pairs = list(zip(ours, theirs, strict=True))
    if not all(a is not None and b for a, b in pairs):
        return []
    return [a / b for a, b in pairs if a is not None and b]


def median_ratio(ours: Sequence[float | None], theirs: Sequence[float | None]) -> float | None:
    """The median of the rounds' ratios; None where there are none."""
    values = ratios(ours, theirs)
    return statistics.median(values) if values else None


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.median(known) if known and len(known) == len(values) else None
