"""A large matrix on its way to a worker, and its outputs on their way back: a memfd, written a piece at a time.

Five megabytes take longer to copy than a request of one row may take in all. So the loop moves a piece in each of its
turns, and whoever sends one row meanwhile waits for one piece.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modeld.front.job import Job

#: What one turn of the loop moves at most. Bytes.
PIECE_BYTES = 128 * 1024
#: The id of a matrix that its worker doesn't know of yet: no packet can have it.
_NOT_SENT = -1


class MatrixTransfer:
    """One job's rows in a memfd, with room for its outputs behind them. Owned by the loop."""

    __slots__ = ("_at", "_outputs_bytes", "fd", "id", "job", "since_ns")

    def __init__(self, job: Job, outputs_bytes: int, now_ns: int) -> None:
        """Raises OSError where there is no descriptor or no memory for it, as `move` does."""
        self.job = job
        self.id = _NOT_SENT
        self.since_ns = now_ns
        self._at = 0
        self._outputs_bytes = outputs_bytes
        self.fd = os.memfd_create("modeld-matrix", os.MFD_CLOEXEC)
        try:
            os.ftruncate(self.fd, len(job.data) + outputs_bytes)
        except OSError:
            self.close()
            raise

    def move(self) -> bool:
        """Move one piece; True when all rows are there."""
        self._at += os.pwrite(self.fd, memoryview(self.job.data)[self._at : self._at + PIECE_BYTES], self._at)
        return self._at == len(self.job.data)

    def outputs(self) -> bytes:
        """A copy of our own: what the worker writes into the memfd from now on doesn't matter."""
        return os.pread(self.fd, self._outputs_bytes, len(self.job.data))

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
