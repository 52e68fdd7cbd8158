"""Campaigns 1 and 5: promotions without end, under eight engines, and the front's memory meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from tests.campaigns.parts import Engines, Good, Record, Vitals, quantiles
from tests.e2e.conftest import Daemon
from tests.support import wait_until

from modelreg import Registry

#: Seconds: twenty seconds on a quiet machine.
pytestmark = pytest.mark.timeout(300)

#: Swaps; --campaign N makes N times as many.
_SHORT = 200
#: Before the first swap, for comparison. Seconds.
_STEADY_S = 3.0
#: What the front may grow by after its warm-up. MB.
_DRIFT_MB = 2.0


def test_swaps_under_load(
    make_daemon: Callable[..., Daemon], good: Good, record: Record, tmp_path: Path, campaign: int
) -> None:
    """No request is lost, failed or mixed, no generation goes backwards, and the front doesn't grow."""
    registry = Registry.init(tmp_path / "models", actor="campaign")
    for number, path in enumerate(good.files):
        registry.register("alpha", path, version=f"1.0.{number}")
    registry.promote("alpha:1.0.0", reason="first")
    daemon = make_daemon(registry.root).start()
    vitals = Vitals(daemon)
    swaps, seen_ms = _SHORT * campaign, []
    with Engines(daemon, good, tmp_path, 8, record.seed) as engines, daemon.client() as client:
        row, serving = good.rows[0], 0
        first_ns = time.monotonic_ns()
        end = time.monotonic() + _STEADY_S
        wait_until(lambda: time.monotonic() > end, _STEADY_S + 5)
        swapping_ns = time.monotonic_ns()
        for _ in range(swaps):
            serving = (serving + record.chance.choice((1, 2))) % 3
            registry.promote(f"alpha:1.0.{serving}", reason="campaign")
            began, deadline = time.monotonic(), time.monotonic() + 30
            while client.predict(row).version != f"1.0.{serving}":
                assert time.monotonic() < deadline, f"1.0.{serving} doesn't come: {daemon.status()}"
            seen_ms.append((time.monotonic() - began) * 1e3)
            vitals.sample()
    engines.check()
    started, took = engines.latencies()
    steady = took[(started > first_ns) & (started < swapping_ns)]
    swapping = took[started >= swapping_ns]
    firsts = np.concatenate([np.array(report["firsts_ns"]) for report in engines.reports]) / 1e6
    record.figures = {
        "swaps": swaps,
        "requests": engines.replies,
        "lost_failed_mixed": 0,
        "promote_to_first_reply_ms": quantiles(seen_ms),
        "steady_ms": quantiles(steady),
        "while_swapping_ms": quantiles(swapping),
        "first_reply_of_a_generation_ms": quantiles(firsts),
        "p99_ratio": round(float(np.quantile(swapping, 0.99) / np.quantile(steady, 0.99)), 2),
        "worst_added_ms": round(float(swapping.max() - steady.max()), 2),
        **vitals.figures(),
    }
    vitals.check(_DRIFT_MB)


def test_replaced_versions_leave_no_descriptors(
    make_daemon: Callable[..., Daemon], good: Good, tmp_path: Path
) -> None:
    """What was swapped out twice is let go at once, not when Python's collector comes by."""
    registry = Registry.init(tmp_path / "models", actor="campaign")
    for number, path in enumerate(good.files):
        registry.register("alpha", path, version=f"1.0.{number}", golden=False)
    registry.promote("alpha:1.0.0", reason="first")
    daemon = make_daemon(registry.root, trial={"timeout_s": 3}).start()
    before = psutil.Process(daemon.pid).num_fds()
    with daemon.client() as client:
        for number in range(1, 31):
            registry.promote(f"alpha:1.0.{number % 3}", reason="campaign")
            wait_until(lambda number=number: client.predict(good.rows[0]).version == f"1.0.{number % 3}", 10)
    # The one that serves, the one that is warm, and what was under way when it was counted first.
    wait_until(lambda: psutil.Process(daemon.pid).num_fds() <= before + 8, 6)
