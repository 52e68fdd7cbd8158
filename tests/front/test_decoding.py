"""The front's side of the decoder: what it asks, and what it makes of answers that no honest decoder gives."""

from __future__ import annotations

import fcntl
import os
import struct
from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from modeld.config import Limits
from modeld.errors import RequestError
from modeld.front.data import DECODE_BYTES, DataService
from modeld.front.decoding import Decoding
from modeld.wire.contract import Contract
from modeld.work import ipc
from modeld.work.decoder import SEALS

NARROW = Contract("alpha", "1", ("a",), "one", (("predictions", 0),))
WIDE = Contract("alpha", "2", ("a", "b"), "two", (("predictions", 0),))
HEADING = ipc.head(ipc.HEADING) + msgspec.json.encode(ipc.Heading("predict", 1, None, None, None))


class FakeWorker:
    """A decoder's process that says what the test says."""

    def __init__(self) -> None:
        self.pid = 7
        self.fds: list[int] = []
        self.sent: list[tuple[int, bytes]] = []
        self.killed = self.closed = False
        self.on_packet: Callable[[bytes], None] = lambda _: None
        self.on_end: Callable[[str], None] = lambda _: None

    def send(self, packet: bytes, fd: int = -1) -> None:
        data = os.pread(fd, 1 << 20, 0) if fd >= 0 else b""
        if fd >= 0:
            os.close(fd)
        self.sent.append((packet[0], data))

    def say(self, packet: bytes, rows: bytes | None = None, *, seals: int = SEALS) -> None:
        if rows is not None:
            fd = os.memfd_create("rows", os.MFD_ALLOW_SEALING)
            os.write(fd, rows)
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
            self.fds = [fd]
        self.on_packet(packet)
        while self.fds:
            os.close(self.fds.pop())

    def kill(self) -> None:
        self.killed = True

    def close(self, *, kill: bool = False) -> None:  # noqa: ARG002 (as the real one)
        self.closed = True


class FakeMessage:
    """A message that wants the rows of `wanted`, one contract after the other."""

    def __init__(self, *wanted: Contract) -> None:
        self.frames = [b"x" * 100, b"y"]
        self.wanted = list(wanted)
        self.told: list[Any] = []

    def _next(self) -> Contract | None:
        return self.wanted.pop(0) if self.wanted else None

    def read(self, heading: ipc.Heading) -> Contract | None:
        self.told.append(heading.id)
        return self._next()

    def take(self, data: memoryview, rows: int) -> Contract | None:
        self.told.append((bytes(data), rows))
        return self._next()

    def refuse(self, error: RequestError) -> None:
        self.told.append(error.code)


class Front:
    """A Decoding whose processes, clock and loop are the test's."""

    def __init__(self, **limits: int) -> None:
        self.workers: list[FakeWorker] = []
        self.now_ns = 0
        self.incidents: list[str] = []
        self.chores: deque[Callable[[], bool]] = deque()
        self.fails: Exception | None = None
        self.decoding = Decoding(
            self._spawn, self._in_pieces, lambda: self.now_ns, self._incident,
            **{"max_rows": 10, "queue_requests": 10, "queue_bytes": 1000, "memory_limit_mb": 512} | limits,
        )  # type: ignore[arg-type]  # fmt: skip

    def _spawn(self) -> Any:
        if self.fails is not None:
            raise self.fails
        self.workers.append(FakeWorker())
        return self.workers[-1]

    def _in_pieces(self, step: Callable[[], bool]) -> None:
        """One after the other, as the loop does: what a chore brings in comes after it."""
        self.chores.append(step)
        if len(self.chores) == 1:
            self.run()

    def run(self) -> None:
        while self.chores:
            if self.chores[0]():
                self.chores.popleft()

    def _incident(self, what: str) -> str:
        self.incidents.append(what)
        return "i-1"

    def submit(self, *wanted: Contract) -> FakeMessage:
        message = FakeMessage(*wanted)
        self.decoding.submit(message)
        return message


@pytest.fixture
def front() -> Front:
    return Front()


def rows_read(rows: int) -> bytes:
    return ipc.head(ipc.ROWS_READ, rows=rows)


def test_a_message_is_read_and_its_rows_are_taken(front):
    """Its frames go over, then the features that are wanted; the rows come back, and the next message has its turn."""
    first, second = front.submit(NARROW), front.submit(NARROW)
    assert front.decoding.pending == 2
    (worker,) = front.workers
    assert worker.sent == [(ipc.DECODE, b""), (ipc.READ, b"x" * 100 + b"y")]
    worker.say(HEADING)
    assert msgspec.json.decode(worker.sent[2][1], type=ipc.Columns).features == ["a"]
    assert len(worker.sent) == 3
    worker.say(rows_read(1), struct.pack("d", 0.5))
    assert first.told == [1, (struct.pack("d", 0.5), 1)]
    assert [kind for kind, _ in worker.sent[3:]] == [ipc.READ]
    assert (second.told, front.decoding.pending) == ([], 1)


def test_rows_that_wait_hold_no_descriptors(front):
    """What a worker gets later is mapped only where it is large, and the queue's bytes bound how many of those wait."""
    waiting: list[memoryview] = []
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(20):
        message = front.submit(NARROW)
        message.take = lambda data, _: waiting.append(data)
        front.workers[0].say(HEADING)
        front.workers[0].say(rows_read(1000), bytes(8000))
    assert waiting == [bytes(8000)] * 20
    assert len(os.listdir("/proc/self/fd")) <= before
    message = front.submit(NARROW)
    message.take = lambda data, _: waiting.append(data)
    front.workers[0].say(HEADING)
    front.workers[0].say(rows_read(100_000), bytes(800_000))
    assert waiting[-1] == bytes(800_000)


def test_a_message_may_want_other_rows_by_the_time_they_are_there(front):
    """A version with other features serves by now: the same message is asked for those."""
    message = front.submit(NARROW, WIDE)
    (worker,) = front.workers
    worker.say(HEADING)
    worker.say(rows_read(1), bytes(8))
    worker.say(rows_read(1), bytes(16))
    assert message.told == [1, (bytes(8), 1), (bytes(16), 1)]
    assert not front.decoding.pending


def test_an_error_of_the_clients_is_handed_on(front):
    """With its code and its id."""
    message = front.submit(NARROW)
    said = ipc.Refused("SHAPE_MISMATCH", "row 7 has 3", {"row": 7}, "r")
    front.workers[0].say(ipc.head(ipc.REFUSED) + msgspec.json.encode(said))
    assert message.told == ["SHAPE_MISMATCH"]
    assert not front.incidents


@pytest.mark.parametrize(
    ("packet", "rows", "seals"),
    [
        (b"x", None, SEALS),
        (ipc.head(ipc.RESULT), None, SEALS),
        (ipc.head(ipc.HEADING) + b"{", None, SEALS),
        (HEADING, None, SEALS),
        (rows_read(1), None, SEALS),
        (rows_read(2), bytes(8), SEALS),
        (rows_read(0), b"", SEALS),
        (rows_read(1), bytes(8), SEALS & ~fcntl.F_SEAL_SHRINK),
    ],
    ids=["short", "kind", "json", "again", "no memory", "size", "nothing", "not sealed"],
)
def test_a_decoder_that_says_what_it_may_not_is_ended(front, packet, rows, seals):
    """Nothing of it is believed; the message goes to another, and with the second it is refused."""
    message = front.submit(NARROW, NARROW)
    for worker_at in (0, 1):
        worker = front.workers[worker_at]
        worker.say(HEADING)
        worker.say(packet, rows, seals=seals)
        assert worker.killed
        worker.on_end("killed")
    assert message.told == [1, 1, "INTERNAL"]
    assert len(front.incidents) == 3
    assert not front.decoding.pending


def test_nothing_that_nobody_asked_for_is_taken(front):
    """A packet while there is no message."""
    front.submit()
    front.workers[0].say(HEADING)
    front.workers[0].say(HEADING)
    assert front.workers[0].killed


def test_too_much_that_waits_is_refused_at_once():
    """By number and by bytes; one message alone may have any size."""
    front = Front(queue_requests=2)
    front.submit(NARROW), front.submit(NARROW), front.submit(NARROW)
    with pytest.raises(RequestError, match="2 large messages wait"):
        front.submit(NARROW)
    front = Front(queue_bytes=50)
    front.submit(NARROW), front.submit(NARROW)
    with pytest.raises(RequestError, match="1 large messages wait"):
        front.submit(NARROW)


def test_no_process_or_no_fork_is_busy(front):
    """The system has none, or the zygote couldn't fork: the client is told to try again."""
    front.fails = OSError(11, "no process")
    assert front.submit(NARROW).told == ["BUSY"]
    front.fails = None
    message = front.submit(NARROW)
    front.workers[0].pid = 0
    front.workers[0].on_end("couldn't be forked")
    assert message.told == ["BUSY"]


def test_thousands_that_wait_are_refused_where_no_decoder_can_be_had():
    """It died, and there is no process for another: BUSY for each of them, and later ones are decoded again."""
    front = Front(queue_requests=5000, queue_bytes=1 << 20)
    messages = [front.submit(NARROW) for _ in range(3000)]
    front.fails = OSError(11, "no process")
    front.workers[0].on_end("killed")
    assert [message.told for message in messages] == [["BUSY"]] * 3000
    assert not front.decoding.pending
    front.fails = None
    later = front.submit()
    front.workers[1].say(HEADING)
    assert later.told == [1]


def test_an_error_of_ours_stops_it_for_a_while_only(front):
    """What a chore lets out leaves its message without a decoder: it gets one, and those behind it their turn."""
    front.fails = MemoryError()
    with pytest.raises(MemoryError):
        front.submit()
    front.chores.clear()  # the loop forgets a chore that raised
    front.fails = None
    front.submit()
    assert (front.decoding.pending, front.workers) == (2, [])
    front.now_ns = 16_000_000_000
    front.decoding.tick()
    front.workers[0].say(HEADING)
    front.workers[0].say(HEADING)
    assert not front.decoding.pending


def test_a_stuck_decoder_is_ended_and_an_idle_one_let_go(front):
    """One that has had a message for too long is killed; one that had none for a while goes with its memory."""
    front.submit(NARROW)
    front.now_ns = 14_000_000_000
    front.decoding.tick()
    assert not front.workers[0].killed
    front.now_ns = 16_000_000_000
    front.decoding.tick()
    assert front.workers[0].killed
    front.workers[0].on_end("killed")
    second = front.workers[1]
    second.say(ipc.head(ipc.REFUSED) + msgspec.json.encode(ipc.Refused("MALFORMED", "", {}, None)))
    front.decoding.tick()
    assert not second.closed
    front.now_ns += 61_000_000_000
    front.decoding.tick()
    assert second.closed
    front.submit(NARROW)
    assert len(front.workers) == 3


def test_at_the_end_nothing_is_left_without_an_answer(front):
    """The one that the decoder has, and those behind it."""
    messages = [front.submit(NARROW) for _ in range(3)]
    front.decoding.close()
    assert [message.told for message in messages] == [["DRAINING"]] * 3
    assert front.workers[0].closed
    assert not front.decoding.pending


class FakeSocket:
    """The data socket with one message in it."""

    first: Any = None

    def __init__(self, *body: bytes) -> None:
        self.body = list(body)
        self.sent: list[dict[str, Any]] = []

    def recv(self) -> list[bytes]:
        return [b"\0peer", b"", *self.body]

    def send(self, frames: list[bytes]) -> None:
        self.sent.append(msgspec.json.decode(frames[2]))


class FakeGuard:
    """One that knows the sender, who may only look."""

    def __init__(self, *, curve: bool) -> None:
        self.curve = curve

    def admit(self, _frame: Any, op: str) -> None:
        if op == "predict":
            raise RequestError("UNAUTHORIZED", "anna has read; predict needs predict")


def received(front: Front, *body: bytes, curve: bool = False, **limits: int) -> list[dict[str, Any]]:
    """What the data socket answers at once, with no model served."""
    sock: Any = FakeSocket(*body)
    guard: Any = FakeGuard(curve=curve)
    service = DataService(sock, {}, Limits(**limits), lambda: front.now_ns, str, guard, front.decoding)
    service.on_message()
    return sock.sent


def test_a_message_that_is_too_large_never_gets_to_the_decoder(front):
    """The limit is on all its frames; a header that nobody has read is no reason to copy the rest."""
    large = b'{"id": "big", "op": "live", "padding": "' + b" " * DECODE_BYTES + b'"}'
    for head in (large, b'{"op": "live", "id": "big"}'):
        (refusal,) = received(front, head, *[bytes(DECODE_BYTES)] * 3, max_message_bytes=3 * DECODE_BYTES)
        assert (refusal["id"], refusal["code"]) == ("big", "TOO_LARGE")
    assert not front.workers
    received(front, large)
    assert front.workers


def test_a_key_that_may_not_predict_gets_nothing_decoded(front):
    """What it is told has the id of its request."""
    (refusal,) = received(front, b'{"id": 7, "features": [' + b"1, " * DECODE_BYTES, curve=True)
    assert (refusal["id"], refusal["code"]) == (7, "UNAUTHORIZED")
    assert not front.workers
