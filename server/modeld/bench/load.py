"""The load generator: `python -m modeld.bench.load`, a process that is told its jobs by lines on stdin.

It has to be lighter than what it measures: frames are built beforehand and sent as they are, sockets are raw,
latencies go into arrays of integers, the garbage collector is off. Each job has a ZeroMQ context of its own,
made after the affinity is set, so that ZeroMQ's own thread is on the same cores.

One client is a REQ socket. Several are one ROUTER socket with as many connections: for the server they are as
many clients, and this process need not poll as many sockets. In an open loop each request's number travels in
the envelope, which every server echoes; so the body's bytes never change.
"""

from __future__ import annotations

import ctypes
import gc
import os
import select
import sys
import time
from array import array
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import zmq
from numpy.typing import NDArray

from modeld.bench.errors import BenchError
from modeld.bench.lines import answer, say
from modeld.bench.schedule import due_times_ns, open_loop_latencies_ns

#: A client without a reply for so long ends the job. Seconds.
SILENCE_S = 20.0
#: An open loop waits so long for the last replies. Seconds.
LAST_REPLIES_S = 3.0
#: `prctl` option that sets how late a sleep may end; 50 µs unless told otherwise. From <linux/prctl.h>.
PR_SET_TIMERSLACK = 29
#: Frames at least as large aren't copied when sent. Bytes.
COPY_BYTES = 65536

Socket = zmq.Socket[bytes]
Frames = Sequence[bytes | zmq.Frame]


class Job(msgspec.Struct, kw_only=True):
    """What to send where, and how long.

    Attributes:
        frames: a file with the request's frames (see `write_frames`).
        log: where to write the arrays, `.npz`.
        error_mark: bytes (as latin-1) that a reply's header has if and only if it is an error.
        rate: requests per second of an open loop; None: a closed loop.
        until: end at the first reply whose header has these bytes (as latin-1), or after `seconds`.
        cpus: the cores to run on; None: those the process was started with.
    """

    endpoint: str
    frames: str
    log: str
    error_mark: str
    clients: int = 1
    seconds: float = 1.0
    warmup_s: float = 0.2
    rate: float | None = None
    until: str | None = None
    cpus: list[int] | None = None


class Done(msgspec.Struct, kw_only=True):
    """What came of a job; the arrays `started_ns`, `latency_ns`, `late_ns` are in its log.

    Attributes:
        seen_ns: monotonic ns of the first reply that had the bytes of `until`; 0 where none had.
    """

    seconds: float
    errors: int
    lost: int
    seen_ns: int = 0


class Times:
    """What one loop saw, ns."""

    def __init__(self) -> None:
        self.started = array("q")
        self.replied = array("q")
        self.late = array("q")
        self.errors = 0
        self.lost = 0
        self.seen_ns = 0


def write_frames(path: Path, frames: Sequence[bytes]) -> None:
    """Keep a message's frames in a file."""
    path.write_bytes(msgspec.msgpack.encode([bytes(frame) for frame in frames]))


def read_frames(path: Path) -> list[bytes]:
    """The frames that `write_frames` kept."""
    return msgspec.msgpack.decode(path.read_bytes(), type=list[bytes])


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
    frames = [zmq.Frame(part) if len(part) >= COPY_BYTES else part for part in read_frames(Path(job.frames))]
    error_mark = job.error_mark.encode("latin-1")
    until_mark = None if job.until is None else job.until.encode("latin-1")
    socket = _connect(context, job, one=job.clients == 1 and job.rate is None)

    def closed(seconds: float, until: bytes | None, times: Times) -> None:
        if socket.type == zmq.REQ:
            one_client(socket, frames, seconds, error_mark, until, times)
        else:
            many_clients(socket, frames, job.clients, seconds, error_mark, until, times)

    closed(job.warmup_s, None, Times())
    times = Times()
    started()
    if job.rate is None:
        closed(job.seconds, until_mark, times)
        begun, ends = np.frombuffer(times.started, np.int64), np.frombuffer(times.replied, np.int64)
        latency = ends - begun
    else:
        due = time.monotonic_ns() + due_times_ns(job.rate, job.seconds)
        fixed_rate(socket, frames, job.clients, due, error_mark, times)
        ends = np.frombuffer(times.replied, np.int64)
        begun, latency = open_loop_latencies_ns(due, ends)
    np.savez(job.log, started_ns=begun, latency_ns=latency, late_ns=np.frombuffer(times.late, np.int64))
    seconds = float(ends.max() - begun.min()) / 1e9 if len(latency) else 0.0
    return Done(seconds=max(seconds, 1e-9), errors=times.errors, lost=times.lost, seen_ns=times.seen_ns)


def one_client(
    socket: Socket, frames: Frames, seconds: float, error_mark: bytes, until: bytes | None, times: Times
) -> None:
    """A closed loop of one REQ client."""
    send, receive, now = socket.send_multipart, socket.recv_multipart, time.monotonic_ns
    started, replied = times.started.append, times.replied.append
    copy = type(frames[-1]) is not zmq.Frame
    end = now() + int(seconds * 1e9)
    while True:
        begun = now()
        send(frames, copy=copy)
        reply = receive()
        got = now()
        started(begun)
        replied(got)
        if error_mark in reply[0]:
            times.errors += 1
        if until is not None and until in reply[0]:
            times.seen_ns = got
            return
        if got >= end:
            return


def many_clients(
    socket: Socket,
    frames: Frames,
    clients: int,
    seconds: float,
    error_mark: bytes,
    until: bytes | None,
    times: Times,
) -> None:
    """A closed loop of several clients: one request under way on each connection."""
    send, receive, now = socket.send_multipart, socket.recv_multipart, time.monotonic_ns
    copy = type(frames[-1]) is not zmq.Frame
    messages = {name: [name, b"", *frames] for name in _names(clients)}
    sent = dict.fromkeys(messages, 0)
    end = now() + int(seconds * 1e9)
    for name, message in messages.items():
        sent[name] = now()
        send(message, copy=copy)
    while True:
        reply = receive()
        got = now()
        name = reply[0]
        times.started.append(sent[name])
        times.replied.append(got)
        if error_mark in reply[2]:
            times.errors += 1
        if until is not None and until in reply[2]:
            times.seen_ns = got
            break
        if got >= end:
            break
        sent[name] = now()
        send(messages[name], copy=copy)
    # What is still under way must not burden whoever is measured next.
    for _ in range(clients - 1):
        receive()


def fixed_rate(
    socket: Socket, frames: Frames, clients: int, due: NDArray[np.int64], error_mark: bytes, times: Times
) -> None:
    """An open loop: each request goes out when it is due, however many are unanswered.

    `times.replied` has one entry for each request afterwards, 0 where no reply came.
    """
    now = time.monotonic_ns
    receive: Callable[[int], list[bytes]] = socket.recv_multipart
    copy = type(frames[-1]) is not zmq.Frame
    names = _names(clients)
    count = len(due)
    due_ns: list[int] = due.tolist()
    replied = times.replied = array("q", bytes(8 * count))
    times.late = array("q", bytes(8 * count))
    descriptor = int(socket.getsockopt(zmq.FD))
    sent = answered = 0
    end = due_ns[-1] + int(LAST_REPLIES_S * 1e9)
    while True:
        while int(socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            reply = receive(zmq.NOBLOCK)
            replied[int(reply[1])] = now()
            answered += 1
            if error_mark in reply[3]:
                times.errors += 1
        if answered == count:
            break
        moment = now()
        next_ns = due_ns[sent] if sent < count else end
        if moment < next_ns:
            # ZeroMQ's descriptor tells of a change once; events were asked for since, after every send too.
            # No spinning: ZeroMQ's own thread may be on the same core, and would wait for the end of a time slice.
            select.select([descriptor], [], [], (next_ns - moment) / 1e9)
        elif sent < count:
            socket.send_multipart([names[sent % clients], b"%d" % sent, b"", *frames], zmq.NOBLOCK, copy=copy)
            times.late[sent] = moment - next_ns
            sent += 1
        else:
            break
    times.lost = count - answered


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
    for name in _names(job.clients):
        socket.set(zmq.CONNECT_ROUTING_ID, name)
        socket.connect(job.endpoint)
    return socket


def _names(clients: int) -> list[bytes]:
    return [b"client-%d" % number for number in range(clients)]


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
