"""The load generator: `python -m modeld.bench.load`, a process that is told its jobs by lines on stdin.

It has to be lighter than what it measures: frames are built beforehand and sent as they are, sockets are raw,
latencies go into arrays of integers, the garbage collector is off. Each job has a ZeroMQ context of its own,
made after the affinity is set, so that ZeroMQ's own thread is on the same cores.

One client is a REQ socket. Several are one ROUTER socket with as many connections: for the server they are as
many clients, and this process need not poll as many sockets. In an open loop each request's number travels in
the envelope, which every server echoes; so nothing is encoded between two requests.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import zmq

from modeld.bench.errors import BenchError
from modeld.bench.lines import answer, say
from modeld.bench.loops import (
    SILENCE_S,
    Socket,
    Times,
    connection_names,
    fixed_rate,
    many_clients,
    one_client,
    several_sockets,
)
from modeld.bench.schedule import due_times_ns, open_loop_latencies_ns

#: `prctl` option that sets how late a sleep may end; 50 µs unless told otherwise. From <linux/prctl.h>.
PR_SET_TIMERSLACK = 29
#: Frames at least as large aren't copied when sent. Bytes.
COPY_BYTES = 65536


class Job(msgspec.Struct, kw_only=True):
    """What to send where, and how long.

    Attributes:
        messages: a file with requests, sent in turn, round and round (see `write_messages`).
        log: where to write the arrays, `.npz`.
        error_mark: bytes (as latin-1) that a reply's header has if and only if it is an error.
        rate: requests per second of an open loop; None: a closed loop.
        until: end at the first reply whose header has these bytes (as latin-1), or after `seconds`.
        cpus: the cores to run on; None: those the process was started with.
        for_rep: the server is a REP socket, which accepts no ROUTER: several clients are as many REQ sockets.
    """

    endpoint: str
    messages: str
    log: str
    error_mark: str
    clients: int = 1
    seconds: float = 1.0
    warmup_s: float = 0.2
    rate: float | None = None
    until: str | None = None
    cpus: list[int] | None = None
    for_rep: bool = False


class Done(msgspec.Struct, kw_only=True):
    """What came of a job; the arrays `started_ns`, `latency_ns`, `late_ns` are in its log.

    Attributes:
        seen_ns: monotonic ns of the first reply that had the bytes of `until`; 0 where none had.
    """

    seconds: float
    errors: int
    lost: int
    seen_ns: int = 0


def write_messages(path: Path, messages: Sequence[Sequence[bytes]]) -> None:
    """Keep the frames of messages in a file."""
    path.write_bytes(msgspec.msgpack.encode([[bytes(frame) for frame in frames] for frames in messages]))


def read_messages(path: Path) -> list[list[bytes]]:
    """The messages that `write_messages` kept."""
    return msgspec.msgpack.decode(path.read_bytes(), type=list[list[bytes]])


def run(job: Job, started: Callable[[], None]) -> Done:
    """Do one job; `started` is called when the warm-up is over.

    Raises:
        BenchError: nothing answers, or a reply took longer than SILENCE_S.
    """
    _run_on(job.cpus)
    context = zmq.Context()
    try:
        return _run(job, context, started)
    except zmq.Again as error:
        raise BenchError(f"{job.endpoint} gave no reply within {SILENCE_S:g} s") from error
    except zmq.ZMQError as error:
        raise BenchError(f"{job.endpoint}: {error}") from error
    finally:
        context.destroy(linger=0)


def _run(job: Job, context: zmq.Context[Socket], started: Callable[[], None]) -> Done:
    messages = [
        [zmq.Frame(part) if len(part) >= COPY_BYTES else part for part in frames]
        for frames in read_messages(Path(job.messages))
    ]
    error_mark = job.error_mark.encode("latin-1")
    until_mark = None if job.until is None else job.until.encode("latin-1")
    socket, *others = [
        _connect(context, job, one=job.for_rep or (job.clients == 1 and job.rate is None))
        for _ in range(job.clients if job.for_rep else 1)
    ]

    def closed(seconds: float, until: bytes | None, times: Times) -> None:
        if others:
            several_sockets([socket, *others], messages, seconds, error_mark, times)
        elif socket.type == zmq.REQ:
            one_client(socket, messages, seconds, error_mark, until, times)
        else:
            many_clients(socket, messages, job.clients, seconds, error_mark, until, times)

    closed(job.warmup_s, None, Times())
    times = Times()
    started()
    if job.rate is None:
        closed(job.seconds, until_mark, times)
        begun, ends = np.frombuffer(times.started, np.int64), np.frombuffer(times.replied, np.int64)
        latency = ends - begun
    else:
        due = time.monotonic_ns() + due_times_ns(job.rate, job.seconds)
        fixed_rate(socket, messages, job.clients, due, error_mark, times)
        ends = np.frombuffer(times.replied, np.int64)
        begun, latency = open_loop_latencies_ns(due, ends)
    np.savez(job.log, started_ns=begun, latency_ns=latency, late_ns=np.frombuffer(times.late, np.int64))
    seconds = float(ends.max() - begun.min()) / 1e9 if len(latency) else 0.0
    return Done(seconds=max(seconds, 1e-9), errors=times.errors, lost=times.lost, seen_ns=times.seen_ns)


def _connect(context: zmq.Context[Socket], job: Job, *, one: bool) -> Socket:
    socket: Socket = context.socket(zmq.REQ if one else zmq.ROUTER)
    socket.set(zmq.LINGER, 0)
    socket.set(zmq.RCVTIMEO, int(SILENCE_S * 1000))
    socket.set(zmq.SNDTIMEO, int(SILENCE_S * 1000))
    # The generator's own queues never hold it up.
    socket.set(zmq.SNDHWM, 0)
    socket.set(zmq.RCVHWM, 0)
    if one:
        socket.connect(job.endpoint)
        return socket
    socket.set(zmq.ROUTER_MANDATORY, 1)
    for name in connection_names(job.clients):
        socket.set(zmq.CONNECT_ROUTING_ID, name)
        socket.connect(job.endpoint)
    return socket


def _run_on(cpus: list[int] | None) -> None:
    """Move to these cores, or back to those that the process was started with."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, cpus if cpus is not None else _STARTED_ON)


_STARTED_ON: set[int] = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()


def _sleep_precisely() -> None:
    """Let sleeps end on time, where the system can: an open loop's requests would be 50 µs late else."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, ctypes.c_ulong(1), 0, 0, 0)


def main() -> int:
    """Do jobs until stdin ends."""
    _sleep_precisely()
    gc.freeze()
    gc.disable()

    def handle(line: bytes) -> Any:
        return run(msgspec.json.decode(line, type=Job), lambda: say({"started": True}))

    return answer(handle)


if __name__ == "__main__":
    raise SystemExit(main())
