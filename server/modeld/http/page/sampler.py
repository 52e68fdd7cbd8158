"""What the daemon says, asked for at regular moments and kept for a few minutes: the *Live* view's charts."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from modeld.client.errors import ModeldError
from modeld.front.stats import lower_bound_us
from modeld.http.gateway import Gateway

#: Between two looks while somebody watches, and while nobody does. Seconds.
_WATCHED_S, _IDLE_S = 1.0, 10.0
#: Somebody watches so long after they last asked. Seconds.
_ATTENTION_S = 5.0
#: So many points are kept for each model.
_POINTS = 300
#: The daemon's answer is waited for so long. Seconds.
_TIMEOUT_S = 2.0
#: So many of the daemon's decisions are shown.
_EVENTS = 200


@dataclass(frozen=True, slots=True)
class Point:
    """One model between two looks. `at_ms`: Unix time. Quantiles are None where nothing was answered."""

    at_ms: int
    per_s: float
    errors_per_s: float
    p50_us: int | None
    p99_us: int | None


@dataclass(slots=True)
class Seen:
    """The newest look. `problem`: why the daemon didn't answer, or None; the rest is then what it said last."""

    problem: str | None = "the daemon wasn't asked yet"
    status: dict[str, Any] = field(default_factory=dict)
    events: list[dict[str, Any]] = field(default_factory=list)
    answered_at: float | None = None


class Sampler:
    """Asks one daemon. For one event loop; `seen` and `points` are read there too."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self.seen = Seen()
        self.points: dict[str, deque[Point]] = {}
        self._before: tuple[float, int, dict[str, Any]] | None = None
        self._watched = float("-inf")
        self._wake = asyncio.Event()

    def watch(self) -> None:
        """Somebody looks: ask often for a while."""
        if time.monotonic() > self._watched + _ATTENTION_S:
            self._wake.set()
        self._watched = time.monotonic()

    async def run(self) -> None:
        """Until it is cancelled."""
        while True:
            await self.look()
            pause = _WATCHED_S if time.monotonic() < self._watched + _ATTENTION_S else _IDLE_S
            self._wake.clear()
            try:
                await asyncio.wait_for(self._wake.wait(), pause)
            except TimeoutError:
                continue

    async def look(self) -> None:
        """Ask once."""
        admin = self._gateway.admin
        try:
            status = (await admin.call("status", timeout_s=_TIMEOUT_S)).header
            stats = (await admin.call("stats", timeout_s=_TIMEOUT_S)).header
            history = (await admin.call("history", {"limit": _EVENTS}, timeout_s=_TIMEOUT_S)).header
        except ModeldError as error:
            self.seen.problem = str(error)
            self._before = None
            return
        now = time.time()
        self.seen = Seen(None, status, history["history"], now)
        if self._before is not None and now - self._before[0] < _WATCHED_S / 2:
            return  # too short for a rate
        before, self._before = self._before, (now, status["pid"], stats["models"])
        if before is None or before[1] != status["pid"]:
            return  # counters of another process
        for name, counted in stats["models"].items():
            if name in before[2]:
                kept = self.points.setdefault(name, deque(maxlen=_POINTS))
                kept.append(between(before[2][name], counted, now - before[0], now))


def between(before: Mapping[str, Any], after: Mapping[str, Any], seconds: float, now: float) -> Point:
    """What was counted between two `stats` of a model. `now`: Unix time, seconds."""
    span = max(seconds, 1e-3)
    counts = {int(at): count - before["latency_us"].get(at, 0) for at, count in after["latency_us"].items()}
    failed = sum(after["errors"].values()) - sum(before["errors"].values())
    p50, p99 = (_quantile(counts, fraction) for fraction in (0.5, 0.99))
    return Point(int(now * 1000), (after["requests"] - before["requests"]) / span, failed / span, p50, p99)


def _quantile(counts: Mapping[int, int], fraction: float) -> int | None:
    left = max(1, round(fraction * sum(counts.values())))
    for at, count in sorted(counts.items()):
        left -= count
        if left <= 0:
            return lower_bound_us(at)
    return None
