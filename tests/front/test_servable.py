"""One version and its workers: batches, order, limits, and what a worker can do wrong. Real sockets, no processes."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.fakes import pointer

from modeld.errors import RequestError
from modeld.front.crew import BATCH_ROWS, SMALL_ROWS
from modeld.front.job import Job
from modeld.front.lane import Lane, WorkerLost
from modeld.front.matrix import PIECE_BYTES
from modeld.front.servable import Servable
from modeld.swap.policy import State
from modeld.swap.slot import Binding
from modeld.wire.contract import Contract
from modeld.work import ipc

ONE_OUTPUT = Contract("alpha", "1.0.0", ("a", "b"), "s", (("predictions", 0),))
TWO_OUTPUTS = Contract("alpha", "1.0.0", ("a", "b"), "s", (("1d", 0), ("classes", 3)))


class Recorded(Job):
    """A job that keeps its outcomes."""

    def __init__(self, matrix: Any, now: int = 0, deadline_ns: int | None = None) -> None:
        values = np.atleast_2d(np.array(matrix, np.float64))
        super().__init__(values.tobytes(), len(values), now, deadline_ns)
        self.values = values
        self.outcomes: list[list[bytes] | RequestError] = []

    def finish(self, tensors: list[bytes], predict_ns: int) -> None:
        assert predict_ns >= 0
        self.outcomes.append(tensors)

    def refuse(self, error: RequestError) -> None:
        self.outcomes.append(error)

    @property
    def code(self) -> str | None:
        (outcome,) = self.outcomes
        return outcome.code if isinstance(outcome, RequestError) else None

    @property
    def arrays(self) -> list[np.ndarray]:
        (outcome,) = self.outcomes
        assert not isinstance(outcome, RequestError), outcome
        return [np.frombuffer(tensor) for tensor in outcome]


def predict(contract: Contract, rows: np.ndarray) -> list[np.ndarray]:
    """A model that tells every row and every output apart."""
    total = rows @ np.array([1.0, 100.0])
    return [
        total + 0.25 * at
        if not width
        else np.stack([total + 0.25 * at + k / 8 for k in range(width)], axis=1)
        for at, (_, width) in enumerate(contract.outputs)
    ]


class FakeWorker:
    """The other end of a lane: takes packets when told, answers honestly or not."""

    def __init__(self, contract: Contract, pid: int = 1) -> None:
        self.contract = contract
        self.sock, self.peer = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.sock.setblocking(False)
        self.peer.setblocking(False)
        self.pid = pid
        self.lane = Lane(self)
        self.closed: bool | None = None

    def close(self, *, kill: bool) -> None:
        self.closed = kill

    def take(self) -> tuple[int, int, int, Any]:
        """The next packet: kind, rows, job, and the rows or the memfd."""
        packet, fds, _, _ = socket.recv_fds(self.peer, ipc.MAX_PACKET, 1)
        kind, rows, columns, _, job, _ = ipc.HEAD.unpack_from(packet)
        if kind == ipc.PREDICT_MEMFD:
            return kind, rows, job, fds[0]
        return kind, rows, job, np.frombuffer(packet, np.float64, offset=ipc.HEAD.size).reshape(rows, columns)

    @property
    def idle(self) -> bool:
        try:
            return not self.peer.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True

    def answer(self, scale: float = 1.0) -> bytes:
        """Compute the next packet; the reply for the front."""
        kind, rows, job, payload = self.take()
        if kind == ipc.PREDICT:
            outputs = predict(self.contract, payload)
            data = b"".join((out * scale).tobytes() for out in outputs)
            return ipc.head(ipc.RESULT, rows=rows, job=job, ns=1000) + data
        size = rows * len(self.contract.features) * 8
        matrix = np.frombuffer(os.pread(payload, size, 0)).reshape(rows, -1)
        os.pwrite(payload, b"".join((out * scale).tobytes() for out in predict(self.contract, matrix)), size)
        os.close(payload)
        return ipc.head(ipc.RESULT, rows=rows, job=job, ns=1000)

    def shut(self) -> None:
        while not self.idle:  # descriptors on their way to us are ours
            kind, _, _, payload = self.take()
            if kind == ipc.PREDICT_MEMFD:
                os.close(payload)
        self.sock.close()
        self.peer.close()


class Stage:
    """A Servable, its workers, a clock and the incidents."""

    def __init__(self, contract: Contract = ONE_OUTPUT, **limits: int) -> None:
        self.ns = 0
        self.incidents: list[str] = []
        self.workers: list[FakeWorker] = []
        chosen = {"queue_requests": 1000, "queue_bytes": 1 << 20, **limits}
        #: What the loop would still move; done at once unless `pieces` is kept.
        self.pieces: list[Callable[[], bool]] | None = None
        self.servable = Servable(
            pointer("1.0.0"), contract, lambda: self.ns, on_bad_output=self.on_bad_output,
            in_pieces=self.in_pieces, **chosen,
        )  # fmt: skip

    def in_pieces(self, step: Callable[[], bool]) -> None:
        if self.pieces is not None:
            self.pieces.append(step)
            return
        while not step():
            pass

    def on_bad_output(self, servable: Servable, what: str) -> str:
        assert servable is self.servable
        self.incidents.append(what)
        return f"i-{len(self.incidents)}"

    def worker(self) -> FakeWorker:
        made = FakeWorker(self.servable.contract, len(self.workers) + 1)
        self.workers.append(made)
        self.servable.attach(made.lane)
        return made

    def submit(self, *matrices: Any, **fields: Any) -> list[Recorded]:
        jobs = [Recorded(matrix, self.ns, **fields) for matrix in matrices]
        for job in jobs:
            self.servable.submit(job)
        return jobs

    def serve(self, worker: FakeWorker, packet: bytes | None = None) -> None:
        self.servable.on_packet(worker.lane, worker.answer() if packet is None else packet)

    def die(self, worker: FakeWorker) -> None:
        self.servable.on_death(worker.lane)
        worker.shut()
        self.workers.remove(worker)

    def close(self) -> None:
        self.servable.close(kill=True)
        for worker in self.workers:
            worker.shut()


@pytest.fixture
def stage() -> Iterator[Stage]:
    made = Stage()
    yield made
    made.close()


@pytest.fixture
def make_stage() -> Iterator[Callable[..., Stage]]:
    made: list[Stage] = []

    def make(*arguments: Any, **fields: Any) -> Stage:
        made.append(Stage(*arguments, **fields))
        return made[-1]

    yield make
    for one in made:
        one.close()


def right(job: Recorded, contract: Contract = ONE_OUTPUT) -> bool:
    return all(
        got.tobytes() == wanted.tobytes()
        for got, wanted in zip(job.arrays, predict(contract, job.values), strict=True)
    )


def test_what_queued_while_the_worker_was_busy_goes_as_one_matrix(stage):
    """The first request goes alone; those behind it share a packet, in order, and each gets its own rows."""
    worker = stage.worker()
    jobs = stage.submit([1, 0], [2, 0], [[3, 0], [4, 0]], [5, 0])
    assert stage.servable.pending == 4
    stage.serve(worker)
    assert [len(job.outcomes) for job in jobs] == [1, 0, 0, 0]
    stage.serve(worker)
    assert all(right(job) for job in jobs)
    assert (worker.idle, stage.servable.pending) == (True, 0)


def test_a_batch_has_a_limit_and_keeps_the_order(stage):
    """At most BATCH_ROWS rows go at once, and nobody overtakes."""
    worker = stage.worker()
    jobs = stage.submit(*([n, 0] for n in range(40)))
    sizes = []
    while not worker.idle:
        packet = worker.answer()
        sizes.append(ipc.HEAD.unpack_from(packet)[1])
        stage.serve(worker, packet)
        done = [bool(job.outcomes) for job in jobs]
        assert done == sorted(done, reverse=True)
    assert sizes == [1, BATCH_ROWS, BATCH_ROWS, 7]
    assert all(right(job) for job in jobs)


def test_two_workers_share_the_queue(stage):
    """A free worker takes what comes; nothing waits for the other."""
    first, second = stage.worker(), stage.worker()
    jobs = stage.submit([1, 0], [2, 0], [3, 0])
    assert not first.idle
    assert not second.idle
    stage.serve(second)
    stage.serve(second)
    stage.serve(first)
    assert all(right(job) for job in jobs)


def test_work_waits_for_a_worker(stage):
    """Without a worker requests queue; the first that joins gets them."""
    jobs = stage.submit([1, 0], [[n, 1] for n in range(SMALL_ROWS + 1)])
    assert (stage.servable.alive, stage.servable.pending) == (False, 2)
    worker = stage.worker()
    stage.serve(worker)
    stage.serve(worker)
    assert all(right(job) for job in jobs)


def test_a_large_matrix_travels_as_a_memfd_and_small_ones_pass_it(stage):
    """More than SMALL_ROWS rows go beside the queue of small requests."""
    worker = stage.worker()
    (large,) = stage.submit([[n, n] for n in range(SMALL_ROWS + 1)])
    (small,) = stage.submit([1, 2])
    kind, rows, _, fd = worker.take()
    os.close(fd)
    assert (kind, rows) == (ipc.PREDICT_MEMFD, SMALL_ROWS + 1)
    stage.serve(worker)
    assert right(small)
    assert large.outcomes == []


@pytest.mark.parametrize("rows", [1, 2, SMALL_ROWS, SMALL_ROWS + 1, 1000])
def test_outputs_are_split_right(make_stage, rows):
    """Two outputs, one of three classes: every job gets its own rows of each, small and large."""
    stage = make_stage(TWO_OUTPUTS)
    worker = stage.worker()
    jobs = stage.submit(*([[m, n] for n in range(rows)] for m in range(3)))
    while not worker.idle:
        stage.serve(worker)
    assert all(right(job, TWO_OUTPUTS) for job in jobs)
    assert [len(array) for array in jobs[2].arrays] == [rows, 3 * rows]


def test_wide_rows_travel_as_memfds(make_stage):
    """A row that doesn't fit into a packet is no small request."""
    wide = Contract("alpha", "1", tuple(f"f{n}" for n in range(9000)), "s", (("predictions", 0),))
    stage = make_stage(wide)
    worker = stage.worker()
    stage.submit(np.zeros(9000))
    kind, _, _, fd = worker.take()
    os.close(fd)
    assert kind == ipc.PREDICT_MEMFD


def test_a_deadline_that_passed_in_the_queue_saves_the_work(stage):
    """The row isn't computed, the answer is DEADLINE_EXCEEDED, and those behind it are served."""
    worker = stage.worker()
    (first,) = stage.submit([0, 0])
    late, in_time = *stage.submit([1, 0], deadline_ns=1000), *stage.submit([2, 0], deadline_ns=3000)
    big = stage.submit(*([[1, 0]] * 9 for _ in range(2)), deadline_ns=1000)
    stage.ns = 2000
    stage.serve(worker)  # the matrix that went at once
    while not worker.idle:
        stage.serve(worker)
    assert (right(first), late.code, right(in_time)) == (True, "DEADLINE_EXCEEDED", True)
    assert late.outcomes[0].parameters == {"retryable": True}
    assert (right(big[0]), big[1].code) == (True, "DEADLINE_EXCEEDED")
    assert stage.servable.pending == 0


def test_a_queue_of_nothing_but_late_requests_leaves_the_worker_free(stage):
    """After they were refused the next request goes at once."""
    worker = stage.worker()
    stage.submit([0, 0])
    late = stage.submit([1, 0], [2, 0], deadline_ns=1)
    stage.ns = 5
    stage.serve(worker)
    assert [job.code for job in late] == ["DEADLINE_EXCEEDED"] * 2
    (job,) = stage.submit([3, 0])
    stage.serve(worker)
    assert right(job)


def test_a_full_queue_is_busy(make_stage):
    """More requests or bytes than may wait are refused at once, and nothing of them is kept."""
    stage = make_stage(queue_requests=2)
    worker = stage.worker()
    jobs = stage.submit([0, 0], [1, 0], [2, 0])
    with pytest.raises(RequestError, match="waiting") as caught:
        stage.submit([3, 0])
    assert (caught.value.code, caught.value.parameters) == ("BUSY", {"retryable": True})
    while not worker.idle:
        stage.serve(worker)
    assert all(right(job) for job in jobs)
    stage = make_stage(queue_bytes=64)
    stage.submit([0, 0], [1, 0], [2, 0], [3, 0])
    with pytest.raises(RequestError) as caught:
        stage.submit([4, 0])
    assert caught.value.code == "BUSY"


def test_one_request_larger_than_the_queue_is_taken_by_an_idle_version(make_stage):
    """The limit is on what waits together; it never makes a request impossible."""
    stage = make_stage(queue_bytes=64)
    worker = stage.worker()
    (job,) = stage.submit([[n, 0] for n in range(100)])
    stage.serve(worker)
    assert right(job)


@pytest.mark.parametrize("rows", [1, 2, 20])
@pytest.mark.parametrize("scale", [np.nan, np.inf])
def test_an_output_that_is_not_finite_is_refused_with_an_incident(stage, rows, scale):
    """The client gets INTERNAL and the id that the log has too."""
    worker = stage.worker()
    (job,) = stage.submit([[1, n] for n in range(rows)])
    stage.serve(worker, worker.answer(scale))
    assert (job.code, job.outcomes[0].parameters) == ("INTERNAL", {"incident": "i-1"})
    assert stage.incidents == ["an output isn't finite"]


def test_in_a_batch_only_the_request_that_is_not_finite_is_refused(stage):
    """Neighbours of a bad row get their answers."""
    worker = stage.worker()
    stage.submit([0, 0])
    jobs = stage.submit([1, 0], [2, 0], [3, 0])
    stage.serve(worker)
    packet = bytearray(worker.answer())
    packet[ipc.HEAD.size + 8 : ipc.HEAD.size + 16] = np.array([np.nan]).tobytes()
    stage.serve(worker, bytes(packet))
    assert (right(jobs[0]), jobs[1].code, right(jobs[2])) == (True, "INTERNAL", True)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda _packet: b"",
        lambda packet: packet[: ipc.HEAD.size - 1],
        lambda packet: packet[:-1],
        lambda packet: packet[:-8],
        lambda packet: packet + b"\0" * 8,
        lambda packet: ipc.head(ipc.RESULT, rows=2, job=1) + packet[ipc.HEAD.size :],
        lambda packet: ipc.head(ipc.RESULT, rows=1, job=2) + packet[ipc.HEAD.size :],
        lambda packet: ipc.head(ipc.READY, rows=1, job=1) + packet[ipc.HEAD.size :],
        lambda _packet: ipc.head(ipc.READY, job=1) + b"it broke",
    ],
)
def test_a_packet_that_no_sound_worker_sends_loses_the_worker(stage, spoil):
    """Wrong length, rows, job or kind: nothing is answered from it, and another worker computes the request."""
    worker = stage.worker()
    (job,) = stage.submit([1, 0])
    with pytest.raises(WorkerLost):
        stage.serve(worker, spoil(worker.answer()))
    assert job.outcomes == []
    stage.die(worker)
    stage.serve(stage.worker())
    assert right(job)


@pytest.mark.parametrize("fault", ["rows", "shrunk", "repeated", "small for large"])
def test_a_memfd_result_that_no_sound_worker_sends_loses_the_worker(stage, fault):
    """A matrix that was cut off, counted wrong or answered twice is none."""
    worker = stage.worker()
    (job,) = stage.submit([[n, 0] for n in range(20)])
    _, rows, number, fd = worker.take()
    if fault == "shrunk":
        os.ftruncate(fd, 20 * 16)
    os.close(fd)
    said = rows - 1 if fault == "rows" else rows
    packet = ipc.head(ipc.RESULT, rows=said, job=number + (fault == "small for large"))
    if fault == "repeated":
        stage.serve(worker, packet)
        assert len(job.outcomes) == 1
    with pytest.raises(WorkerLost):
        stage.serve(worker, packet)
    assert len(job.outcomes) == (fault == "repeated")


MANY = 2 * PIECE_BYTES // 16 + 1


def test_a_large_matrix_moves_in_pieces_and_small_requests_pass_it(stage):
    """The worker hears of it when it is all there; one row that comes in between is asked at once."""
    worker = stage.worker()
    stage.pieces = []
    (large,) = stage.submit([[n, 0] for n in range(MANY)])
    (step,) = stage.pieces
    assert (step(), worker.idle) == (False, True)
    (small,) = stage.submit([5, 0])
    stage.serve(worker)
    assert right(small)
    assert [step(), step()] == [False, True]
    stage.serve(worker)
    assert right(large)


def test_a_death_while_a_matrix_moves_gives_it_to_the_next_worker(stage):
    """What was moved so far is forgotten, and what would still move does nothing."""
    worker = stage.worker()
    stage.pieces = []
    (large,) = stage.submit([[n, 0] for n in range(MANY)])
    first = stage.pieces.pop()
    assert not first()
    stage.die(worker)
    assert first()
    worker = stage.worker()
    while not stage.pieces[0]():
        pass
    stage.serve(worker)
    assert right(large)


def test_a_matrix_takes_the_memory_of_the_one_before(stage, monkeypatch):
    """Whatever their sizes, every answer is right; what is very large isn't kept, nor what a dead worker had."""
    worker = stage.worker()
    inodes = []
    for rows in (20, 200, 9, 20):
        (job,) = stage.submit([[n, rows] for n in range(rows)])
        lane = stage.servable.lanes[0]
        inodes.append(os.fstat(lane.bulk.fd).st_ino)
        stage.serve(worker)
        assert right(job)
    assert len(set(inodes)) == 1
    monkeypatch.setattr(ipc, "KEPT_BYTES", 1000)
    (job,) = stage.submit([[n, 0] for n in range(200)])
    stage.serve(worker)
    assert right(job)
    assert lane.spare_fd == -1
    (job,) = stage.submit([[n, 0] for n in range(20)])
    stage.die(worker)
    assert lane.spare_fd == -1
    worker = stage.worker()
    stage.serve(worker)
    assert right(job)


def test_a_deadline_that_passes_while_a_matrix_moves_saves_the_work(stage):
    """The worker never hears of it."""
    worker = stage.worker()
    stage.pieces = []
    (large,) = stage.submit([[n, 0] for n in range(20)], deadline_ns=100)
    stage.ns = 200
    assert stage.pieces[0]()
    assert (large.code, worker.idle, stage.servable.pending) == ("DEADLINE_EXCEEDED", True, 0)


def test_a_result_before_the_matrix_is_all_there_loses_the_worker(stage):
    """No worker can have computed what it doesn't have."""
    worker = stage.worker()
    stage.pieces = []
    stage.submit([[n, 0] for n in range(20)])
    for kind in (ipc.RESULT, ipc.NON_FINITE):
        with pytest.raises(WorkerLost):
            stage.serve(worker, ipc.head(kind, rows=20, job=0))


def test_a_value_that_the_worker_refuses_is_named(stage):
    """Row and feature of an infinity in a large matrix; the next request is served."""
    worker = stage.worker()
    matrix = np.zeros((20, 2))
    matrix[13, 1] = np.inf
    (job,) = stage.submit(matrix)
    _, _, number, fd = worker.take()
    os.close(fd)
    stage.serve(worker, ipc.head(ipc.NON_FINITE, rows=13, columns=1, job=number))
    assert (job.code, job.outcomes[0].parameters) == ("NON_FINITE", {"row": 13, "feature": "b"})
    (job,) = stage.submit([[1, n] for n in range(20)])
    stage.serve(worker)
    assert right(job)


@pytest.mark.parametrize(("row", "column"), [(20, 0), (0, 2), (3, 1), (4, 0)])
def test_a_worker_that_refuses_a_sound_value_is_lost(stage, row, column):
    """Outside of the matrix, a finite value, or a NaN where that means missing: nobody is refused for it."""
    worker = stage.worker()
    matrix = np.zeros((20, 2))
    matrix[4, 0] = np.nan
    (job,) = stage.submit(matrix)
    _, _, number, fd = worker.take()
    os.close(fd)
    with pytest.raises(WorkerLost):
        stage.serve(worker, ipc.head(ipc.NON_FINITE, rows=row, columns=column, job=number))
    assert job.outcomes == []


def test_what_is_handed_over_is_looked_through(make_stage):
    """A version that scores here what the other one's worker would have looked through takes no infinity."""
    before, after = make_stage(), make_stage()
    jobs = before.submit([[np.inf, 0]] * 20, [[1, 0]] * 20)
    for job in jobs:
        job.rebind = lambda _: True
    before.servable.hand_over(
        Binding(2, after.servable, after.servable.contract, "d", 1, "now"),
        lambda: RequestError("NOT_READY", ""),
    )
    assert jobs[0].code == "NON_FINITE"
    after.serve(after.worker())
    assert right(jobs[1])


@pytest.mark.parametrize("rows", [1, 20])
def test_a_death_puts_the_work_back_once(stage, rows):
    """A request survives one worker; the second that dies of it makes it an incident."""
    worker = stage.worker()
    first, behind = stage.submit([[1, n] for n in range(rows)], [[2, n] for n in range(rows)])
    stage.die(worker)
    assert (first.outcomes, stage.servable.pending) == ([], 2)
    worker = stage.worker()
    stage.die(worker)
    assert first.code == "INTERNAL"
    assert first.outcomes[0].parameters == {"incident": "i-1"}
    worker = stage.worker()
    while not worker.idle:
        stage.serve(worker)
    assert right(behind), "a request that was only queued behind it is answered"
    assert len(first.outcomes) == 1


def test_a_death_with_a_second_worker_hands_the_work_over_at_once(stage):
    """What was under way goes to the front of the queue of the others."""
    first, second = stage.worker(), stage.worker()
    jobs = stage.submit([1, 0], [2, 0], [3, 0])
    stage.die(first)
    while not second.idle:
        stage.serve(second)
    assert all(right(job) for job in jobs)


def test_a_batch_that_comes_back_keeps_its_order(stage):
    """What was admitted first is computed first by the next worker too, one by one, ahead of what came later."""
    worker = stage.worker()
    stage.submit([0, 0])
    stage.submit([1, 0], [2, 0], [3, 0])
    stage.serve(worker)  # the three are under way now
    stage.submit([4, 0])
    stage.die(worker)
    worker = stage.worker()
    seen = []
    while not worker.idle:
        packet = worker.peer.recv(ipc.MAX_PACKET, socket.MSG_PEEK)
        seen.append(np.frombuffer(packet, np.float64, offset=ipc.HEAD.size)[::2].tolist())
        stage.serve(worker)
    assert seen == [[1], [2], [3], [4]]


def test_a_request_to_a_worker_that_is_just_gone_is_put_back(stage):
    """A send into a closed channel is no error: the death that follows brings the request back."""
    worker = stage.worker()
    worker.peer.close()
    (small,), (large,) = stage.submit([1, 0]), stage.submit([[n, 0] for n in range(20)])
    stage.servable.on_death(worker.lane)
    worker.sock.close()
    stage.workers.remove(worker)
    worker = stage.worker()
    while not worker.idle:
        stage.serve(worker)
    assert right(small)
    assert right(large)


def test_fail_all_refuses_everything_once(stage):
    """What waits and what is under way gets one error each; a result that comes later is no answer any more."""
    worker = stage.worker()
    jobs = stage.submit([1, 0], [2, 0], [[3, 0]] * 20, [[4, 0]] * 20)
    late = worker.answer() if worker.peer.recv(1, socket.MSG_PEEK) else b""
    stage.servable.fail_all(lambda: RequestError("DRAINING", "shutting down"))
    assert ([job.code for job in jobs], stage.servable.pending) == (["DRAINING"] * 4, 0)
    with pytest.raises(WorkerLost):
        stage.serve(worker, late)


def test_what_was_admitted_before_is_refused_and_the_worker_lives(stage):
    """At the deadline of a drain old requests get one error each, newer ones their answers, from the same worker."""
    stage.ns = 10
    worker = stage.worker()
    under_way, queued = stage.submit([1, 0], [2, 0])
    (bulk,) = stage.submit(np.ones((20, 2)))
    stage.ns = 20
    stage.servable.refuse_before(10, lambda: RequestError("DRAINING", "too late"))
    assert [job.code for job in (under_way, queued, bulk)] == ["DRAINING"] * 3
    (new,) = stage.submit([3, 0])
    stage.serve(worker)
    while not new.outcomes:
        stage.serve(worker)
    assert right(new)
    assert [len(job.outcomes) for job in (under_way, queued, bulk)] == [1, 1, 1]


def test_a_refused_request_is_not_computed_again(stage):
    """Its worker dies: nobody waits for it, so it doesn't go to another."""
    worker = stage.worker()
    (job,) = stage.submit([1, 0])
    stage.servable.refuse_before(stage.ns, lambda: RequestError("DRAINING", "too late"))
    stage.die(worker)
    other = stage.worker()
    assert (stage.servable.pending, len(job.outcomes), other.lane.small) == (0, 1, None)


def test_a_matrix_that_can_not_be_handed_over_is_refused_as_busy(stage, monkeypatch):
    """No descriptor or no memory for a memfd costs one request, not the daemon."""

    def full(*_: object) -> int:
        raise OSError(24, "Too many open files")

    worker = stage.worker()
    with monkeypatch.context() as patched:
        patched.setattr(os, "memfd_create", full)
        (job,) = stage.submit([[1, 0]] * 20)
        assert (job.code, stage.servable.pending) == ("BUSY", 0)
        patched.undo()
        patched.setattr(os, "pwrite", full)
        (job,) = stage.submit([[1, 0]] * 20)
        assert (job.code, stage.servable.pending) == ("BUSY", 0)
    (job,) = stage.submit([[1, 0]] * 20)
    stage.serve(worker)
    assert right(job)


def test_a_silent_worker_shows_as_hung(stage):
    """Only one that has something to do, after its time, and more time for more rows."""
    worker = stage.worker()
    stage.ns = 10_000
    assert stage.servable.hung(100, 10) == []
    stage.submit([1, 0])
    stage.ns += 100
    assert stage.servable.hung(100, 10) == []
    stage.ns += 1
    assert stage.servable.hung(100, 10) == [worker.lane]
    stage.serve(worker)
    stage.submit([[1, 0]] * 20)
    stage.ns += 300
    assert stage.servable.hung(100, 10) == []
    stage.ns += 1
    assert stage.servable.hung(100, 10) == [worker.lane]


def test_illegal_transitions_are_refused(stage):
    """The states are those of the policy's table."""
    stage.servable.move(State.SERVING)
    with pytest.raises(ValueError, match="serving → warm is no legal transition"):
        stage.servable.move(State.WARM)
    assert stage.servable.state is State.SERVING


def test_closing_lets_every_worker_go(stage):
    """The descriptor of a matrix under way is closed too, and a death that is told later does no harm."""
    worker = stage.worker()
    stage.submit([[1, 0]] * 20)
    stage.servable.close(kill=True)
    assert (worker.closed, worker.lane.bulk, stage.servable.alive) == (True, None, False)
    stage.servable.on_death(worker.lane)


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("submit"), st.sampled_from([1, 2, 8, 9, 30])),
        st.tuples(st.sampled_from(["serve", "die", "join", "wait", "spoil", "late"]), st.integers(0, 3)),
    ),
    max_size=60,
)


@settings(max_examples=60, deadline=None)
@given(STEPS)
def test_every_request_has_exactly_one_outcome(steps):
    """Whatever order requests, results, deaths and deadlines come in; and an answer is always the right one."""
    stage = Stage(TWO_OUTPUTS, queue_requests=6)
    jobs: list[Recorded] = []
    busy = 0
    try:
        for number, (what, amount) in enumerate(steps):
            worker = stage.workers[amount % len(stage.workers)] if stage.workers else None
            if what in ("submit", "late"):
                rows = [[number, n] for n in range(max(1, amount))]
                jobs.append(Recorded(rows, stage.ns, stage.ns + 50 if what == "late" else None))
                try:
                    stage.servable.submit(jobs[-1])
                except RequestError:
                    busy += 1
                    jobs.pop()
            elif what == "join" and len(stage.workers) < 2:
                stage.worker()
            elif what == "wait":
                stage.ns += 40
            elif worker is not None and what == "die":
                stage.die(worker)
            elif worker is not None and not worker.idle:
                packet = worker.answer()
                if what == "spoil":
                    with pytest.raises(WorkerLost):
                        stage.serve(worker, packet[:-1])
                    stage.die(worker)
                elif what == "serve":
                    stage.serve(worker, packet)
            assert stage.servable.pending == sum(not job.outcomes for job in jobs)
            assert stage.servable._waiting.bytes >= 0
        stage.servable.fail_all(lambda: RequestError("DRAINING", "over"))
        for job in jobs:
            (outcome,) = job.outcomes
            assert isinstance(outcome, RequestError) or right(job, TWO_OUTPUTS)
        assert (stage.servable.pending, stage.servable._waiting.bytes) == (0, 0)
    finally:
        stage.close()


class FakeScorer:
    """A checked plan that says what a model would, or what a wrong one would."""

    def __init__(self, contract: Contract, at: int) -> None:
        self.contract = contract
        self.at = at
        self.scale = 1.0
        self.calls = 0

    def score_bytes(self, rows: bytes, n: int) -> bytes:
        self.calls += 1
        out = predict(self.contract, np.frombuffer(rows).reshape(n, -1))[self.at]
        return (out * self.scale).tobytes()


@pytest.fixture
def planned() -> Iterator[tuple[Servable, list[FakeScorer], list[str]]]:
    """A version with plans for up to 4 rows, and no worker; its scorers and its incidents."""
    incidents: list[str] = []

    def on_bad_output(_: Servable, what: str) -> str:
        incidents.append(what)
        return "i-1"

    scorers = [FakeScorer(TWO_OUTPUTS, at) for at in range(2)]
    servable = Servable(
        pointer("1.0.0"), TWO_OUTPUTS, lambda: 1000, queue_requests=10, queue_bytes=1 << 20,
        on_bad_output=on_bad_output, in_pieces=lambda _: None,
    )  # fmt: skip
    servable.use_plans(scorers, 4, -1)
    yield servable, scorers, incidents
    servable.close(kill=True)


@pytest.mark.parametrize("rows", [1, 4])
def test_few_rows_are_scored_at_once(planned, rows):
    """By the plans, without a worker, each output right."""
    servable, _, _ = planned
    job = Recorded(np.arange(rows * 2.0).reshape(rows, 2))
    servable.submit(job)
    assert right(job, TWO_OUTPUTS)
    assert (job.path, servable.path, servable.pending) == ("plan", "plan", 0)


def test_what_the_front_scores_is_looked_through_by_the_front(planned):
    """A request of so many rows is no large matrix, of which a worker looks for infinities."""
    servable, scorers, _ = planned
    servable.use_plans(scorers, 32, -1)
    assert servable.large_rows == 32


def test_more_rows_wait_for_a_worker(planned):
    """What is too large for the loop goes to workers as ever."""
    servable, scorers, _ = planned
    job = Recorded(np.arange(10.0).reshape(5, 2))
    servable.submit(job)
    assert (job.outcomes, job.path, servable.pending) == ([], "worker", 1)
    assert not any(scorer.calls for scorer in scorers)
    servable.fail_all(lambda: RequestError("NOT_READY", "gone"))


@pytest.mark.parametrize("scale", [np.nan, np.inf])
def test_a_plan_that_is_not_finite_is_an_incident(planned, scale):
    """As from a worker: no such number leaves the daemon."""
    servable, scorers, incidents = planned
    scorers[1].scale = scale
    job = Recorded([[1.0, 2.0]])
    servable.submit(job)
    assert (job.code, incidents) == ("INTERNAL", ["an output isn't finite"])


def test_a_late_request_is_not_scored(planned):
    """A deadline that has passed saves the work here too."""
    servable, scorers, _ = planned
    job = Recorded([[1.0, 2.0]], deadline_ns=999)
    servable.submit(job)
    assert job.code == "DEADLINE_EXCEEDED"
    assert not scorers[0].calls
