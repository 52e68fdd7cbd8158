"""Workers and the zygote, and the watcher, where the system has no process left for them. Real processes."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from modeld.config import Source, Watch
from modeld.front.link import Link
from modeld.front.loop import Loop
from modeld.front.spawner import Spawner
from modeld.watch.messages import Begin, FromWatcher, Look


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    yield made
    made._epoll.close()


@pytest.fixture
def turn(loop: Loop) -> Callable[[Callable[[], object]], None]:
    """Run the loop until something holds."""

    def until(holds: Callable[[], object]) -> None:
        deadline = loop.clock_ns() + 60_000_000_000

        def look() -> None:
            if holds() or loop.clock_ns() > deadline:
                loop.stop()
            else:
                loop.call_in(0.01, look)

        loop.call_in(0, look)
        loop.run()
        assert holds()

    return until


@pytest.fixture
def no_process(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], list[int]]:
    """Has so many processes from now on not be made; what comes back has an entry for each."""
    real = subprocess.Popen

    def refuse(times: int) -> list[int]:
        refused: list[int] = []

        def popen(*args: Any, **kwargs: Any) -> subprocess.Popen[bytes]:
            if len(refused) < times:
                refused.append(errno.EAGAIN)
                raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN))
            return real(*args, **kwargs)

        monkeypatch.setattr(subprocess, "Popen", popen)
        return refused

    return refuse


def test_a_zygote_that_cannot_be_started_is_tried_again(loop, turn, no_process):
    """Meanwhile spawn raises and leaves nothing behind; then a new zygote forks, and isn't killed for the past."""
    spawner = Spawner(loop)
    try:
        refused = no_process(2)
        first = spawner.zygote_pid
        os.kill(first, signal.SIGKILL)
        turn(lambda: len(refused) == 2)
        with pytest.raises(OSError, match="started again"):
            spawner.spawn()
        assert not spawner._workers
        turn(lambda: spawner._control is not None)
        assert spawner.zygote_pid != first
        worker = spawner.spawn()
        turn(lambda: worker.pid)
        worker.close(kill=True)
        turn(lambda: not spawner._workers)
        spawner.sweep()
        assert spawner._process.poll() is None
    finally:
        spawner.close()


def test_a_request_that_a_dead_zygote_never_gets_raises(loop):
    """Before the loop learns of its death: no entry stays that its successor would have to answer for."""
    spawner = Spawner(loop)
    try:
        os.kill(spawner.zygote_pid, signal.SIGKILL)
        os.waitid(os.P_PID, spawner.zygote_pid, os.WEXITED | os.WNOWAIT)
        with pytest.raises(ConnectionError):
            spawner.spawn()
        assert not spawner._workers
    finally:
        spawner.close()


def test_a_watcher_that_cannot_be_started_is_tried_again(loop, turn, no_process, tmp_path: Path):
    """Meanwhile nothing can be asked; then another one answers."""
    heard: list[FromWatcher] = []
    refused = no_process(1)
    begin = Begin(Source(root=str(tmp_path)), Watch(), str(tmp_path / "state"))
    link = Link(loop, begin, heard.append, lambda: None)
    try:
        assert refused
        assert not link.send(Look(1))
        link.kill("nobody is there")
        turn(lambda: heard)
    finally:
        link.close()


def test_orphans_are_reaped_and_nobody_elses_status_is_taken(loop):
    """An unknown child that ended goes; the zygote's and the watcher's end stays to be read."""
    spawner = Spawner(loop)
    watcher = subprocess.Popen(["/bin/sh", "-c", "exit 3"])
    try:
        orphan = os.posix_spawn("/bin/true", ["true"], {})
        os.waitid(os.P_PID, orphan, os.WEXITED | os.WNOWAIT)
        os.waitid(os.P_PID, watcher.pid, os.WEXITED | os.WNOWAIT)
        spawner.reap_orphans(watcher.pid)
        assert watcher.wait() == 3
        spawner.reap_orphans(watcher.pid)
        with pytest.raises(ChildProcessError):
            os.waitpid(orphan, os.WNOHANG)
    finally:
        watcher.wait()
        spawner.close()
