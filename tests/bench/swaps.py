"""What a swap costs, with the reference model on a running daemon: `python tests/bench/swaps.py [--swaps N]`.

A client asks for one row after the other. Four things are timed: a promotion until the first reply by the new version,
with file events; an operator's rollback until the first reply by the version that was warm; the longest that a reply
took around a swap beside the longest otherwise; and a killed worker until the first reply that a worker computed.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from modeld.bench.stack import MODEL, Stack
from modeld.client import AdminClient, Client
from modelreg import Registry

#: Between two swaps, so that the plan is proved and nothing of the last one is left. Seconds.
_PAUSE_S = 0.6
#: Replies within so long of a promotion count as around the swap. Seconds.
_AROUND_S = 0.5


class Asking:
    """A client in a thread of its own that never stops: when each reply came, how long it took, and from what."""

    def __init__(self, endpoint: str, row: Any) -> None:
        self.replies: list[tuple[float, float, str, int]] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(endpoint, row))

    def _run(self, endpoint: str, row: Any) -> None:
        with Client(endpoint, timeout_s=10.0) as client:
            while not self._stop.is_set():
                start = time.perf_counter()
                reply = client.predict(row)
                end = time.perf_counter()
                self.replies.append((end, end - start, reply.version, reply.generation))
                time.sleep(0.001)

    def __enter__(self) -> Asking:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def first(self, after: float, version: str) -> float:
        """When the first reply by `version` after a moment came."""
        at = len(self.replies)
        while True:
            for end, _, by, _ in self.replies[max(0, at - 50) :]:
                if end > after and by == version:
                    return end
            if time.perf_counter() - after > 20:
                raise SystemExit(f"no reply by {version} within 20 s")
            time.sleep(0.0005)

    def longest(self, after: float, until: float) -> float:
        return max((took for end, took, _, _ in self.replies if after <= end <= until), default=0.0)


def say(what: str, seconds: Sequence[float]) -> None:
    ordered = sorted(seconds)
    p99 = ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]
    print(
        f"{what:<48} p50 {statistics.median(ordered) * 1e3:7.1f} ms  p99 {p99 * 1e3:7.1f} ms  "
        f"max {ordered[-1] * 1e3:7.1f} ms  ({len(ordered)} times)",
        flush=True,
    )


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        if time.monotonic() > deadline:
            raise SystemExit("the daemon doesn't get there within 30 s")
        time.sleep(0.005)


def swaps(stack: Stack, admin: AdminClient, asking: Asking, times: int, versions: list[str]) -> None:
    """Promotions of versions that aren't warm: the three take turns."""
    registry = Registry(stack.directory / "registry", actor="bench")
    promoted, rolled_back, around, otherwise, pauses = [], [], [], [], []
    for number in range(times):
        version = versions[(number + 1) % len(versions)]
        start = time.perf_counter()
        otherwise.append(asking.longest(start - _AROUND_S, start))
        registry.promote(f"{MODEL}:{version}", reason="bench")
        promoted.append(asking.first(start, version) - start)
        time.sleep(_PAUSE_S)
        around.append(asking.longest(start, start + _AROUND_S))
        pauses.append(admin.status()["models"][0]["swap_pause_us"] / 1e6)
    for number in range(times):
        start = time.perf_counter()
        to = admin.rollback(MODEL, reason="bench", mark_failed=False)["to"]
        rolled_back.append(asking.first(start, to) - start)
        time.sleep(0.05 if number else _PAUSE_S)
    say("promotion → first reply by the new version", promoted)
    say("operator's rollback → first reply", rolled_back)
    say("the swap itself, in the front's loop", pauses)
    say("longest reply within 0.5 s after a promotion", around)
    say("longest reply in the 0.5 s before it", otherwise)


def _serving(admin: AdminClient) -> list[dict[str, Any]]:
    return [one for one in admin.status()["workers"] if one["state"] == "serving"]


def kills(admin: AdminClient, asking: Asking, times: int) -> None:
    """A worker killed while it is asked: the longest that a reply took."""
    waits = []
    for _ in range(times):
        pid = _serving(admin)[0]["pid"]
        start = time.perf_counter()
        os.kill(pid, signal.SIGKILL)
        until(lambda gone=pid: any(one["pid"] != gone for one in _serving(admin)))
        time.sleep(0.1)
        waits.append(asking.longest(start, time.perf_counter()))
    say("serving worker killed: longest reply", waits)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--swaps", type=int, default=30)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument(
        "--set", action="append", default=[], help="a setting of the daemon's, as modeld --set"
    )
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="modeld-swaps-") as directory:
        stack = Stack(Path(directory), options.set)
        stack.prepare(None, 100)
        print(stack.description, flush=True)
        versions = ["1.0.0", stack.register(), stack.register()]
        row = np.load(stack.directory / "model" / "rows.npy")[0]
        with (
            stack.daemon(None) as target,
            AdminClient(stack.admin, timeout_s=20.0) as admin,
            Asking(target.endpoints["ipc"], row) as asking,
        ):
            time.sleep(1.0)
            swaps(stack, admin, asking, options.swaps, versions)
        stack.settings = [*options.set, "plan.inline_rows=0"]
        with (
            stack.daemon(None) as target,
            AdminClient(stack.admin, timeout_s=20.0) as admin,
            Asking(target.endpoints["ipc"], row) as asking,
        ):
            time.sleep(1.0)
            kills(admin, asking, options.kills)


if __name__ == "__main__":
    main()
