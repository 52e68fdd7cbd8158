"""Versions that were superseded while they had requests to answer, and the time that they have for it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class Drain(NamedTuple):
    """A version that answers what it was asked up to `since_ns`, and whether it is `late`."""

    served: Any
    since_ns: int
    late: bool


class Drains:
    """Begun by a swap, over when nothing is left to answer or the time is out."""

    def __init__(self, timeout_s: float, clock_ns: Callable[[], int]) -> None:
        self.timeout_s = timeout_s
        self._clock_ns = clock_ns
        self._since_ns: list[tuple[Any, int]] = []

    def begin(self, served: Any) -> None:
        """`served` doesn't serve any more; one that drains already goes on as it was."""
        if all(one is not served for one, _ in self._since_ns):
            self._since_ns.append((served, self._clock_ns()))

    def forget(self, served: Any) -> None:
        """It serves again."""
        self._since_ns = [drain for drain in self._since_ns if drain[0] is not served]

    def take_over(self) -> list[Drain]:
        """What is over; told once."""
        now = self._clock_ns()
        found = [
            Drain(served, since_ns, now - since_ns >= self.timeout_s * 1e9)
            for served, since_ns in self._since_ns
        ]
        over = [drain for drain in found if drain.late or not drain.served.pending]
        for drain in over:
            self.forget(drain.served)
        return over
