"""A worker: proves one version, then serves it with the very model that passed.

It is forked by the zygote, has one thread, and talks to the front alone. It leaves when the front closes the channel;
memory is freed by that exit, never by freeing a Booster. What kills it (a truncated model aborts the process that
loads it) kills no one else.

A matrix that came as a memfd is computed in slices, and what waits in the socket is answered between two slices: a
one-row request never stands behind 4,096 rows.
"""

from __future__ import annotations

import mmap
import os
import resource
import signal
import socket
import struct
import time

import msgspec

from modeld.forest import sealed
from modeld.forest.errors import PlanError
from modeld.work import ipc, prctl, seccomp
from modeld.work.datasets import CurrentDatasets
from modeld.work.engine import Buffer, Engine
from modeld.work.trial import TrialFailed, prove


def main(channel: socket.socket) -> None:
    """Run one trial, then serve until the front closes `channel`."""
    packet = channel.recv(ipc.MAX_PACKET)
    if not packet:
        return
    trial = msgspec.json.decode(packet[ipc.HEAD.size :], type=ipc.Trial)

    def stage(name: str) -> None:
        channel.send(ipc.head(ipc.STAGE) + name.encode())

    plan_fd = _reserve(trial)
    current = None
    if trial.datasets is not None:
        stage("verifying")
        current = CurrentDatasets.tell(trial.datasets, trial.timeout_s / 2)
    _confine(trial)
    try:
        engine, ready, plans = prove(trial, stage, current)
    except TrialFailed as failure:
        answer = msgspec.json.encode(ipc.Rejected(failure.stage, str(failure), failure.again))
        channel.send(ipc.head(ipc.REJECTED) + answer[: ipc.INLINE_BYTES])
        return
    signal.setitimer(signal.ITIMER_REAL, 0)
    if plans:
        try:
            sealed.seal(plan_fd, plans)
            engine.use(sealed.open_plans(plan_fd, trial.max_bytes))
        except (OSError, PlanError) as error:
            ready.planned, ready.unplanned_why = False, f"no sealed memory for the plans: {error}"
        plans.clear()  # from here on the front and this process share the memfd's pages
    packet = ipc.head(ipc.READY) + msgspec.json.encode(ready)
    socket.send_fds(channel, [packet], [plan_fd] if ready.planned else [])
    if plan_fd >= 0:
        os.close(plan_fd)
    _serve(channel, engine)


def _reserve(trial: ipc.Trial) -> int:
    try:
        return sealed.reserve(trial.max_bytes)
    except OSError:
        return -1  # the plans are for speed; what they can't have is told when they are there


def _confine(trial: ipc.Trial) -> None:
    """Limits that hold before the first byte of the model is read."""
    prctl.set_name(f"modeld:{trial.model}"[:15])
    prctl.no_new_privileges()
    # The front kills a trial that is late; this alarm (default action: death) is for a trial that outlives the front.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, trial.timeout_s * 1.5 + 1)
    # What native libraries print on their way down says no more than the signal that ends them.
    with open(os.devnull, "wb") as null:
        os.dup2(null.fileno(), 1)
        os.dup2(null.fileno(), 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _lower(resource.RLIMIT_NOFILE, 64)
    _lower(resource.RLIMIT_FSIZE, 0)
    _lower(resource.RLIMIT_AS, trial.memory_limit_mb << 20)
    seccomp.restrict()


def _lower(limit: int, value: int) -> None:
    _, hard = resource.getrlimit(limit)
    if hard != resource.RLIM_INFINITY:
        value = min(value, hard)
    resource.setrlimit(limit, (value, value))


class _Bulk:
    """One large matrix under way, slice by slice: the rows in a memfd, the outputs behind them."""

    def __init__(self, fd: int, rows: int, columns: int, job: int, engine: Engine) -> None:
        inputs = rows * columns * 8
        self._map = mmap.mmap(fd, inputs + rows * engine.row_width * 8)
        os.close(fd)
        self._source, self._target = Buffer(self._map), Buffer(self._map, inputs)
        self._at = 0
        self.rows, self.job, self.spent_ns = rows, job, 0

    def step(self, engine: Engine) -> bool:
        """Compute one slice; True when the matrix is done."""
        start = time.perf_counter_ns()
        to = min(self._at + engine.slice_rows, self.rows) if engine.row_independent else self.rows
        engine.predict(self._source, self._target, self.rows, self._at, to)
        self._at = to
        self.spent_ns += time.perf_counter_ns() - start
        return to == self.rows


def _serve(channel: socket.socket, engine: Engine) -> None:
    """Answer PREDICT packets until end of file."""
    packet, reply = bytearray(ipc.MAX_PACKET), bytearray(ipc.MAX_PACKET)
    into, out = memoryview(packet), memoryview(reply)
    # Rows are predicted where the packet landed, and outputs where they leave: no copies in between.
    source, target = Buffer(packet, ipc.HEAD.size), Buffer(reply, ipc.HEAD.size)
    unpack, pack_into, head_size = ipc.HEAD.unpack_from, ipc.HEAD.pack_into, ipc.HEAD.size
    row_bytes = engine.row_width * 8
    clock = time.perf_counter_ns
    bulk: _Bulk | None = None
    while True:
        if bulk is not None:
            # One slice between two packets: neither waits for more than one of the other.
            if bulk.step(engine):
                channel.send(ipc.head(ipc.RESULT, rows=bulk.rows, job=bulk.job, ns=bulk.spent_ns))
                bulk = None
                continue
            try:
                size, fds, _, _ = channel.recvmsg_into([into], 64, socket.MSG_DONTWAIT)
            except BlockingIOError:
                continue
        else:
            size, fds, _, _ = channel.recvmsg_into([into], 64)
        if not size:
            return
        kind, rows, columns, _, job, _ = unpack(packet)
        if kind == ipc.PREDICT_MEMFD:
            bulk = _Bulk(struct.unpack("i", fds[0][2])[0], rows, columns, job, engine)
            continue
        start = clock()
        engine.predict(source, target, rows, 0, rows)
        pack_into(reply, 0, ipc.RESULT, rows, 0, 0, job, clock() - start)
        channel.send(out[: head_size + rows * row_bytes])
