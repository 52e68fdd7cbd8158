"""A worker as the version that it serves sees it: a channel, and what is under way there."""

from __future__ import annotations

import os
import socket
from typing import Protocol

from modeld.front.job import Job
from modeld.front.matrix import MatrixTransfer


class WorkerLost(Exception):
    """The worker's channel is at its end."""


class Channel(Protocol):
    """The front's end of one worker."""

    sock: socket.socket
    pid: int

    def close(self, *, kill: bool) -> None: ...


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
