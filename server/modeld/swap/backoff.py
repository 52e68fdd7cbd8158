"""Waits between tries that fail."""

from __future__ import annotations

from collections.abc import Sequence


class Backoff:
    """The waits after the first, second, … failure in a row, in seconds; the last of them for all that follow."""

    def __init__(self, *waits_s: float) -> None:
        self._waits_s: Sequence[float] = waits_s
        self.failures = 0
        #: When the next try is due, on the caller's clock.
        self.due_ns = 0

    def failed(self, now_ns: int) -> float:
        """Count a failure at `now_ns`; how long to wait now, in seconds."""
        wait_s = self._waits_s[min(self.failures, len(self._waits_s) - 1)]
        self.failures += 1
        self.due_ns = now_ns + int(wait_s * 1e9)
        return wait_s

    def reset(self) -> None:
        self.failures = self.due_ns = 0
