"""One version with its workers: the queue in front of them, what is under way, and what happens when one dies.

Where a version has plans, which come some time after it began to serve, requests of few rows are scored at once in
this process. Everything else goes to workers:
small requests (up to SMALL_ROWS rows) have their own lane. Batching is opportunistic: what queued while the worker was
busy goes to it as one matrix, and nothing waits for a batch to fill. A larger matrix goes as a memfd, piece by piece
(`modeld.front.matrix`), one at a time a worker, and the worker looks for small packets between its slices.

A worker that dies takes no request with it: what was under way is put back in front of the queue, once. A request that
kills two workers gets an error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from modeld.errors import RequestError, retryable
from modeld.forest.scorer import Scorer
from modeld.front.crew import Crew
from modeld.front.job import Job, refuse_late, refused
from modeld.front.lane import Lane
from modeld.front.live import LiveRows
from modeld.front.outputs import Outputs
from modeld.front.planned import Plans, Proof
from modeld.front.waiting import Waiting
from modeld.swap.policy import TRANSITIONS, Pointer, State
from modeld.wire import tensors as wire_tensors
from modeld.wire.contract import Contract


class Servable:
    """A version that passed its trial. Owned by the front's loop; not thread-safe."""

    def __init__(
        self,
        pointer: Pointer,
        contract: Contract,
        clock_ns: Callable[[], int],
        *,
        queue_requests: int,
        queue_bytes: int,
        on_bad_output: Callable[[Servable, str], str],
        in_pieces: Callable[[Callable[[], bool]], None],
        live_rows: int = 0,
        unplanned_why: str = "",
    ) -> None:
        """`live_rows`: answers to remember. `unplanned_why`: why there can be no plans; empty: there may be some.
        `in_pieces` calls what it is given once in each turn of the loop, until that returns True."""
        self.pointer = pointer
        self.contract = contract
        self.state = State.READY
        self._waiting = Waiting(queue_requests, queue_bytes)
        self._clock_ns = clock_ns
        self._on_bad_output = on_bad_output
        self.live = LiveRows(contract, live_rows)
        self._outputs = Outputs(contract, self.live)
        self._plans = Plans(unplanned_why)
        self._crew = Crew(contract, clock_ns, self._waiting, self._outputs, in_pieces)
        self.lanes = self._crew.lanes
        #: What an operator should know of this version.
        self.warnings: tuple[str, ...] = ()

    def move(self, to: State) -> None:
        """Change state. Raises ValueError for a transition that isn't legal."""
        if to not in TRANSITIONS[self.state]:
            raise ValueError(f"{self.contract.label}: {self.state} → {to} is no legal transition")
        self.state = to
        if to is not State.SERVING:
            self._plans.drop_proof()

    @property
    def large_rows(self) -> int:
        """A matrix of more rows goes to a worker as a memfd, and it is the worker that looks for infinities in it."""
        return max(self._plans.rows, self._crew.inline_rows)

    @property
    def wants_plans(self) -> bool:
        """Whether a proof of plans may find some."""
        return self._plans.wanted

    @property
    def unplanned_why(self) -> str:
        """Why no plan serves; "" where one does."""
        return self._plans.why_none

    @property
    def path(self) -> str:
        """What answers small requests: `plan`, in this process, or `worker`."""
        return "plan" if self._plans.rows else "worker"

    def prove(self, proof: Proof) -> None:
        """Plans are being proved: `use_plans` or `do_without_plans` follows, or the version stops serving."""
        self._plans.prove(proof)

    def use_plans(self, scorers: Sequence[Scorer], scored_rows: int, fd: int, why_not: str = "") -> None:
        """Take proved and checked plans, one for each output, between two requests.

        From now on up to `scored_rows` rows are scored here; where that is 0, `why_not` says why. Workers get the plans
        by `fd`, the sealed memfd that has them, for all other rows; it is this object's from now on (-1: none).
        """
        self._plans.use(scorers, scored_rows, fd, why_not)
        for lane in self.lanes:
            self._plans.send(lane)

    def do_without_plans(self, why: str) -> None:
        """There are none, and another proof would find none either."""
        self._plans.do_without(why)

    @property
    def alive(self) -> bool:
        return bool(self.lanes)

    @property
    def n_workers(self) -> int:
        return len(self.lanes)

    @property
    def pending(self) -> int:
        """Requests admitted and not yet answered."""
        return len(self._waiting) + self._crew.under_way

    def attach(self, lane: Lane) -> None:
        """A proven worker joins; what waited goes to it."""
        self.lanes.append(lane)
        self._plans.send(lane)
        self._crew.feed(lane)

    def submit(self, job: Job) -> None:
        """Predict now or queue. Raises RequestError BUSY where the queue is full."""
        if job.rows <= self._plans.rows:
            self._score(job)
            return
        waiting = self._waiting
        if waiting.full or (not waiting.fits(job) and self.pending):
            raise retryable(
                "BUSY", f"{self.contract.label}: {self.pending} requests are waiting; try again or elsewhere"
            )
        self._crew.take(job)

    def _score(self, job: Job) -> None:
        """Answer here and now, by the plans: there is nothing to wait for, not even for a worker."""
        start = self._clock_ns()
        if job.deadline_ns is not None and refuse_late(job, start, self.contract.label):
            return
        job.queue_ns = start - job.admitted_ns
        tensors = [scorer.score_bytes(bytes(job.data), job.rows) for scorer in self._plans.scorers]
        ns = self._clock_ns() - start
        job.path = "plan"
        if not self._outputs.one(job, tensors, ns):
            self._refuse_non_finite(job)

    def hung(self, small_ns: int, row_ns: int) -> list[Lane]:
        """Lanes whose worker has been silent for longer than any honest one."""
        now = self._clock_ns()
        return [lane for lane in self.lanes if lane.late(now, small_ns, row_ns)]

    def expire(self) -> None:
        """Refuse what waits and is late, also while there is no worker to take it."""
        now = self._clock_ns()
        for job in self._waiting.take_out(lambda job: job.deadline_ns is not None and job.deadline_ns <= now):
            refuse_late(job, now, self.contract.label)

    def refuse_before(self, admitted_ns: int, error: Callable[[], RequestError]) -> None:
        """Refuse what was admitted up to then and isn't answered yet; what a worker makes of it later is nobody's."""
        for job in self._waiting.take_out(lambda job: job.admitted_ns <= admitted_ns):
            job.refuse(error())
        for lane in self.lanes:
            lane.small = (
                [refused(job, admitted_ns, error) for job in lane.small] if lane.small else lane.small
            )
            if lane.bulk is not None:
                lane.bulk.job = refused(lane.bulk.job, admitted_ns, error)

    def fail_all(self, error: Callable[[], RequestError]) -> None:
        """Refuse everything that waits or is under way: exactly one error each."""
        for job in self._take_all():
            job.refuse(error())

    def hand_over(self, binding: Any, error: Callable[[], RequestError]) -> None:
        """Give everything that waits to another version; what mustn't be answered by another is refused."""
        for job in self._take_all():
            if not job.rebind(binding):
                job.refuse(error())
                continue
            try:
                # Another version may have another contract, and another idea of what is large.
                wire_tensors.check_finite(np.frombuffer(job.data), binding.contract)
                job.data = bytes(job.data)
                binding.served.submit(job)
            except RequestError as e:
                job.refuse(e)

    def _take_all(self) -> list[Job]:
        return [*self._crew.take_back(), *self._waiting.take_all()]

    def close(self, *, kill: bool) -> None:
        self._crew.close(kill=kill)
        self._plans.close()
        self.live.clear()

    def on_packet(self, lane: Lane, packet: bytes) -> None:
        """What a worker says. Raises WorkerLost where that isn't the result of what it was asked."""
        for job in self._crew.on_packet(lane, packet):
            self._refuse_non_finite(job)

    def on_death(self, lane: Lane) -> None:
        """The worker is gone: its work goes back to the front of the queue, or is refused the second time."""
        for job in self._crew.on_death(lane):
            incident = self._on_bad_output(self, "a request took two workers with it")
            job.refuse(
                RequestError("INTERNAL", f"{self.contract.label}: the prediction failed", incident=incident)
            )

    def _refuse_non_finite(self, job: Job) -> None:
        incident = self._on_bad_output(self, "an output isn't finite")
        job.refuse(
            RequestError("INTERNAL", f"{self.contract.label}: an output isn't finite", incident=incident)
        )
