"""The demo's real processes: started in sessions of their own, and ended whatever happens.

A child in its own session doesn't get the terminal's Ctrl-C; the demo does, and stops its children in order.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType
from typing import IO

#: Bytes that a unix socket's path may have: `sun_path` holds 108 with the closing zero.
SOCKET_PATH_BYTES = 107
#: Seconds that a command (train, promote, …) may take.
COMMAND_TIMEOUT_S = 600.0
#: Seconds from a polite signal to SIGKILL.
GRACE_S = 10.0
#: Seconds between two looks at something that is awaited.
LOOK_S = 0.02


class DemoError(Exception):
    """The demo couldn't go on; the message says what failed and what was expected."""


def script(name: str) -> str:
    """The installed command beside this interpreter. DemoError where it isn't installed."""
    path = Path(sys.executable).with_name(name)
    if not path.is_file():
        raise DemoError(f"{path} isn't there: install the project into this environment (pip install -e .)")
    return str(path)


def run(command: Sequence[str], *, echo: bool = False) -> str:
    """Run a command to its end and return its standard output; `echo` shows it as well.

    Raises:
        DemoError: it failed, with the end of what it said, or it took longer than COMMAND_TIMEOUT_S.
    """
    shown = " ".join([Path(command[0]).name, *command[1:]])
    try:
        done = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=COMMAND_TIMEOUT_S,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise DemoError(f"`{shown}` took longer than {COMMAND_TIMEOUT_S:g} s") from error
    if done.returncode != 0:
        said = (done.stderr or done.stdout).strip()[-2000:]
        raise DemoError(f"`{shown}` ended with status {done.returncode}: {said}")
    if echo:
        print(done.stdout, end="", flush=True)
    return done.stdout


class Child:
    """A process that runs beside the demo, its output in a file."""

    def __init__(self, name: str, command: Sequence[str], log: Path) -> None:
        self.name = name
        self.log = log
        self._stopped = False
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    @property
    def status(self) -> int | None:
        """The exit status; None while it runs."""
        return self._process.poll()

    def said(self, text: str) -> bool:
        """Whether its output contains this text by now."""
        return text in self.log.read_text(errors="replace")

    def stop(self, grace_s: float = GRACE_S) -> int:
        """SIGTERM, wait, and SIGKILL for what is then left of its session; the exit status (-9 if killed).

        Stopping twice is harmless.
        """
        if self._stopped:
            return self._process.wait()
        self._stopped = True
        if self._process.poll() is None:
            self._process.terminate()
        try:
            self._process.wait(grace_s)
        except subprocess.TimeoutExpired:
            self._process.kill()
        finally:
            # The group outlives its leader where a grandchild does: end it as well.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self._process.pid, signal.SIGKILL)
            pipe: IO[bytes] | None = self._process.stdin
            if pipe is not None:
                pipe.close()
        return self._process.wait()


@contextmanager
def child(name: str, command: Sequence[str], log: Path) -> Iterator[Child]:
    """A child that is stopped at the end of the block, whichever way that is left."""
    started = Child(name, command, log)
    try:
        yield started
    finally:
        started.stop()


def hold(seconds: float, children: Sequence[Child]) -> None:
    """Let the children run for a while. DemoError when one ends."""
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        _all_run(children)
        time.sleep(min(left, LOOK_S))


def await_that(
    what: str, predicate: Callable[[], object], children: Sequence[Child], *, timeout_s: float
) -> None:
    """Wait until the predicate holds. DemoError when a child ends first, or when it takes too long."""
    until = time.monotonic() + timeout_s
    while not predicate():
        _all_run(children)
        if time.monotonic() > until:
            raise DemoError(f"waited {timeout_s:g} s in vain: {what}")
        time.sleep(LOOK_S)


def _all_run(children: Sequence[Child]) -> None:
    for one in children:
        if one.status is not None:
            raise DemoError(f"the {one.name} ended by itself with status {one.status}")


@contextmanager
def runtime_directory(longest: str) -> Iterator[Path]:
    """A new private directory, short enough for the socket path `longest` below it; removed afterwards."""
    parents = [
        parent
        for parent in (tempfile.gettempdir(), "/tmp")
        if len(os.fsencode(f"{parent}/modeld-xxxxxxxx/{longest}")) <= SOCKET_PATH_BYTES
    ]
    if not parents:
        raise DemoError("no temporary directory is short enough for a unix socket: set TMPDIR to one that is")
    directory = Path(tempfile.mkdtemp(prefix="modeld-", dir=parents[0]))
    try:
        yield directory
    finally:
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """SIGTERM unwinds the block as Ctrl-C does, so that the children are stopped on the way."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
