"""One admitted request, and what stands for it when it was refused while a worker had it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from modeld.errors import RequestError, retryable


class Job:
    """One admitted request; a subclass makes the reply from what the request was bound to when it was admitted.

    Exactly one of `finish` and `refuse` is called, once.
    """

    __slots__ = ("admitted_ns", "attempts", "data", "deadline_ns", "path", "queue_ns", "rows")

    def __init__(
        self, data: bytes | memoryview, rows: int, admitted_ns: int, deadline_ns: int | None
    ) -> None:
        #: Float64 rows; those of a large matrix are a view of the message that they came in.
        self.data = data
        self.rows = rows
        self.admitted_ns = admitted_ns
        self.deadline_ns = deadline_ns
        self.attempts = 0
        self.queue_ns = 0
        #: What computed it: `plan` or `worker`.
        self.path = "worker"

    def finish(self, tensors: list[bytes], predict_ns: int) -> None:
        """The outputs: float64 bytes, one for each output of the contract, and how long the prediction took."""
        raise NotImplementedError

    def refuse(self, error: RequestError) -> None:
        """There is no prediction, for this reason."""
        raise NotImplementedError

    def rebind(self, binding: Any) -> bool:  # noqa: ARG002
        """Whether another version may answer, and if so, from now on under its label."""
        return False


class _Refused(Job):
    """Stands for a job under way that has been refused. It is late, so that no worker is asked for it again."""

    def __init__(self, job: Job) -> None:
        super().__init__(job.data, job.rows, job.admitted_ns, deadline_ns=0)

    def finish(self, tensors: list[bytes], predict_ns: int) -> None:
        """Nobody waits for it."""

    def refuse(self, error: RequestError) -> None:
        """It has been."""


def refused(job: Job, admitted_ns: int, error: Callable[[], RequestError]) -> Job:
    """`job`, or where it was admitted up to then, what stands for it after its refusal."""
    if job.admitted_ns > admitted_ns:
        return job
    job.refuse(error())
    return _Refused(job)


def refuse_late(job: Job, now_ns: int, label: str) -> bool:
    """Whether its deadline is over, and if so, it is refused."""
    if job.deadline_ns is None or now_ns < job.deadline_ns:
        return False
    waited = (now_ns - job.admitted_ns) // 1000
    job.refuse(retryable("DEADLINE_EXCEEDED", f"{label}: waited {waited} µs; nothing was computed"))
    return True
