"""Counters and latency histograms that cost the hot path one list increment."""

from __future__ import annotations

#: Buckets are exact to 1 µs below this, then 1/16 of a power of two wide.
_LINEAR_US = 1024
_SUB_BUCKETS = 16
_TOP_BITS = 30


class Histogram:
    """Counts of durations in microseconds. Not thread-safe."""

    def __init__(self) -> None:
        self.counts = [0] * (_LINEAR_US + (_TOP_BITS - 10) * _SUB_BUCKETS + 1)

    def add(self, us: int) -> None:
        if us < _LINEAR_US:
            self.counts[us] += 1
        else:
            bits = us.bit_length()
            at = _LINEAR_US + (bits - 11) * _SUB_BUCKETS + ((us >> (bits - 5)) & 15)
            self.counts[min(at, len(self.counts) - 1)] += 1

    def total(self) -> int:
        return sum(self.counts)

    def quantiles(self, *fractions: float) -> list[int | None]:
        """The lower bound in µs of the bucket that each fraction falls into; None while nothing was counted."""
        total = self.total()
        if not total:
            return [None for _ in fractions]
        found: list[int | None] = []
        for fraction in fractions:
            left = max(1, round(fraction * total))
            for at, count in enumerate(self.counts):
                left -= count
                if left <= 0:
                    found.append(lower_bound_us(at))
                    break
        return found


def lower_bound_us(bucket: int) -> int:
    """The smallest duration that falls into `bucket`."""
    if bucket < _LINEAR_US:
        return bucket
    power, sub = divmod(bucket - _LINEAR_US, _SUB_BUCKETS)
    return (_SUB_BUCKETS + sub) << (power + 6)


class Stats:
    """What one model has answered since the start. Not thread-safe."""

    def __init__(self) -> None:
        self.requests = 0
        self.errors: dict[str, int] = {}
        #: Published events by kind: swap, rollback, rejected, hold, state.
        self.events: dict[str, int] = {}
        self.latency_us = Histogram()
        self.predict_us = Histogram()

    def error(self, code: str) -> None:
        self.errors[code] = self.errors.get(code, 0) + 1
