"""Requests that wait for a worker: small ones in one queue, large matrices in another, within limits."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from modeld.front.job import Job


class Waiting:
    """Two queues, oldest first, and the bytes of what is in them. Owned by the front's loop."""

    def __init__(self, max_requests: int, max_bytes: int) -> None:
        self.small: deque[Job] = deque()
        self.bulk: deque[Job] = deque()
        self.bytes = 0
        self._max_requests = max_requests
        self._max_bytes = max_bytes

    def __len__(self) -> int:
        return len(self.small) + len(self.bulk)

    @property
    def full(self) -> bool:
        """Whether no request more may wait, however small."""
        return len(self) >= self._max_requests

    def fits(self, job: Job) -> bool:
        """Whether there is room for its bytes."""
        return self.bytes + len(job.data) <= self._max_bytes

    def append(self, queue: deque[Job], job: Job) -> None:
        queue.append(job)
        self.bytes += len(job.data)

    def put_back(self, queue: deque[Job], job: Job) -> None:
        """In front of all others."""
        queue.appendleft(job)
        self.bytes += len(job.data)

    def pop(self, queue: deque[Job]) -> Job:
        """The oldest."""
        job = queue.popleft()
        self.bytes -= len(job.data)
        return job

    def take_out(self, which: Callable[[Job], bool]) -> list[Job]:
        """Every job of which `which` is true."""
        found = []
        for queue in (self.small, self.bulk):
            for job in [job for job in queue if which(job)]:
                queue.remove(job)
                self.bytes -= len(job.data)
                found.append(job)
        return found

    def take_all(self) -> list[Job]:
        jobs = [*self.small, *self.bulk]
        self.small.clear()
        self.bulk.clear()
        self.bytes = 0
        return jobs
