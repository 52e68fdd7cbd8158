"""What a slot stands on: the outside that it reaches through `Ports`, and the records that pass between the two."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from modeld.errors import RequestError
from modeld.swap.policy import Pointer, State
from modeld.wire.contract import Contract


class Served(Protocol):
    """What a slot needs of a version that passed its trial (the front's Servable)."""

    pointer: Pointer
    contract: Contract
    state: State

    @property
    def alive(self) -> bool: ...
    @property
    def n_workers(self) -> int: ...
    @property
    def pending(self) -> int: ...
    def move(self, to: State) -> None: ...
    def refuse_before(self, admitted_ns: int, error: Callable[[], RequestError]) -> None:
        """Refuse what was admitted up to then and isn't answered yet."""

    def fail_all(self, error: Callable[[], RequestError]) -> None: ...
    def hand_over(self, binding: Binding, error: Callable[[], RequestError]) -> None: ...
    def close(self, *, kill: bool) -> None: ...


class Candidate(Protocol):
    """A trial under way: it reports to the slot that started it."""

    def drop(self) -> None:
        """End it; it reports nothing more."""


class Ports(Protocol):
    """The outside of a slot."""

    def clock_ns(self) -> int: ...
    def now(self) -> str:
        """Wall clock, RFC 3339 UTC."""
        ...

    def call_in(self, delay_s: float, callback: Callable[[], None]) -> None: ...
    def start_trial(self, pointer: Pointer, trial: Trial) -> Candidate: ...
    def join(self, served: Any, worker: Any) -> None:
        """A proven worker joins a version that serves already."""
        ...

    def prove(self, served: Any) -> None:
        """`served` has begun to serve: have a quicker way to compute the same proved beside it, if there may be one."""
        ...

    def write(self, model: str, expect: str, to: str | None, mark_failed: bool, reason: str, actor: str,
              done: Callable[[WriteOutcome], None]) -> None: ...  # fmt: skip
    def keep(self, binding: Binding, rejected: list[Rejection], unserved: list[str]) -> None:
        """Keep a copy of the version, so that a restart can do without the source; and digests for the restart."""
        ...

    def event(self, kind: str, model: str, **fields: Any) -> None: ...
    def log(self, event: str, **fields: Any) -> None: ...


@dataclass(frozen=True, slots=True)
class WriteOutcome:
    """What came of a write to the source; `code` None: it was done."""

    code: str | None = None
    error: str | None = None
    from_version: str | None = None
    to_version: str | None = None


@dataclass(frozen=True, slots=True)
class Binding:
    """What a request is bound to when it is admitted: a version under a generation. Immutable."""

    generation: int
    served: Any
    contract: Contract
    digest: str
    revision: int
    since: str


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a version isn't served. `actor`: the operator who rolled back from it; empty: this daemon found it out."""

    version: str
    digest: str
    stage: str
    reason: str
    at: str
    actor: str = ""
    mark_failed: bool = True

    @property
    def told(self) -> str:
        """The reason as the source's log gets it."""
        return self.reason if self.actor else f"{self.stage}: {self.reason}"

    @property
    def when(self) -> str:
        """For a sentence: rejected `while validating`, or `in probation`."""
        return f"in {self.stage}" if self.stage == "probation" else f"while {self.stage}"

    @property
    def taken_away(self) -> bool:
        """Whether the version served until then: that another one serves was told when it was done."""
        return bool(self.actor) or self.stage == "probation"

    @property
    def of_promotion(self) -> bool:
        """Whether it is about the promotion and not about the version: another promotion is tried anew."""
        return not self.actor and not self.mark_failed


@dataclass(slots=True)
class Trial:
    """A candidate version, or a fresh worker of the one that serves; the edge fills in how it goes."""

    pointer: Pointer
    started_ns: int
    report: Callable[[Trial], None]
    state: State = State.ABSENT
    outcome: Literal["ready", "rejected", "aborted"] | None = None
    stage: str = ""
    reason: str = ""
    #: It failed for what the promotion didn't say, and for no fault of the version's.
    of_promotion: bool = False
    served: Any = None
    worker: Any = None
    #: What the worker's proof said of itself (milliseconds by stage).
    stages_ms: dict[str, float] = field(default_factory=dict)
    #: How its answers to live rows differ from the serving version's, one dict for each output.
    live: list[dict[str, Any]] = field(default_factory=list)
    candidate: Candidate | None = None

    def forget(self) -> None:
        """Let go of what came of it, for timers hold trials longer than versions live."""
        self.candidate = self.served = self.worker = None

    def reached(self, state: State) -> None:
        self.state = state

    def passed(
        self, served: Any, worker: Any, stages_ms: dict[str, float], live: list[dict[str, Any]] | None = None
    ) -> None:
        self.state, self.outcome = State.READY, "ready"
        self.live = live or []
        self.served, self.worker, self.stages_ms = served, worker, stages_ms
        self.report(self)

    def failed(self, stage: str, reason: str) -> None:
        self.state, self.outcome = State.REJECTED, "rejected"
        self.stage, self.reason = stage, reason
        self.report(self)

    def aborted(self, reason: str) -> None:
        """It couldn't be held: no worker, no disk. That says nothing about the version."""
        self.state, self.outcome, self.reason = State.REJECTED, "aborted", reason
        self.report(self)
