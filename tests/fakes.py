"""The outside of a slot, without processes, threads or sleeping: a clock, trials, a registry and events.

Each part fails in the ways in which the real one does, when the test says so: a trial is late, is refused, dies, or
dies after it passed; a write meets a conflict or an unreachable registry, or is answered late; a worker dies while it
serves. Nothing happens by itself: the test, or a seeded schedule, decides what comes next.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from typing import Any

from modeld.errors import RequestError
from modeld.swap.policy import TRANSITIONS, Pointer, State
from modeld.swap.ports import Binding, Rejection, Trial, WriteOutcome
from modeld.wire.contract import Contract

FEATURES = ("sma_5", "sma_20")


def pointer(version: str, revision: int = 1, *, digest: str = "", **fields: Any) -> Pointer:
    """A pointer to `version` of model alpha; the digest follows from the version."""
    return Pointer("alpha", version, digest or f"sha256:{version}", revision, f"/models/{version}", **fields)


def contract(version: str, features: tuple[str, ...] = FEATURES) -> Contract:
    return Contract("alpha", version, features, f"schema of {features}", (("predictions", 0),))


class FakeWorker:
    """A worker that passed its trial."""

    def __init__(self, trial: FakeTrial) -> None:
        self.trial = trial


class FakeServed:
    """A version that passed its trial, with as many workers as have joined and requests that the test counts."""

    def __init__(self, at: Pointer, its_contract: Contract) -> None:
        self.pointer = at
        self.contract = its_contract
        self.state = State.READY
        self.states = [State.READY]
        self.workers: list[FakeWorker] = []
        self.pending = 0
        self.refused: list[RequestError] = []
        self.closed = False
        #: Whether its plans are being proved.
        self.proving = False

    @property
    def alive(self) -> bool:
        return bool(self.workers)

    @property
    def n_workers(self) -> int:
        return len(self.workers)

    def move(self, to: State) -> None:
        if to not in TRANSITIONS[self.state]:
            raise AssertionError(f"{self.contract.label}: {self.state} → {to} is no legal transition")
        self.state = to
        self.states.append(to)
        self.proving = False

    def refuse_before(self, admitted_ns: int, error: Callable[[], RequestError]) -> None:  # noqa: ARG002
        """All that the test counts was admitted before."""
        self.fail_all(error)

    def fail_all(self, error: Callable[[], RequestError]) -> None:
        self.refused += [error() for _ in range(self.pending)]
        self.pending = 0

    def hand_over(self, binding: Binding, error: Callable[[], RequestError]) -> None:
        """To a version with a worker, if it takes the same features."""
        assert binding.served is not self
        if binding.served.alive and binding.contract.features == self.contract.features:
            binding.served.pending += self.pending
            self.pending = 0
        self.fail_all(error)

    def close(self, *, kill: bool) -> None:  # noqa: ARG002 (part of the port)
        assert not self.closed, f"{self.contract.label} is closed twice"
        assert not self.pending, f"{self.contract.label} is closed with {self.pending} requests unanswered"
        self.closed = True
        self.workers.clear()


class FakeTrial:
    """A trial under way: the test says how it goes."""

    def __init__(self, at: Pointer, trial: Trial) -> None:
        self.pointer = at
        self.trial = trial
        self.dropped = False
        self.joined = False
        self.over = False

    def drop(self) -> None:
        self.dropped = True

    @property
    def running(self) -> bool:
        return not (self.dropped or self.over)

    @property
    def takes_news(self) -> bool:
        """Whether a real worker of this trial could still be heard of as one on trial."""
        return not (self.dropped or self.joined)

    def stage(self, state: State) -> None:
        if self.running:
            self.trial.reached(state)

    def ready(self, its_contract: Contract | None = None) -> None:
        if self.running:
            self.over = True
            served = FakeServed(self.pointer, its_contract or contract(self.pointer.version))
            self.trial.passed(served, FakeWorker(self), {"load": 1.0})

    def abort(self, reason: str = "no worker") -> None:
        """It can't be held now."""
        if self.running:
            self.over = True
            self.trial.aborted(reason)

    def reject(self, reason: str = "golden rows differ", stage: str = "validating") -> None:
        if self.running:
            self.over = True
            self.trial.failed(stage, reason)

    def die(self, how: str = "the worker was killed by SIGABRT") -> None:
        """Also after it passed, as long as nobody took the worker over."""
        if self.takes_news and self.trial.outcome != "rejected":
            self.over = True
            self.trial.failed(str(self.trial.state), how)


@dataclass
class FakeWrite:
    """A write to the source that waits for its answer."""

    expect: str
    to: str | None
    mark_failed: bool
    reason: str
    actor: str
    done: Callable[[WriteOutcome], None]


@dataclass
class FakePorts:
    """What a slot touches. `trials` and `writes` hold what was asked for, oldest first."""

    ns: int = 0
    trials: list[FakeTrial] = field(default_factory=list)
    writes: list[FakeWrite] = field(default_factory=list)
    events: list[dict[str, Any]] = field(default_factory=list)
    logged: list[str] = field(default_factory=list)
    kept: list[tuple[str, int, list[str]]] = field(default_factory=list)
    #: What the last copy was kept with: digests that never served.
    unserved: list[str] = field(default_factory=list)
    _timers: list[tuple[int, int, Callable[[], None]]] = field(default_factory=list)
    _order: count[int] = field(default_factory=count)

    def clock_ns(self) -> int:
        return self.ns

    def now(self) -> str:
        return f"2026-01-01T00:00:{self.ns / 1e9:09.6f}Z"

    def call_in(self, delay_s: float, callback: Callable[[], None]) -> None:
        heapq.heappush(self._timers, (self.ns + int(delay_s * 1e9), next(self._order), callback))

    def advance(self, seconds: float) -> None:
        """Let time pass; what is due meanwhile is called at its time."""
        until = self.ns + int(seconds * 1e9)
        while self._timers and self._timers[0][0] <= until:
            self.ns = max(self.ns, self._timers[0][0])
            heapq.heappop(self._timers)[2]()
        self.ns = until

    def start_trial(self, pointer: Pointer, trial: Trial) -> FakeTrial:
        self.trials.append(FakeTrial(pointer, trial))
        return self.trials[-1]

    def join(self, served: FakeServed, worker: FakeWorker) -> None:
        assert not worker.trial.dropped, "a worker that was let go joins"
        assert not worker.trial.joined, "a worker joins twice"
        worker.trial.joined = True
        served.workers.append(worker)

    def prove(self, served: FakeServed) -> None:
        assert served.state is State.SERVING, f"{served.contract.label} is proved and doesn't serve"
        served.proving = True

    def write(self, model: str, expect: str, to: str | None, mark_failed: bool, reason: str, actor: str,
              done: Callable[[WriteOutcome], None]) -> None:  # fmt: skip
        assert model == "alpha"
        self.writes.append(FakeWrite(expect, to, mark_failed, reason, actor, done))

    def keep(self, binding: Binding, rejected: list[Rejection], unserved: list[str]) -> None:
        self.unserved = unserved
        self.kept.append((binding.digest, binding.generation, [one.digest for one in rejected]))

    def event(self, kind: str, model: str, **fields: Any) -> None:
        self.events.append({"kind": kind, "model": model, **fields})

    def log(self, event: str, **fields: Any) -> None:  # noqa: ARG002 (part of the port)
        self.logged.append(event)
