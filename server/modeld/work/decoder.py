"""A decoder: large messages of numbers in JSON and MessagePack to float64 rows, in a process of its own.

One call of a decoder can't be taken apart, and 4,096 rows of JSON take it 50 ms. In the front everybody would wait for
that; here only those wait who sent such messages. It takes one message at a time: the front asks for its header, says
which features its rows should have, and gets them in a sealed memfd.
"""

from __future__ import annotations

import array
import fcntl
import mmap
import os
import socket

import msgspec

from modeld.errors import RequestError
from modeld.wire import header, tensors
from modeld.wire.contract import Contract
from modeld.work import ipc, prctl
from modeld.work.confine import confine

#: What the front may rely on while it reads the rows.
SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
#: Of a refusal, so much travels. Characters.
_MAX_TEXT = 2000


def main(channel: socket.socket, memory_limit_mb: int) -> None:
    """Decode what comes until the front closes `channel`."""
    confine("modeld-decoder", memory_limit_mb=memory_limit_mb, file_bytes=memory_limit_mb << 20)
    prctl.set_slice(prctl.LONG_SLICE_NS)
    message: _Message | None = None
    while True:
        packet, fds, _, _ = socket.recv_fds(channel, ipc.MAX_PACKET, 1)
        if not packet:
            return
        rows, found = -1, b""
        try:
            if packet[0] == ipc.READ:
                message = None  # the memory of the one before goes first
            found = _contents(fds[0])
            if packet[0] == ipc.READ:
                message = _Message(found, array.array("Q", packet[ipc.HEAD.size :]))
                answer = message.heading()
            else:
                assert message is not None
                answer, rows = message.rows(msgspec.json.decode(found, type=ipc.Columns))
        except (RequestError, MemoryError) as error:
            answer = _refusal(error)
        finally:
            found = b""
        socket.send_fds(channel, [answer], [rows] if rows >= 0 else [])
        if rows >= 0:
            os.close(rows)


class _Message:
    """One message, its header decoded but for the numbers. Raises RequestError MALFORMED where it can't be."""

    def __init__(self, data: bytes, sizes: array.array[int]) -> None:
        self._frames: list[bytes] = []
        at = 0
        for size in sizes:
            self._frames.append(data[at : at + size])
            at += size
        self._request = header.decode(self._frames[0])

    def heading(self) -> bytes:
        """What the front wants to know first."""
        request = self._request
        heading = ipc.Heading(
            request.op, request.id, request.model_name, request.model_version, request.parameters
        )
        answer = msgspec.json.encode(heading)
        if len(answer) > ipc.INLINE_BYTES:
            refusal = RequestError("MALFORMED", f"names and parameters take {len(answer)} bytes")
            refusal.request_id = request.id
            raise refusal
        return ipc.head(ipc.HEADING) + answer

    def rows(self, wanted: ipc.Columns) -> tuple[bytes, int]:
        """The answer, and the rows in a sealed memfd."""
        contract = Contract(wanted.model, wanted.version, tuple(wanted.features), "", ())
        head, *raw = self._frames
        decoders = tensors.JSON if header.is_json(head) else tensors.MSGPACK
        # Nothing is looked through for infinities here: the front does that for few rows, a worker for many.
        data, rows = tensors.parse_matrix(self._request, raw, contract, wanted.max_rows, decoders, 0)
        fd = os.memfd_create("modeld-rows", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        os.ftruncate(fd, len(data))
        with mmap.mmap(fd, len(data)) as memory:
            memory.write(data)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, SEALS)
        return ipc.head(ipc.ROWS_READ, rows=rows), fd


def _contents(fd: int) -> bytes:
    """All that is in the memfd, which is closed."""
    with os.fdopen(fd, "rb", buffering=0):
        return os.pread(fd, os.fstat(fd).st_size, 0)


def _refusal(error: RequestError | MemoryError) -> bytes:
    if isinstance(error, MemoryError):
        error = RequestError(
            "TOO_LARGE", "there is no memory to decode this message: send rows as raw frames"
        )
    said = ipc.Refused(error.code, str(error)[:_MAX_TEXT], error.parameters, error.request_id)
    answer = msgspec.json.encode(said)
    if len(answer) > ipc.INLINE_BYTES:
        said.parameters = {}
        answer = msgspec.json.encode(said)
    return ipc.head(ipc.REFUSED) + answer
