"""Helper processes that are told what to do by lines of JSON: both ends of the pipe.

The benchmark's load generator, echo server and offline predictor are processes of their own, because a figure
taken in the process that also trains, draws or sleeps would be about that process.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import TracebackType
from typing import IO, Any, Self

import msgspec

from modeld.bench.errors import BenchError

#: Seconds from closing a helper's input to SIGKILL.
GRACE_S = 5.0


class Helper:
    """A process that answers lines of JSON with lines of JSON. Not for several threads at once."""

    def __init__(self, name: str, command: Sequence[str], cpus: Sequence[int] | None = None) -> None:
        """Start it; `cpus` pins it and its threads to these cores (None: wherever this process may run)."""
        self.name = name
        with pinned(cpus):
            self._process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
            )

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def ask(self, message: object) -> Any:
        """Send one message and read one answer."""
        self.tell(message)
        return self.hear()

    def tell(self, message: object) -> None:
        """Send one message. BenchError where the helper is gone."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(msgspec.json.encode(message) + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise self._gone() from error

    def hear(self) -> Any:
        """Read one answer.

        Raises:
            BenchError: the helper ended, or its answer is `{"error": …}`.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise self._gone()
        answer = msgspec.json.decode(line)
        if isinstance(answer, dict) and "error" in answer:
            raise BenchError(f"{self.name}: {answer['error']}")
        return answer

    def stop(self) -> None:
        """End it: closed input, SIGTERM, then SIGKILL. Harmless when it is gone already."""
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None and not pipe.closed:
                _close(pipe)
        self._process.terminate()
        try:
            self._process.wait(GRACE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _gone(self) -> BenchError:
        status = self._process.wait()
        return BenchError(f"the {self.name} ended by itself with status {status}; see above for what it said")


def answer(handle: Callable[[bytes], object]) -> int:
    """A helper's main loop: one answer for each line on stdin, until that ends. A BenchError is one too."""
    for line in sys.stdin.buffer:
        try:
            say(handle(line))
        except BenchError as error:
            say({"error": str(error)})
    return 0


def say(message: object) -> None:
    """Write one line for the parent."""
    sys.stdout.buffer.write(msgspec.json.encode(message) + b"\n")
    sys.stdout.buffer.flush()


@contextmanager
def pinned(cpus: Sequence[int] | None) -> Iterator[None]:
    """What this thread starts inside the block runs on these cores only, with all its children."""
    if cpus is None:
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cpus)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def _close(pipe: IO[bytes]) -> None:
    try:
        pipe.close()
    except OSError:
        # What was still to be written has no reader: it is gone already.
        return
