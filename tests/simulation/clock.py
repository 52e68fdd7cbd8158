"""Simulated time: what is due next happens next, and what is due at once happens in an order that the seed decides."""

from __future__ import annotations

import heapq
import random
from collections.abc import Callable


class Clock:
    """A heap of calls. Time stands still while one runs."""

    def __init__(self, chance: random.Random) -> None:
        self.ns = 0
        self._chance = chance
        self._due: list[tuple[int, float, Callable[[], None]]] = []

    def after(self, delay_s: float, call: Callable[[], None]) -> None:
        self.at(self.ns + int(delay_s * 1e9), call)

    def at(self, ns: int, call: Callable[[], None]) -> None:
        """To the nanosecond: a stream's messages keep their order."""
        heapq.heappush(self._due, (ns, self._chance.random(), call))

    def within(self, least_s: float, most_s: float, call: Callable[[], None]) -> None:
        """At a random time in between."""
        self.after(self._chance.uniform(least_s, most_s), call)

    def run(self, seconds: float) -> None:
        until = self.ns + int(seconds * 1e9)
        while self._due and self._due[0][0] <= until:
            self.ns, _, call = heapq.heappop(self._due)
            call()
        self.ns = until
