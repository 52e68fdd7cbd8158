"""The workers of one version: what each has under way, what it is sent, what comes back, what is left when it dies."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import Callable

from modeld.errors import retryable
from modeld.front.job import Job, refuse_late
from modeld.front.lane import Lane, WorkerLost
from modeld.front.matrix import MatrixTransfer
from modeld.front.outputs import Outputs
from modeld.front.waiting import Waiting
from modeld.wire import tensors as wire_tensors
from modeld.wire.contract import Contract
from modeld.work import ipc

#: Requests up to this many rows are predicted in one go; larger ones slice by slice.
SMALL_ROWS = 8
#: Rows of small requests that go to a worker as one matrix at most.
BATCH_ROWS = 16

_VALUE = struct.Struct("<d")


class Crew:
    """Takes from what is `waiting` and hands to `outputs`. Owned by the front's loop."""

    def __init__(
        self,
        contract: Contract,
        clock_ns: Callable[[], int],
        waiting: Waiting,
        outputs: Outputs,
        in_pieces: Callable[[Callable[[], bool]], None],
    ) -> None:
        """`in_pieces` calls what it is given once in each turn of the loop, until that returns True."""
        self.lanes: list[Lane] = []
        self._contract = contract
        self._clock_ns = clock_ns
        self._waiting = waiting
        self._outputs = outputs
        self._in_pieces = in_pieces
        self._next_id = 0
        self._row_bytes = contract.n_features * 8
        self._reply_bytes = contract.row_width * 8
        #: More rows than this go to a worker as a memfd.
        self.inline_rows = min(SMALL_ROWS, ipc.INLINE_BYTES // max(self._row_bytes, self._reply_bytes))
        self._batch_rows = min(BATCH_ROWS, ipc.INLINE_BYTES // max(self._row_bytes, self._reply_bytes))

    @property
    def under_way(self) -> int:
        """Requests that workers have."""
        return sum(len(lane.small or ()) + (lane.bulk is not None) for lane in self.lanes)

    def take(self, job: Job) -> None:
        """Send it to an idle worker, or have it wait."""
        waiting = self._waiting
        if job.rows > self.inline_rows:
            waiting.append(waiting.bulk, job)
            for lane in self.lanes:
                if lane.bulk is None:
                    self.feed(lane)
                    return
            return
        if not waiting.small:
            for lane in self.lanes:
                if lane.small is None:
                    self._send_small(lane, [job], bytes(job.data), job.rows)
                    return
        waiting.append(waiting.small, job)

    def feed(self, lane: Lane) -> None:
        """Give `lane` what waits."""
        waiting, label = self._waiting, self._contract.label
        if lane.small is None and waiting.small:
            batch: list[Job] = []
            rows = 0
            now = self._clock_ns()
            while waiting.small and rows + waiting.small[0].rows <= self._batch_rows:
                job = waiting.pop(waiting.small)
                if refuse_late(job, now, label):
                    continue
                batch.append(job)
                rows += job.rows
                if job.attempts or not self._contract.row_independent:
                    break  # it was under way when a worker died: alone, it takes no innocent one with it
            if batch:
                data = bytes(batch[0].data) if len(batch) == 1 else b"".join([job.data for job in batch])
                self._send_small(lane, batch, data, rows)
        while lane.bulk is None and waiting.bulk:
            job = waiting.pop(waiting.bulk)
            if not refuse_late(job, self._clock_ns(), label):
                self._send_bulk(lane, job)

    def on_packet(self, lane: Lane, packet: bytes) -> list[Job]:
        """A RESULT from a worker. Raises WorkerLost where it says anything else.

        Returns:
            The jobs whose outputs aren't finite.
        """
        if len(packet) < ipc.HEAD.size:
            raise WorkerLost(f"a packet of {len(packet)} bytes")
        kind, rows, column, _, job_id, ns = ipc.HEAD.unpack_from(packet)
        bulk = lane.bulk
        if kind == ipc.NON_FINITE and bulk is not None and job_id == bulk.id:
            self._refuse_bulk(lane, bulk.job, rows, column)
            return []
        if kind != ipc.RESULT:
            raise WorkerLost(f"an unexpected packet of kind {kind}")
        if lane.small is not None and job_id == lane.small_id:
            batch, total = lane.small, lane.small_rows
            if rows != total or len(packet) != ipc.HEAD.size + total * self._reply_bytes:
                raise WorkerLost(f"{rows} rows in {len(packet)} bytes where {total} were asked for")
            lane.small = None
            if self._waiting.small:
                self.feed(lane)  # the worker goes on while the replies are made
            return self._finish_small(batch, total, packet, ns)
        if bulk is not None and job_id == bulk.id:
            return self._finish_bulk(lane, bulk, rows, ns)
        raise WorkerLost(f"a result for job {job_id}, which isn't under way")

    def on_death(self, lane: Lane) -> list[Job]:
        """The worker is gone: its work goes back to the front of the queue.

        Returns:
            The jobs that another worker died of before.
        """
        if lane in self.lanes:
            self.lanes.remove(lane)
        small, bulk = lane.take()
        waiting = self._waiting
        lethal = []
        for queue, jobs in ((waiting.small, small), (waiting.bulk, bulk)):
            for job in reversed(jobs):
                job.attempts += 1
                if job.attempts > 1:
                    lethal.append(job)
                else:
                    waiting.put_back(queue, job)
        for other in list(self.lanes):
            self.feed(other)
        return lethal

    def take_back(self) -> list[Job]:
        """What workers have, as if it had never been sent."""
        return [job for lane in self.lanes for jobs in lane.take() for job in jobs]

    def close(self, *, kill: bool) -> None:
        for lane in self.lanes:
            lane.channel.close(kill=kill)
            lane.take()
        self.lanes.clear()

    def _send_small(self, lane: Lane, batch: list[Job], data: bytes, rows: int) -> None:
        self._next_id += 1
        lane.small, lane.small_id, lane.small_rows = batch, self._next_id, rows
        now = self._clock_ns()
        for job in batch:
            job.queue_ns = now - job.admitted_ns
        lane.small_since_ns = now
        packet = ipc.HEAD.pack(ipc.PREDICT, rows, self._contract.n_features, 0, self._next_id, 0) + data
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
            self.feed(lane)
            return True
        now = bulk.since_ns = self._clock_ns()
        if refuse_late(bulk.job, now, self._contract.label):
            lane.end_bulk()
            self.feed(lane)
            return True
        self._next_id += 1
        bulk.id = self._next_id
        bulk.job.queue_ns = now - bulk.job.admitted_ns
        packet = ipc.head(
            ipc.PREDICT_MEMFD, rows=bulk.job.rows, columns=self._contract.n_features, job=bulk.id
        )
        with contextlib.suppress(OSError):  # as in _send_small
            socket.send_fds(lane.channel.sock, [packet], [bulk.fd])
        return True

    def _refuse_no_room(self, job: Job, error: OSError) -> None:
        """No descriptor, no memory: that is this request's trouble, not the daemon's."""
        job.refuse(retryable("BUSY", f"{self._contract.label}: no room for the matrix: {error.strerror}"))

    def _finish_small(self, batch: list[Job], total: int, packet: bytes, ns: int) -> list[Job]:
        if len(packet) == ipc.HEAD.size + 8:  # one row, one value: the common case
            return [] if self._outputs.one(batch[0], [packet[ipc.HEAD.size :]], ns) else [batch[0]]
        return self._outputs.split(batch, total, memoryview(packet)[ipc.HEAD.size :], ns)

    def _finish_bulk(self, lane: Lane, bulk: MatrixTransfer, rows: int, ns: int) -> list[Job]:
        job = bulk.job
        data = bulk.outputs()
        if rows != job.rows or len(data) != rows * self._reply_bytes:
            raise WorkerLost(f"{len(data)} bytes of outputs for {job.rows} rows")
        lane.end_bulk()
        self.feed(lane)
        return self._outputs.split([job], rows, memoryview(data), ns)

    def _refuse_bulk(self, lane: Lane, job: Job, row: int, column: int) -> None:
        """The worker found a value that the contract doesn't allow; that it is there is seen before it is believed."""
        if row >= job.rows or column >= self._contract.n_features:
            raise WorkerLost(f"an infinity in row {row}, column {column} of {job.rows} rows")
        value = _VALUE.unpack_from(job.data, row * self._row_bytes + column * 8)[0]
        refusal = wire_tensors.non_finite(value, row, column, self._contract)
        if refusal is None:
            raise WorkerLost(f"row {row}, column {column} is {value}, which isn't to be refused")
        lane.end_bulk()
        self.feed(lane)
        job.refuse(refusal)
