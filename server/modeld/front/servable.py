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
import socket
import struct
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from modeld.errors import RequestError, retryable
from modeld.forest.scorer import Scorer
from modeld.front.job import Job, refused
from modeld.front.lane import Lane, WorkerLost
from modeld.front.live import LiveRows
from modeld.front.matrix import MatrixTransfer
from modeld.front.outputs import Outputs
from modeld.front.planned import Plans, Proof
from modeld.front.waiting import Waiting
from modeld.swap.policy import TRANSITIONS, Pointer, State
from modeld.wire import tensors as wire_tensors
from modeld.wire.contract import Contract
from modeld.work import ipc

#: Requests up to this many rows are predicted in one go; larger ones slice by slice.
SMALL_ROWS = 8
#: Rows of small requests that go to a worker as one matrix at most.
BATCH_ROWS = 16

_VALUE = struct.Struct("<d")


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
        self._waiting = Waiting(queue_requests, queue_bytes)
        self._clock_ns = clock_ns
        self._next_id = 0
        self._on_bad_output = on_bad_output
        self._in_pieces = in_pieces
        self.live = LiveRows(contract, live_rows)
        self._outputs = Outputs(contract, self.live)
        self._plans = Plans(unplanned_why)
        #: What an operator should know of this version.
        self.warnings: tuple[str, ...] = ()
        self._row_bytes = contract.n_features * 8
        self._reply_bytes = contract.row_width * 8
        self._inline_rows = min(SMALL_ROWS, ipc.INLINE_BYTES // max(self._row_bytes, self._reply_bytes))
        self._batch_rows = min(BATCH_ROWS, ipc.INLINE_BYTES // max(self._row_bytes, self._reply_bytes))

    def move(self, to: State) -> None:
        """Change state. Raises ValueError for a transition that isn't legal."""
        if to not in TRANSITIONS[self.state]:
            raise ValueError(f"{self.contract.label}: {self.state} → {to} is no legal transition")
        self.state = to
        if to is not State.SERVING:
            self._plans.drop_proof()

    @property
    def large_rows(self) -> int:
        """A matrix of more rows goes to a worker as a memfd, and it is the worker that looks for infinities in it."""
        return max(self._plans.rows, self._inline_rows)

    @property
    def wants_plans(self) -> bool:
        """Whether a proof of plans may find some."""
        return self._plans.wanted

    @property
    def unplanned_why(self) -> str:
        """Why no plan serves; "" where one does."""
        return self._plans.why_none

    @property
    def path(self) -> str:
        """What answers small requests: `plan`, in this process, or `worker`."""
        return "plan" if self._plans.rows else "worker"

    def prove(self, proof: Proof) -> None:
        """Plans are being proved: `use_plans` or `do_without_plans` follows, or the version stops serving."""
        self._plans.prove(proof)

    def use_plans(self, scorers: Sequence[Scorer], scored_rows: int, fd: int, why_not: str = "") -> None:
        """Take proved and checked plans, one for each output, between two requests.

        From now on up to `scored_rows` rows are scored here; where that is 0, `why_not` says why. Workers get the plans
        by `fd`, the sealed memfd that has them, for all other rows; it is this object's from now on (-1: none).
        """
        self._plans.use(scorers, scored_rows, fd, why_not)
        for lane in self.lanes:
            self._plans.send(lane)

    def do_without_plans(self, why: str) -> None:
        """There are none, and another proof would find none either."""
        self._plans.do_without(why)

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
        return len(self._waiting) + under_way

    def attach(self, lane: Lane) -> None:
        """A proven worker joins; what waited goes to it."""
        self.lanes.append(lane)
        self._plans.send(lane)
        self._feed(lane)

    def submit(self, job: Job) -> None:
        """Predict now or queue. Raises RequestError BUSY where the queue is full."""
        if job.rows <= self._plans.rows:
            self._score(job)
            return
        waiting = self._waiting
        if waiting.full or (not waiting.fits(job) and self.pending):
            raise retryable(
                "BUSY", f"{self.contract.label}: {self.pending} requests are waiting; try again or elsewhere"
            )
        if job.rows > self._inline_rows:
            waiting.append(waiting.bulk, job)
            for lane in self.lanes:
                if lane.bulk is None:
                    self._feed(lane)
                    return
            return
        if not waiting.small:
            for lane in self.lanes:
                if lane.small is None:
                    self._send_small(lane, [job], bytes(job.data), job.rows)
                    return
        waiting.append(waiting.small, job)

    def _score(self, job: Job) -> None:
        """Answer here and now, by the plans: there is nothing to wait for, not even for a worker."""
        start = self._clock_ns()
        if job.deadline_ns is not None and self._expired(job, start):
            return
        job.queue_ns = start - job.admitted_ns
        tensors = [scorer.score_bytes(bytes(job.data), job.rows) for scorer in self._plans.scorers]
        ns = self._clock_ns() - start
        job.path = "plan"
        if not self._outputs.one(job, tensors, ns):
            self._refuse_non_finite(job)

    def hung(self, small_ns: int, row_ns: int) -> list[Lane]:
        """Lanes whose worker has been silent for longer than any honest one."""
        now = self._clock_ns()
        return [lane for lane in self.lanes if lane.late(now, small_ns, row_ns)]

    def expire(self) -> None:
        """Refuse what waits and is late, also while there is no worker to take it."""
        now = self._clock_ns()
        for job in self._waiting.take_out(lambda job: job.deadline_ns is not None and job.deadline_ns <= now):
            self._expired(job, now)

    def refuse_before(self, admitted_ns: int, error: Callable[[], RequestError]) -> None:
        """Refuse what was admitted up to then and isn't answered yet; what a worker makes of it later is nobody's."""
        for job in self._waiting.take_out(lambda job: job.admitted_ns <= admitted_ns):
            job.refuse(error())
        for lane in self.lanes:
            lane.small = (
                [refused(job, admitted_ns, error) for job in lane.small] if lane.small else lane.small
            )
            if lane.bulk is not None:
                lane.bulk.job = refused(lane.bulk.job, admitted_ns, error)

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
        return [*self._take_back(), *self._waiting.take_all()]

    def close(self, *, kill: bool) -> None:
        for lane in self.lanes:
            lane.channel.close(kill=kill)
            lane.take()
        self.lanes.clear()
        self._plans.close()
        self.live.clear()

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
            if self._waiting.small:
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
        waiting = self._waiting
        for queue, jobs in ((waiting.small, small), (waiting.bulk, bulk)):
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
                    waiting.put_back(queue, job)
        for other in list(self.lanes):
            self._feed(other)

    def _take_back(self) -> list[Job]:
        return [job for lane in self.lanes for jobs in lane.take() for job in jobs]

    def _feed(self, lane: Lane) -> None:
        """Give `lane` what waits."""
        waiting = self._waiting
        if lane.small is None and waiting.small:
            batch: list[Job] = []
            rows = 0
            now = self._clock_ns()
            while waiting.small and rows + waiting.small[0].rows <= self._batch_rows:
                job = waiting.pop(waiting.small)
                if self._expired(job, now):
                    continue
                batch.append(job)
                rows += job.rows
                if job.attempts or not self.contract.row_independent:
                    break  # it was under way when a worker died: alone, it takes no innocent one with it
            if batch:
                data = bytes(batch[0].data) if len(batch) == 1 else b"".join([job.data for job in batch])
                self._send_small(lane, batch, data, rows)
        while lane.bulk is None and waiting.bulk:
            job = waiting.pop(waiting.bulk)
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
            if not self._outputs.one(batch[0], [packet[ipc.HEAD.size :]], ns):
                self._refuse_non_finite(batch[0])
            return
        for job in self._outputs.split(batch, total, memoryview(packet)[ipc.HEAD.size :], ns):
            self._refuse_non_finite(job)

    def _finish_bulk(self, lane: Lane, bulk: MatrixTransfer, rows: int, ns: int) -> None:
        job = bulk.job
        data = bulk.outputs()
        if rows != job.rows or len(data) != rows * self._reply_bytes:
            raise WorkerLost(f"{len(data)} bytes of outputs for {job.rows} rows")
        lane.end_bulk()
        self._feed(lane)
        for bad in self._outputs.split([job], rows, memoryview(data), ns):
            self._refuse_non_finite(bad)

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

    def _refuse_non_finite(self, job: Job) -> None:
        incident = self._on_bad_output(self, "an output isn't finite")
        job.refuse(
            RequestError("INTERNAL", f"{self.contract.label}: an output isn't finite", incident=incident)
        )
