"""Campaign 4: SIGKILL, at any moment, for any of the processes."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.campaigns.parts import HERE, Engines, Good, Record, quantiles
from tests.e2e.conftest import Daemon
from tests.support import wait_until

from modeld.client.errors import ModeldError
from modelreg import Registry

#: Seconds: twenty seconds on a quiet machine.
pytestmark = pytest.mark.timeout(300)

#: Kills; --campaign N makes N times as many.
_SHORT = 12
_VICTIMS = ("front", "worker", "worker", "zygote", "watcher", "promoter")


class Killer:
    """The daemon, a promoter beside it, and whoever is killed next."""

    def __init__(self, daemon: Daemon, root: Path, good: Good, record: Record) -> None:
        self.daemon, self._root, self._good, self._chance = daemon, root, good, record.chance
        self.promoter = self._promote()

    def _promote(self) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [
                sys.executable,
                HERE / "promoter.py",
                self._root,
                str(self._chance.randrange(1 << 30)),
                *self._good.files,
            ],
            stdin=subprocess.DEVNULL,
        )

    def strike(self, victim: str) -> float:
        """Kill, and restart what nobody else does; returns the moment of the kill."""
        time.sleep(self._chance.uniform(0, 0.5))  # at any moment
        pids, now = self._pids(victim), time.monotonic()
        if victim == "promoter":
            self.end()
            self.promoter = self._promote()
            return now
        if victim == "front":
            below = self.daemon.children()
            self.daemon.signal(signal.SIGKILL)
            self.daemon.wait()
            _, alive = psutil.wait_procs(below, 30)
            # Orphans that have ended stay zombies where process 1 doesn't care for them.
            alive = [one for one in alive if one.is_running() and one.status() != psutil.STATUS_ZOMBIE]
            assert not alive, f"{alive} outlived the front"
            self.daemon.start(ready=False)
            return now
        with contextlib.suppress(ProcessLookupError):  # a worker may have been replaced meanwhile
            os.kill(self._chance.choice(pids), signal.SIGKILL)
        return now

    def _pids(self, victim: str) -> list[int]:
        if victim in ("front", "promoter"):
            return []
        status = self.daemon.status()
        if victim != "worker":
            return [status[f"{victim}_pid"]]
        # Serving, warm or on trial. A daemon that is between two workers has none to kill.
        return [worker["pid"] for worker in status["workers"] if worker["pid"]] or [status["zygote_pid"]]

    def end(self) -> None:
        self.promoter.kill()
        self.promoter.wait()


def test_kills_at_random_moments(
    make_daemon: Callable[..., Daemon], good: Good, record: Record, tmp_path: Path, campaign: int
) -> None:
    """A good version answers again each time; no engine sees a wrong answer or a generation go back."""
    registry = Registry.init(tmp_path / "models", actor="campaign")
    for number, path in enumerate(good.files):
        registry.register("alpha", path, version=f"1.0.{number}", golden=False)
    registry.promote("alpha:1.0.0", reason="first")
    daemon = make_daemon(registry.root, probation={"requests": 50, "seconds": 2}).start()
    killer, kills, back_ms = Killer(daemon, registry.root, good, record), Counter[str](), {}
    try:
        with Engines(daemon, good, tmp_path, 2, record.seed, retry=True) as engines:
            wait_until(lambda: registry.state("alpha").seq > 6, 30)  # the promoter is at work
            for _ in range(_SHORT * campaign):
                victim, pid = record.chance.choice(_VICTIMS), daemon.pid
                start = killer.strike(victim)
                with daemon.client(timeout_s=2, try_timeout_s=0.25, retries=8) as client:
                    wait_until(lambda client=client: _answers(client, good), 60)
                back_ms.setdefault(victim, []).append((time.monotonic() - start) * 1e3)
                kills[victim] += 1
                assert (daemon.pid == pid) == (victim != "front")
                assert not daemon.exited, daemon.log.read_text()[-2000:]
            killer.end()
            # All of it still works: what is promoted last is served.
            number = 1 + max(int(v.rpartition(".")[2]) for v in registry.state("alpha").versions)
            registry.register(
                "alpha", good.files[number % 3], version=f"1.0.{number}", golden=False, notes="last"
            )
            registry.promote(f"alpha:1.0.{number}", reason="last")
            wait_until(lambda: daemon.model()["version"] == f"1.0.{number}", 30)
            wait_until(lambda: daemon.status()["degraded"] == [], 30)
    finally:
        killer.end()
        shutil.copy(daemon.log, tmp_path)
    # Two kills that hit one request: it isn't given to a third worker, and that is said.
    engines.check(errors=frozenset({"INTERNAL"}))
    incidents = daemon.logged("incident")
    assert {one["what"] for one in incidents} <= {"a request took two workers with it"}, incidents
    assert engines.errors.total() <= len(incidents)
    state = registry.state("alpha")
    record.figures = {
        "kills": dict(kills),
        "back_ms": {victim: quantiles(times) for victim, times in back_ms.items()},
        "log_records": state.seq,
        "failed_in_probation": sum(one.status == "failed" for one in state.versions.values()),
        "requests": engines.replies,
        "errors": engines.errors.total(),
    }


def _answers(client: Any, good: Good) -> bool:
    try:
        reply = client.predict(good.rows[0])
    except ModeldError:
        return False
    assert reply.values[0] == good.of(reply.version)[0]
    return True
