"""Large messages that have to be decoded: a process of its own does it (`modeld.work.decoder`), one after the other.

It is started for the first of them and let go when none came for a while. A decoder that dies takes no message with it:
the one it had is given to another, once.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from modeld.errors import RequestError, retryable, shutting_down
from modeld.front.matrix import PIECE_BYTES, Transfer
from modeld.front.spawner import Worker
from modeld.wire.contract import Contract
from modeld.work import ipc
from modeld.work.decoder import SEALS

#: A message takes no honest decoder longer: 16 MiB of the worst take 2 s on a quiet machine. Nanoseconds.
_LATE_NS = 15_000_000_000
#: A decoder that had nothing to do for so long is let go, with its memory. Nanoseconds.
_IDLE_NS = 60_000_000_000


class Message(Protocol):
    """A message to be decoded. It is answered by whoever made it: exactly once, in one of these calls."""

    @property
    def frames(self) -> Sequence[bytes | memoryview]:
        """The header and the raw frames."""

    def read(self, heading: ipc.Heading) -> Contract | None:
        """What the header says. Returns whose rows are wanted; None: it is answered."""

    def take(self, data: memoryview, rows: int) -> Contract | None:
        """The rows, float64, in the order of that contract. Returns another one whose rows are wanted instead; None:
        it is answered."""

    def refuse(self, error: RequestError) -> None:
        """It can't be decoded, for this reason."""


class Decoding:
    """The decoder and the messages that wait for it. Owned by the loop."""

    def __init__(
        self,
        spawn: Callable[[], Worker],
        in_pieces: Callable[[Callable[[], bool]], None],
        clock_ns: Callable[[], int],
        on_incident: Callable[[str], str],
        *,
        max_rows: int,
        queue_requests: int,
        queue_bytes: int,
        memory_limit_mb: int,
    ) -> None:
        self._spawn = spawn
        self._in_pieces = in_pieces
        self._clock_ns = clock_ns
        self._on_incident = on_incident
        self._max_rows = max_rows
        self._queue_requests = queue_requests
        self._queue_bytes = queue_bytes
        self._memory_limit_mb = memory_limit_mb
        self._waiting: deque[Message] = deque()
        self._waiting_bytes = 0
        self._worker: Worker | None = None
        #: The message that the decoder has, or is about to get.
        self._current: Message | None = None
        self._contract: Contract | None = None
        self._attempts = 0
        self._since_ns = 0

    @property
    def pending(self) -> int:
        """Messages that wait or are being decoded."""
        return len(self._waiting) + (self._current is not None)

    def submit(self, message: Message) -> None:
        """Decode it when its turn comes. Raises RequestError BUSY where too much waits."""
        size = _size(message)
        if len(self._waiting) >= self._queue_requests or (
            self._waiting and self._waiting_bytes + size > self._queue_bytes
        ):
            raise retryable(
                "BUSY",
                f"{len(self._waiting)} large messages wait to be decoded; try later, or send rows as raw frames",
            )
        self._waiting.append(message)
        self._waiting_bytes += size
        self._in_pieces(self._next)

    def tick(self) -> None:
        """End a decoder that is stuck, and one that has nothing to do; go on where an error of ours stopped it all."""
        worker, took_ns = self._worker, self._clock_ns() - self._since_ns
        if self._current is not None:
            if took_ns > _LATE_NS:
                self._since_ns = self._clock_ns()
                if worker is not None:
                    worker.kill()  # its end is told of in a moment
                else:
                    self._on_end("it was never started")
        elif self._waiting:
            self._next()
        elif worker is not None and took_ns > _IDLE_NS:
            self._let_go()

    def close(self) -> None:
        """Let the decoder go; what is still unanswered is refused."""
        self._let_go(kill=True)
        unanswered = [self._current, *self._waiting]
        self._current = None
        self._waiting.clear()
        self._waiting_bytes = 0
        for message in unanswered:
            if message is not None:
                message.refuse(shutting_down())

    def _next(self) -> bool:
        """A turn of the loop's for the message whose turn it is: where thousands have to be refused, nobody waits for
        all of them."""
        if self._current is None and self._waiting:
            self._current = self._waiting.popleft()
            self._waiting_bytes -= _size(self._current)
            self._attempts = 0
            self._begin()
        return True

    def _begin(self) -> None:
        """Bring the message at hand to the decoder, piece by piece."""
        message = self._current
        assert message is not None
        self._since_ns = self._clock_ns()
        self._contract = None
        try:
            worker = self._worker = self._worker or self._start()
            transfer = Transfer(message.frames)
        except OSError as e:
            self._refuse(_no_room(e))
            return

        def move() -> bool:
            if self._worker is not worker or self._current is not message:
                transfer.close()
                return True
            try:
                if not transfer.move():
                    return False
            except OSError as e:
                transfer.close()
                self._refuse(_no_room(e))
                return True
            sizes = b"".join(len(frame).to_bytes(8, "little") for frame in message.frames)
            worker.send(ipc.head(ipc.READ) + sizes, transfer.fd)  # which closes it
            return True

        self._in_pieces(move)

    def _start(self) -> Worker:
        worker = self._spawn()
        worker.on_packet = self._on_packet
        worker.on_end = self._on_end
        worker.send(ipc.head(ipc.DECODE, rows=self._memory_limit_mb))
        return worker

    def _on_packet(self, packet: bytes) -> None:
        message, worker = self._current, self._worker
        assert worker is not None
        try:
            if message is None or len(packet) < ipc.HEAD.size:
                raise ValueError("a packet that nobody asked for")
            kind, rows, *_ = ipc.HEAD.unpack_from(packet)
            said = packet[ipc.HEAD.size :]
            if kind == ipc.REFUSED:
                self._refuse(_error(msgspec.json.decode(said, type=ipc.Refused)))
                return
            if kind == ipc.HEADING and self._contract is None:
                wanted = message.read(msgspec.json.decode(said, type=ipc.Heading))
            elif kind == ipc.ROWS_READ and self._contract is not None and worker.fds:
                wanted = message.take(_rows(worker.fds[0], rows, self._contract.n_features), rows)
            else:
                raise ValueError(f"a packet of kind {kind}")
        except (ValueError, OSError, msgspec.DecodeError) as e:
            self._on_incident(f"the decoder sent what can't be read: {e}")
            worker.kill()
            return
        self._contract = wanted
        if wanted is None:
            self._done()
        else:
            self._ask_rows(worker, wanted)

    def _ask_rows(self, worker: Worker, contract: Contract) -> None:
        columns = ipc.Columns(contract.model, contract.version, list(contract.features), self._max_rows)
        try:
            transfer = Transfer([msgspec.json.encode(columns)])
            while not transfer.move():
                pass
        except OSError as e:
            self._refuse(_no_room(e))
            return
        worker.send(ipc.head(ipc.ROWS), transfer.fd)

    def _on_end(self, how: str) -> None:
        worker, self._worker = self._worker, None
        if self._current is None:
            return
        self._attempts += 1
        if worker is not None and not worker.pid:
            self._refuse(retryable("BUSY", f"no decoder for this message: {how}"))
        elif self._attempts > 1:
            incident = self._on_incident("a message took two decoders with it")
            self._refuse(RequestError("INTERNAL", "this message can't be decoded", incident=incident))
        else:
            self._begin()

    def _refuse(self, error: RequestError) -> None:
        message = self._current
        self._done()
        if message is not None:
            message.refuse(error)

    def _done(self) -> None:
        self._current = self._contract = None
        self._since_ns = self._clock_ns()
        self._in_pieces(self._next)

    def _let_go(self, *, kill: bool = False) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.close(kill=kill)


def _size(message: Message) -> int:
    return sum(map(len, message.frames))


def _no_room(error: OSError) -> RequestError:
    return retryable("BUSY", f"no room to decode this message: {error.strerror}")


def _error(said: ipc.Refused) -> RequestError:
    error = RequestError(said.code, said.text, **said.parameters)
    error.request_id = said.request_id
    return error


def _rows(fd: int, rows: int, columns: int) -> memoryview:
    """The rows in a memfd that nobody can change any more. Raises ValueError where it isn't one, OSError."""
    if fcntl.fcntl(fd, fcntl.F_GET_SEALS) & SEALS != SEALS:
        raise ValueError("memory that isn't sealed")
    size = os.fstat(fd).st_size
    if not rows or size != rows * columns * 8:
        raise ValueError(f"{size} bytes for {rows} rows")
    if size <= PIECE_BYTES:
        return memoryview(
            os.pread(fd, size, 0)
        )  # a map has a descriptor of its own: thousands of rows may wait
    # Private, as older kernels map a write-sealed file in no other way.
    return memoryview(mmap.mmap(fd, size, mmap.MAP_PRIVATE, mmap.PROT_READ))
