"""A worker: proves one version, then serves it with the very model that passed. Or a prover: makes a version's plans.
Or a decoder (`modeld.work.decoder`).

It is forked by the zygote, has one thread, and talks to the front alone. It leaves when the front closes the channel;
memory is freed by that exit, never by freeing a Booster. What kills it (a truncated model aborts the process that
loads it) kills no one else.

A matrix that came as a memfd is computed in slices, and what waits in the socket is answered between two slices: a
one-row request never stands behind 4,096 rows.
"""

from __future__ import annotations

import math
import mmap
import os
import resource
import signal
import socket
import struct
import time

import msgspec
import numpy as np
from numpy.typing import NDArray

from modeld.forest import sealed
from modeld.forest.errors import PlanError
from modeld.work import decoder, ipc, prctl
from modeld.work.confine import at_most, confine
from modeld.work.datasets import CurrentDatasets
from modeld.work.engine import Buffer, Engine
from modeld.work.trial import TrialFailed, plans, prove
from modelreg.errors import NotFoundError, RegistryError, StoreUnavailableError

#: How far a prover steps back for everybody else (nice(2)).
_PROVER_NICE = 10
#: Of a reason, so much travels. Characters.
_MAX_WHY = 2000


def main(channel: socket.socket) -> None:
    """Run one trial, then serve until the front closes `channel`."""
    packet, fds, _, _ = socket.recv_fds(channel, ipc.MAX_PACKET, 1)
    if not packet:
        return
    if packet[0] == ipc.DECODE:
        decoder.main(channel, ipc.HEAD.unpack_from(packet)[1])
        return
    trial = msgspec.json.decode(packet[ipc.HEAD.size :], type=ipc.Trial)
    if packet[0] == ipc.PROVE:
        _make_plans(channel, trial)
        return

    def stage(name: str) -> None:
        channel.send(ipc.head(ipc.STAGE) + name.encode())

    current = None
    if trial.datasets is not None:
        stage("verifying")
        current = CurrentDatasets.tell(trial.datasets, trial.timeout_s / 2)
    _confine(trial)
    try:
        engine, ready = prove(trial, fds[0] if fds else -1, stage, current)
    except TrialFailed as failure:
        answer = msgspec.json.encode(ipc.Rejected(failure.stage, str(failure), failure.again))
        channel.send(ipc.head(ipc.REJECTED) + answer[: ipc.INLINE_BYTES])
        return
    _serve_without_end()
    channel.send(ipc.head(ipc.READY) + msgspec.json.encode(ready))
    _serve(channel, engine, nan_allowed=ready.nan_allowed)


def _make_plans(channel: socket.socket, trial: ipc.Trial) -> None:
    """Compile and prove plans beside the worker that serves, which goes first wherever both want a core."""
    os.nice(_PROVER_NICE)
    start = time.perf_counter()
    found: list[bytearray] = []
    fds: list[int] = []
    again = False
    try:
        fd = sealed.reserve(trial.max_bytes)
        _confine(trial)
        prctl.set_name("modeld-prover")
        found, why = plans(trial)
        if found:
            sealed.seal(fd, found)
            fds = [fd]
    except (NotFoundError, StoreUnavailableError) as error:
        why, again = str(error), True
    except (RegistryError, TrialFailed, OSError, PlanError, MemoryError) as error:
        why = str(error) or type(error).__name__
    took_ms = round((time.perf_counter() - start) * 1e3, 1)
    answer = msgspec.json.encode(ipc.Planned(took_ms, why[:_MAX_WHY], again))
    socket.send_fds(channel, [ipc.head(ipc.PLANS) + answer], fds)


def _confine(trial: ipc.Trial) -> None:
    """Limits that hold before the first byte of the model is read."""
    # The front kills a trial that is late; this alarm (default action: death) is for a trial that outlives the front.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, trial.timeout_s * 1.5 + 1)
    confine(f"modeld:{trial.model}", memory_limit_mb=trial.memory_limit_mb)
    # The time of all its threads together; the limit that can be raised again, for a worker that passes.
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (at_most(hard, math.ceil(trial.timeout_s) + 1), hard))


def _serve_without_end() -> None:
    """A trial has a deadline; what serves computes for as long as it lives."""
    signal.setitimer(signal.ITIMER_REAL, 0)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    resource.setrlimit(resource.RLIMIT_CPU, (hard, hard))


class _Shared:
    """A memfd of the front's, mapped. The front uses one again and again, and pages that are mapped cost nothing."""

    def __init__(self, fd: int) -> None:
        self.memory = mmap.mmap(fd, 0)
        self._inode = os.fstat(fd).st_ino

    def is_of(self, fd: int, size: int) -> bool:
        return os.fstat(fd).st_ino == self._inode and size <= len(self.memory)


class _Bulk:
    """One large matrix under way, slice by slice: the rows in shared memory, the outputs behind them."""

    def __init__(self, shared: _Shared, rows: int, columns: int, job: int, *, nan_allowed: bool) -> None:
        self._source, self._target = Buffer(shared.memory), Buffer(shared.memory, rows * columns * 8)
        self._at = 0
        self._allowed = _not_infinite if nan_allowed else np.isfinite
        self.rows, self.columns, self.job, self.spent_ns = rows, columns, job, 0
        #: Where the first value is that the contract doesn't allow, among the rows seen so far.
        self.bad: int | None = None

    def step(self, engine: Engine) -> bool:
        """Compute one slice; True when the matrix is done, or refused for a value in it."""
        start = time.perf_counter_ns()
        to = min(self._at + engine.slice_rows, self.rows) if engine.row_independent else self.rows
        values = self._source.values[self._at * self.columns : to * self.columns]
        if not np.isfinite(values).all() and not (allowed := self._allowed(values)).all():
            self.bad = self._at * self.columns + int(np.argmin(allowed))
            return True
        engine.predict(self._source, self._target, self.rows, self._at, to)
        self._at = to
        self.spent_ns += time.perf_counter_ns() - start
        return to == self.rows

    def answer(self) -> bytes:
        """What is said when all is done."""
        if self.bad is None:
            return ipc.head(ipc.RESULT, rows=self.rows, job=self.job, ns=self.spent_ns)
        row, column = divmod(self.bad, self.columns)
        return ipc.head(ipc.NON_FINITE, rows=row, columns=column, job=self.job)


def _not_infinite(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    return ~np.isinf(values)


def _serve(channel: socket.socket, engine: Engine, *, nan_allowed: bool) -> None:
    """Answer PREDICT packets until end of file."""
    packet, reply = bytearray(ipc.MAX_PACKET), bytearray(ipc.MAX_PACKET)
    into, out = memoryview(packet), memoryview(reply)
    # Rows are predicted where the packet landed, and outputs where they leave: no copies in between.
    source, target = Buffer(packet, ipc.HEAD.size), Buffer(reply, ipc.HEAD.size)
    unpack, pack_into, head_size = ipc.HEAD.unpack_from, ipc.HEAD.pack_into, ipc.HEAD.size
    row_bytes = engine.row_width * 8
    clock = time.perf_counter_ns
    bulk: _Bulk | None = None
    shared: _Shared | None = None
    while True:
        if bulk is not None:
            # One slice between two packets: neither waits for more than one of the other.
            if bulk.step(engine):
                channel.send(bulk.answer())
                bulk = None
                if shared is not None and len(shared.memory) > ipc.KEPT_BYTES:
                    shared = None
                prctl.set_slice(0)
                continue
            os.sched_yield()  # before the next slice, whoever wants this core for a moment
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
            fd = struct.unpack("i", fds[0][2])[0]
            if shared is None or not shared.is_of(fd, rows * (columns + engine.row_width) * 8):
                shared = _Shared(fd)
            os.close(fd)
            bulk = _Bulk(shared, rows, columns, job, nan_allowed=nan_allowed)
            # Whoever wakes up goes first from now on: a client that got its one row, say.
            prctl.set_slice(prctl.LONG_SLICE_NS)
            continue
        if kind == ipc.USE_PLANS:
            _use_plans(engine, struct.unpack("i", fds[0][2])[0])
            continue
        start = clock()
        engine.predict(source, target, rows, 0, rows)
        pack_into(reply, 0, ipc.RESULT, rows, 0, 0, job, clock() - start)
        channel.send(out[: head_size + rows * row_bytes])


def _use_plans(engine: Engine, fd: int) -> None:
    """The front has checked them; whoever can't have them goes on with the model, to the same bits."""
    try:
        engine.use(sealed.open_plans(fd, os.fstat(fd).st_size))
    except (PlanError, MemoryError):
        return
    finally:
        os.close(fd)
