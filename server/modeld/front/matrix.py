"""Large messages on their way to another process, and a matrix's outputs on their way back: a memfd, written a piece at
a time.

Five megabytes take longer to copy than a request of one row may take in all. So the loop moves a piece in each of its
turns, and whoever sends one row meanwhile waits for one piece.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from modeld.work import ipc

if TYPE_CHECKING:
    from modeld.front.job import Job

#: What one turn of the loop moves at most. Bytes.
PIECE_BYTES = 128 * 1024
#: The id of a matrix that its worker doesn't know of yet: no packet can have it.
_NOT_SENT = -1


class Transfer:
    """Frames on their way into a memfd, one behind the other. Owned by the loop."""

    __slots__ = ("_frames", "_frames_at", "_to", "fd", "size")

    def __init__(self, frames: Sequence[bytes | memoryview], room_bytes: int = 0, fd: int = -1) -> None:
        """`room_bytes`: to be left behind them. `fd`: a memfd to take, -1 for a new one.

        Raises OSError where there is no descriptor or no memory for it, as `move` does.
        """
        self._frames = [memoryview(frame) for frame in frames]
        self._frames_at = 0
        self._to = 0
        self.fd = fd if fd >= 0 else os.memfd_create("modeld-matrix", os.MFD_CLOEXEC)
        try:
            self.size = max(sum(map(len, frames)) + room_bytes, os.fstat(self.fd).st_size)
            os.ftruncate(self.fd, self.size)
        except OSError:
            self.close()
            raise

    def move(self) -> bool:
        """Move one piece; True when all is there."""
        moved = 0
        while moved < PIECE_BYTES and self._frames:
            frame = self._frames[0]
            piece = frame[self._frames_at : self._frames_at + PIECE_BYTES - moved]
            written = os.pwrite(self.fd, piece, self._to)
            moved += written
            self._to += written
            self._frames_at += written
            if self._frames_at == len(frame):
                del self._frames[0]
                self._frames_at = 0
        return not self._frames

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1


class MatrixTransfer(Transfer):
    """One job's rows, with room for its outputs behind them."""

    __slots__ = ("_outputs_bytes", "id", "job", "since_ns")

    def __init__(self, job: Job, outputs_bytes: int, now_ns: int, fd: int = -1) -> None:
        super().__init__([job.data], outputs_bytes, fd)
        self.job = job
        self.id = _NOT_SENT
        self.since_ns = now_ns
        self._outputs_bytes = outputs_bytes

    def outputs(self) -> bytes:
        """A copy of our own: what the worker writes into the memfd from now on doesn't matter."""
        return os.pread(self.fd, self._outputs_bytes, len(self.job.data))

    def give_back(self) -> int:
        """The memfd, for the next matrix of the same worker; -1 where it is too large to be kept."""
        if self.size > ipc.KEPT_BYTES:
            self.close()
        fd, self.fd = self.fd, -1
        return fd
