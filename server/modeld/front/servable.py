"""One version with its workers: the queue in front of them, what is under way, and what happens when one dies.

Where a version has plans, which come some time after it began to serve, requests of few rows are scored at once in
this process. Everything else goes to workers:
small requests (up to SMALL_ROWS rows) have their own lane. Batching is opportunistic: what queued while the worker was
busy goes to it as one matrix, and nothing waits for a batch to fill. A larger matrix goes as a memfd, piece by piece
(`modeld.front.matrix`), one at a time a worker, and the worker looks for small packets between its slices.

A worker that dies takes no request with it: what was under way is put back in front of the queue, once. A request that
kills two workers gets an error.
"""

from __future__ import annotations

import contextlib
import math
import os
import socket
import struct
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from modeld.errors import RequestError, retryable
from modeld.forest.scorer import Scorer
from modeld.front.live import LiveRows
from modeld.front.matrix import MatrixTransfer
from modeld.swap.policy import TRANSITIONS, Pointer, State
from modeld.wire import tensors as wire_tensors
from modeld.wire.contract import Contract
from modeld.work import ipc

#: Requests up to this many rows are predicted in one go; larger ones slice by slice.
SMALL_ROWS = 8
#: Rows of small requests that go to a worker as one matrix at most.
BATCH_ROWS = 16

#: Why no plan serves a version, as long as that may change.
UNPROVED, PROVING = "no plan was proved yet", "the plan is being proved"

_VALUE = struct.Struct("<d")


class Job:
    """One admitted request; a subclass makes the reply from what the request was bound to when it was admitted.

    Exactly one of `finish` and `refuse` is called, once.
    """

    __slots__ = ("admitted_ns", "attempts", "data", "deadline_ns", "path", "queue_ns", "rows")

    def __init__(
        self, data: bytes | memoryview, rows: int, admitted_ns: int, deadline_ns: int | None
    ) -> None:
        #: Float64 rows; those of a large matrix are a view of the message that they came in.
        self.data = data
        self.rows = rows
        self.admitted_ns = admitted_ns
        self.deadline_ns = deadline_ns
        self.attempts = 0
        self.queue_ns = 0
        #: What computed it: `plan` or `worker`.
        self.path = "worker"

    def finish(self, tensors: list[bytes], predict_ns: int) -> None:
        """The outputs: float64 bytes, one for each output of the contract, and how long the prediction took."""
        raise NotImplementedError

    def refuse(self, error: RequestError) -> None:
        """There is no prediction, for this reason."""
        raise NotImplementedError

    def rebind(self, binding: Any) -> bool:  # noqa: ARG002
        """Whether another version may answer, and if so, from now on under its label."""
        return False


class _Refused(Job):
    """Stands for a job under way that has been refused. It is late, so that no worker is asked for it again."""

    def __init__(self, job: Job) -> None:
        super().__init__(job.data, job.rows, job.admitted_ns, deadline_ns=0)

    def finish(self, tensors: list[bytes], predict_ns: int) -> None:
        """Nobody waits for it."""

    def refuse(self, error: RequestError) -> None:
        """It has been."""


def _refused(job: Job, admitted_ns: int, error: Callable[[], RequestError]) -> Job:
    """`job`, or where it was admitted up to then, what stands for it after its refusal."""
    if job.admitted_ns > admitted_ns:
        return job
    job.refuse(error())
    return _Refused(job)


class WorkerLost(Exception):
    """The worker's channel is at its end."""


class Channel(Protocol):
    """The front's end of one worker."""

    sock: socket.socket
    pid: int

    def close(self, *, kill: bool) -> None: ...


class Proof(Protocol):
    """A proof of plans under way."""

    def drop(self) -> None:
        """End it; it reports nothing more."""


class Lane:
    """What one worker has under way: at most one batch of small requests and one large matrix."""

    __slots__ = ("bulk", "channel", "small", "small_id", "small_rows", "small_since_ns", "spare_fd")

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self.small: list[Job] | None = None
        self.small_id = 0
        self.small_rows = 0
        self.bulk: MatrixTransfer | None = None
        #: The memfd of the matrix before, which the worker has seen and is done with; -1: none.
        self.spare_fd = -1
        #: When the worker got the batch that it has under way.
        self.small_since_ns = 0

    def end_bulk(self) -> None:
        """The worker is done with its large matrix."""
        bulk, self.bulk = self.bulk, None
        if bulk is not None:
            self.spare_fd = bulk.give_back()

    def take(self) -> tuple[list[Job], list[Job]]:
        """What the worker, which gets nothing more, has under way."""
        small, self.small = self.small or [], None
        bulk, self.bulk = self.bulk, None
        if self.spare_fd >= 0:
            os.close(self.spare_fd)
            self.spare_fd = -1
        if bulk is None:
            return small, []
        bulk.close()
        return small, [bulk.job]

    def late(self, now_ns: int, small_ns: int, row_ns: int) -> bool:
        """Whether the worker has had something for longer than any honest one takes."""
        if self.small is not None and now_ns - self.small_since_ns > small_ns:
            return True
        bulk = self.bulk
        return bulk is not None and now_ns - bulk.since_ns > small_ns + bulk.job.rows * row_ns


class Servable:
    """A version that passed its trial. Owned by the front's loop; not thread-safe."""

    def __init__(
        self,
        pointer: Pointer,
        contract: Contract,
        clock_ns: Callable[[], int],
        *,
        queue_requests: int,
        queue_bytes: int,
        on_bad_output: Callable[[Servable, str], str],
        in_pieces: Callable[[Callable[[], bool]], None],
        live_rows: int = 0,
        unplanned_why: str = "",
    ) -> None:
        """`live_rows`: answers to remember. `unplanned_why`: why there can be no plans; empty: there may be some.
        `in_pieces` calls what it is given once in each turn of the loop, until that returns True."""
        self.pointer = pointer
        self.contract = contract
        self.state = State.READY
        self.lanes: list[Lane] = []
        self._small: deque[Job] = deque()
        self._bulk: deque[Job] = deque()
        self._queued_bytes = 0
        self._queue_requests = queue_requests
        self._queue_bytes = queue_bytes
        self._clock_ns = clock_ns
        self._next_id = 0
        self._on_bad_output = on_bad_output
        self._in_pieces = in_pieces
        self.live = LiveRows(contract, live_rows)
        self._remember_one = self.live.add_one
        self._scorers: tuple[Scorer, ...] = ()
        self._scored_rows = 0
        self._plan_fd = -1
        #: The proof of plans that is under way, and why none serves; "" where one does.
        self.proof: Proof | None = None
        self.unplanned_why = unplanned_why or UNPROVED
        #: What an operator should know of this version.
        self.warnings: tuple[str, ...] = ()
        self._row_bytes = contract.n_features * 8
        self._reply_bytes = contract.row_width * 8
        self._inline_rows = min(SMALL_ROWS, ipc.INLINE_BYTES // max(self._row_bytes, self._reply_bytes))
        #: A matrix of more rows goes to a worker as a memfd, and it is the worker that looks for infinities in it.
        self.large_rows = max(self._scored_rows, self._inline_rows)
        self._batch_rows = min(BATCH_ROWS, ipc.INLINE_BYTES // max(self._row_bytes, self._reply_bytes))

    def move(self, to: State) -> None:
        """Change state. Raises ValueError for a transition that isn't legal."""
        if to not in TRANSITIONS[self.state]:
            raise ValueError(f"{self.contract.label}: {self.state} → {to} is no legal transition")
        self.state = to
        if to is not State.SERVING:
            self._drop_proof()

    @property
    def wants_plans(self) -> bool:
        """Whether a proof of plans may find some."""
        return self.unplanned_why == UNPROVED

    def prove(self, proof: Proof) -> None:
        """Plans are being proved: `use_plans` or `do_without_plans` follows, or the version stops serving."""
        self.proof, self.unplanned_why = proof, PROVING

    def use_plans(self, scorers: Sequence[Scorer], scored_rows: int, fd: int, why_not: str = "") -> None:
        """Take proved and checked plans, one for each output, between two requests.

        From now on up to `scored_rows` rows are scored here; where that is 0, `why_not` says why. Workers get the plans
        by `fd`, the sealed memfd that has them, for all other rows; it is this object's from now on (-1: none).
        """
        self.proof, self.unplanned_why = None, why_not
        self._scorers, self._scored_rows, self._plan_fd = tuple(scorers), scored_rows, fd
        for lane in self.lanes:
            self._send_plans(lane)

    def do_without_plans(self, why: str) -> None:
        """There are none, and another proof would find none either."""
        self.proof, self.unplanned_why = None, why

    def _send_plans(self, lane: Lane) -> None:
        if self._plan_fd >= 0:
            with contextlib.suppress(OSError):  # as in _send_small
                socket.send_fds(lane.channel.sock, [ipc.head(ipc.USE_PLANS)], [self._plan_fd])

    def _drop_proof(self) -> None:
        if self.proof is not None:
            self.proof.drop()
            self.proof, self.unplanned_why = None, UNPROVED

    @property
    def path(self) -> str:
        """What answers small requests: `plan`, in this process, or `worker`."""
        return "plan" if self._scored_rows else "worker"

    @property
    def alive(self) -> bool:
        return bool(self.lanes)

    @property
    def n_workers(self) -> int:
        return len(self.lanes)

    @property
    def pending(self) -> int:
        """Requests admitted and not yet answered."""
        under_way = sum(len(lane.small or ()) + (lane.bulk is not None) for lane in self.lanes)
        return len(self._small) + len(self._bulk) + under_way

    def attach(self, lane: Lane) -> None:
        """A proven worker joins; what waited goes to it."""
        self.lanes.append(lane)
        self._send_plans(lane)
        self._feed(lane)

    def submit(self, job: Job) -> None:
        """Predict now or queue. Raises RequestError BUSY where the queue is full."""
        if job.rows <= self._scored_rows:
            self._score(job)
            return
        if len(self._small) + len(self._bulk) >= self._queue_requests or (
            self._queued_bytes + len(job.data) > self._queue_bytes and self.pending
        ):
            raise retryable(
                "BUSY", f"{self.contract.label}: {self.pending} requests are waiting; try again or elsewhere"
            )
        if job.rows <= self._inline_rows:
            if not self._small:
                for lane in self.lanes:
                    if lane.small is None:
                        self._send_small(lane, [job], bytes(job.data), job.rows)
                        return
            self._small.append(job)
        else:
            self._bulk.append(job)
        self._queued_bytes += len(job.data)
        if job.rows > self._inline_rows:
            for lane in self.lanes:
                if lane.bulk is None:
                    self._feed(lane)
                    break

    def _score(self, job: Job) -> None:
        """Answer here and now, by the plans: there is nothing to wait for, not even for a worker."""
        start = self._clock_ns()
        if job.deadline_ns is not None and self._expired(job, start):
            return
        job.queue_ns = start - job.admitted_ns
        tensors = [scorer.score_bytes(bytes(job.data), job.rows) for scorer in self._scorers]
        ns = self._clock_ns() - start
        job.path = "plan"
        if len(tensors) == 1 and len(tensors[0]) == 8:  # one row, one value: the common case
            finite = math.isfinite(_VALUE.unpack(tensors[0])[0])
        else:
            finite = all(np.isfinite(np.frombuffer(tensor)).all() for tensor in tensors)
        if finite:
            job.finish(tensors, ns)
            if job.rows == 1:
                self._remember_one((job.data, tensors))
            else:
                self.live.add(job.data, job.rows, tensors)
        else:
            self._refuse_non_finite(job)

    def hung(self, small_ns: int, row_ns: int) -> list[Lane]:
        """Lanes whose worker has been silent for longer than any honest one."""
        now = self._clock_ns()
        return [lane for lane in self.lanes if lane.late(now, small_ns, row_ns)]

    def expire(self) -> None:
        """Refuse what waits and is late, also while there is no worker to take it."""
        now = self._clock_ns()
        for queue in (self._small, self._bulk):
            late = [job for job in queue if job.deadline_ns is not None and job.deadline_ns <= now]
            for job in late:
                queue.remove(job)
                self._queued_bytes -= len(job.data)
                self._expired(job, now)

    def refuse_before(self, admitted_ns: int, error: Callable[[], RequestError]) -> None:
        """Refuse what was admitted up to then and isn't answered yet; what a worker makes of it later is nobody's."""
        for queue in (self._small, self._bulk):
            for job in [job for job in queue if job.admitted_ns <= admitted_ns]:
                queue.remove(job)
                self._queued_bytes -= len(job.data)
                job.refuse(error())
        for lane in self.lanes:
            lane.small = (
                [_refused(job, admitted_ns, error) for job in lane.small] if lane.small else lane.small
            )
            if lane.bulk is not None:
                lane.bulk.job = _refused(lane.bulk.job, admitted_ns, error)

    def fail_all(self, error: Callable[[], RequestError]) -> None:
        """Refuse everything that waits or is under way: exactly one error each."""
        for job in self._take_all():
            job.refuse(error())

    def hand_over(self, binding: Any, error: Callable[[], RequestError]) -> None:
        """Give everything that waits to another version; what mustn't be answered by another is refused."""
        for job in self._take_all():
            if not job.rebind(binding):
                job.refuse(error())
                continue
            try:
                # Another version may have another contract, and another idea of what is large.
                wire_tensors.check_finite(np.frombuffer(job.data), binding.contract)
                job.data = bytes(job.data)
                binding.served.submit(job)
            except RequestError as e:
                job.refuse(e)

    def _take_all(self) -> list[Job]:
        jobs = [*self._take_back(), *self._small, *self._bulk]
        self._small.clear()
        self._bulk.clear()
        self._queued_bytes = 0
        return jobs

    def close(self, *, kill: bool) -> None:
        for lane in self.lanes:
            lane.channel.close(kill=kill)
            lane.take()
        self.lanes.clear()
        self._drop_proof()
        self._scorers, self._scored_rows = (), 0
        self.live.clear()
        if self._plan_fd >= 0:
            os.close(self._plan_fd)
            self._plan_fd = -1

    def on_packet(self, lane: Lane, packet: bytes) -> None:
        """A RESULT from a worker. Raises WorkerLost where it says anything else."""
        if len(packet) < ipc.HEAD.size:
            raise WorkerLost(f"a packet of {len(packet)} bytes")
        kind, rows, column, _, job_id, ns = ipc.HEAD.unpack_from(packet)
        bulk = lane.bulk
        if kind == ipc.NON_FINITE and bulk is not None and job_id == bulk.id:
            self._refuse_bulk(lane, bulk.job, rows, column)
            return
        if kind != ipc.RESULT:
            raise WorkerLost(f"an unexpected packet of kind {kind}")
        if lane.small is not None and job_id == lane.small_id:
            batch, total = lane.small, lane.small_rows
            if rows != total or len(packet) != ipc.HEAD.size + total * self._reply_bytes:
                raise WorkerLost(f"{rows} rows in {len(packet)} bytes where {total} were asked for")
            lane.small = None
            if self._small:
                self._feed(lane)  # the worker goes on while the replies are made
            self._finish_small(batch, total, packet, ns)
        elif bulk is not None and job_id == bulk.id:
            self._finish_bulk(lane, bulk, rows, ns)
        else:
            raise WorkerLost(f"a result for job {job_id}, which isn't under way")

    def on_death(self, lane: Lane) -> None:
        """The worker is gone: its work goes back to the front of the queue, or is refused the second time."""
        if lane in self.lanes:
            self.lanes.remove(lane)
        small, bulk = lane.take()
        for queue, jobs in ((self._small, small), (self._bulk, bulk)):
            for job in reversed(jobs):
                job.attempts += 1
                if job.attempts > 1:
                    incident = self._on_bad_output(self, "a request took two workers with it")
                    job.refuse(
                        RequestError(
                            "INTERNAL", f"{self.contract.label}: the prediction failed", incident=incident
                        )
                    )
                else:
                    queue.appendleft(job)
                    self._queued_bytes += len(job.data)
        for other in list(self.lanes):
            self._feed(other)

    def _take_back(self) -> list[Job]:
        return [job for lane in self.lanes for jobs in lane.take() for job in jobs]

    def _feed(self, lane: Lane) -> None:
        """Give `lane` what waits."""
        if lane.small is None and self._small:
            batch: list[Job] = []
            rows = 0
            now = self._clock_ns()
            while self._small and rows + self._small[0].rows <= self._batch_rows:
                job = self._small.popleft()
                self._queued_bytes -= len(job.data)
                if self._expired(job, now):
                    continue
                batch.append(job)
                rows += job.rows
                if job.attempts or not self.contract.row_independent:
                    break  # it was under way when a worker died: alone, it takes no innocent one with it
            if batch:
                data = bytes(batch[0].data) if len(batch) == 1 else b"".join([job.data for job in batch])
                self._send_small(lane, batch, data, rows)
        while lane.bulk is None and self._bulk:
            job = self._bulk.popleft()
            self._queued_bytes -= len(job.data)
            if not self._expired(job, self._clock_ns()):
                self._send_bulk(lane, job)

    def _expired(self, job: Job, now: int) -> bool:
        if job.deadline_ns is None or now < job.deadline_ns:
            return False
        waited = (now - job.admitted_ns) // 1000
        job.refuse(
            retryable("DEADLINE_EXCEEDED", f"{self.contract.label}: waited {waited} µs; nothing was computed")
        )
        return True

    def _send_small(self, lane: Lane, batch: list[Job], data: bytes, rows: int) -> None:
        self._next_id += 1
        lane.small, lane.small_id, lane.small_rows = batch, self._next_id, rows
        now = self._clock_ns()
        for job in batch:
            job.queue_ns = now - job.admitted_ns
        lane.small_since_ns = now
        packet = ipc.HEAD.pack(ipc.PREDICT, rows, self.contract.n_features, 0, self._next_id, 0) + data
        # A worker that is gone shows by its channel's end of file, which puts the batch back; the socket buffer
        # holds all that a lane may have under way, so a full one is a hung worker, and the sweep ends that.
        with contextlib.suppress(OSError):
            lane.channel.sock.send(packet)

    def _send_bulk(self, lane: Lane, job: Job) -> None:
        try:
            fd, lane.spare_fd = lane.spare_fd, -1
            lane.bulk = bulk = MatrixTransfer(job, job.rows * self._reply_bytes, self._clock_ns(), fd)
        except OSError as e:
            self._refuse_no_room(job, e)
            return
        self._in_pieces(lambda: self._move_bulk(lane, bulk))

    def _move_bulk(self, lane: Lane, bulk: MatrixTransfer) -> bool:
        """Bring `bulk` a piece nearer to the worker; True when there is no more to do."""
        if lane.bulk is not bulk:
            return True  # the worker died, or the request was refused
        try:
            if not bulk.move():
                return False
        except OSError as e:
            lane.end_bulk()
            self._refuse_no_room(bulk.job, e)
            self._feed(lane)
            return True
        now = bulk.since_ns = self._clock_ns()
        if self._expired(bulk.job, now):
            lane.end_bulk()
            self._feed(lane)
            return True
        self._next_id += 1
        bulk.id = self._next_id
        bulk.job.queue_ns = now - bulk.job.admitted_ns
        packet = ipc.head(
            ipc.PREDICT_MEMFD, rows=bulk.job.rows, columns=self.contract.n_features, job=bulk.id
        )
        with contextlib.suppress(OSError):  # as in _send_small
            socket.send_fds(lane.channel.sock, [packet], [bulk.fd])
        return True

    def _refuse_no_room(self, job: Job, error: OSError) -> None:
        """No descriptor, no memory: that is this request's trouble, not the daemon's."""
        job.refuse(retryable("BUSY", f"{self.contract.label}: no room for the matrix: {error.strerror}"))

    def _finish_small(self, batch: list[Job], total: int, packet: bytes, ns: int) -> None:
        if len(packet) == ipc.HEAD.size + 8:  # one row, one value: the common case
            job = batch[0]
            if math.isfinite(_VALUE.unpack_from(packet, ipc.HEAD.size)[0]):
                tensors = [packet[ipc.HEAD.size :]]
                job.finish(tensors, ns)
                self._remember_one((job.data, tensors))
            else:
                self._refuse_non_finite(job)
            return
        self._split(batch, total, memoryview(packet)[ipc.HEAD.size :], ns)

    def _finish_bulk(self, lane: Lane, bulk: MatrixTransfer, rows: int, ns: int) -> None:
        job = bulk.job
        data = bulk.outputs()
        if rows != job.rows or len(data) != rows * self._reply_bytes:
            raise WorkerLost(f"{len(data)} bytes of outputs for {job.rows} rows")
        lane.end_bulk()
        self._feed(lane)
        self._split([job], rows, memoryview(data), ns)

    def _refuse_bulk(self, lane: Lane, job: Job, row: int, column: int) -> None:
        """The worker found a value that the contract doesn't allow; that it is there is seen before it is believed."""
        if row >= job.rows or column >= self.contract.n_features:
            raise WorkerLost(f"an infinity in row {row}, column {column} of {job.rows} rows")
        value = _VALUE.unpack_from(job.data, row * self._row_bytes + column * 8)[0]
        refusal = wire_tensors.non_finite(value, row, column, self.contract)
        if refusal is None:
            raise WorkerLost(f"row {row}, column {column} is {value}, which isn't to be refused")
        lane.end_bulk()
        self._feed(lane)
        job.refuse(refusal)

    def _split(self, batch: list[Job], total: int, data: memoryview, ns: int) -> None:
        """Outputs lie one after the other, each over all rows of the batch: every job gets its rows of each."""
        finite = np.isfinite(np.frombuffer(data, np.float64)).all()
        first = 0
        for job in batch:
            tensors: list[bytes] = []
            at = 0
            for _, width in self.contract.outputs:
                row = (width or 1) * 8
                tensors.append(bytes(data[at + first * row : at + (first + job.rows) * row]))
                at += total * row
            first += job.rows
            if finite or all(np.isfinite(np.frombuffer(tensor)).all() for tensor in tensors):
                job.finish(tensors, ns)
                self.live.add(job.data, job.rows, tensors)
            else:
                self._refuse_non_finite(job)

    def _refuse_non_finite(self, job: Job) -> None:
        incident = self._on_bad_output(self, "an output isn't finite")
        job.refuse(
            RequestError("INTERNAL", f"{self.contract.label}: an output isn't finite", incident=incident)
        )
