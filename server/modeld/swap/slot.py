"""One model in the daemon: what is wanted, what serves, what is warm, what is on trial; and the acts of the policy.

Everything that touches the outside (workers, the source, events, timers) goes through `Ports`, so that a test can run
this with a seed and no process. Owned by one thread.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from modeld.errors import RequestError, retryable
from modeld.swap.policy import Act, OnTrial, Pointer, Resident, State, View, next_action, target
from modeld.wire.contract import Contract

#: Waits before the second, third, … try to replace a dead worker. Seconds.
_REVIVAL_BACKOFF_S = (0.0, 0.1, 0.5, 1.0)
#: Waits before a trial that couldn't be held is tried again. Seconds.
_ABORT_BACKOFF_S = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0)
#: Trials in a row that couldn't be held after which an operator is told instead of waiting on.
_TOLD_AFTER = 3
#: Rejections that a restart remembers.
_KEPT_REJECTIONS = 32
#: Failed revivals in a row after which the version counts as lost.
_LOST_AFTER = 2
#: A swap or a rejection counts as the outcome of a reload that comes this much later. Seconds.
_NEWS_S = 30.0
#: Wait before a failed write to the source is tried again. Seconds.
_WRITE_BACKOFF_S = (1.0, 2.0, 5.0, 15.0, 60.0)


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
    def path(self) -> str: ...
    @property
    def unplanned_why(self) -> str: ...
    @property
    def pending(self) -> int: ...
    def move(self, to: State) -> None: ...
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

    def write(self, model: str, expect: str, to: str | None, mark_failed: bool, reason: str, actor: str,
              done: Callable[[WriteOutcome], None]) -> None: ...  # fmt: skip
    def keep(self, binding: Binding, rejected: list[Rejection]) -> None:
        """Keep a copy of the version, so that a restart can do without the source."""
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
    version: str
    digest: str
    stage: str
    reason: str
    at: str


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
    served: Any = None
    worker: Any = None
    #: What the worker's proof said of itself (milliseconds by stage).
    stages_ms: dict[str, float] = field(default_factory=dict)
    candidate: Candidate | None = None

    def reached(self, state: State) -> None:
        self.state = state

    def passed(self, served: Any, worker: Any, stages_ms: dict[str, float]) -> None:
        self.state, self.outcome = State.READY, "ready"
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


class Slot:
    """The versions of one model, and the policy's hands."""

    def __init__(
        self,
        model: str,
        ports: Ports,
        *,
        actor: str,
        rollback_on_reject: bool,
        allow_schema_change: bool,
        probation_s: float,
        probation_requests: int,
        workers: int = 1,
    ) -> None:
        self.model = model
        self.desired: Pointer | None = None
        self.serving: Binding | None = None
        self.warm: Binding | None = None
        self.trial: Trial | None = None
        self.revival: Trial | None = None
        self.retiring: list[Any] = []
        self.rejected: dict[str, Rejection] = {}
        self.last_rejection: Rejection | None = None
        self.held: str | None = None
        self.condemned: str | None = None
        self.generation = 0
        self.degraded: dict[str, str] = {}
        self._news: tuple[str, int] | None = None
        #: Called after every reconcile that ends with nothing under way.
        self.waiters: list[Callable[[], bool]] = []
        self._ports = ports
        self._actor = actor
        self._rollback_on_reject = rollback_on_reject
        self._allow_schema_change = allow_schema_change
        self._probation_s = probation_s
        self._probation_requests = probation_requests
        self._workers = workers
        self._probation_until_ns = 0
        self._probation_left = 0
        self._revival_failures = 0
        self._revival_due_ns = 0
        self._writing = False
        self._write_failures = 0
        self._write_due_ns = 0
        self._aborts = 0
        self._abort_due_ns = 0
        self._unfit: frozenset[str] = frozenset()
        self._kept: Pointer | None = None
        self._rolling_back = False

    # -- what happened

    def resume(self, kept: Pointer, generation: int, rejected: list[Rejection]) -> None:
        """What the state directory remembers of the time before this start."""
        self._kept = kept
        self.generation = generation
        self.rejected = {rejection.digest: rejection for rejection in rejected}
        self.last_rejection = rejected[-1] if rejected else None

    def observe(self, desired: Pointer | None, unfit: frozenset[str] = frozenset()) -> None:
        """The source says this now. None: it names no version, and what serves goes on serving.

        `unfit`: digests that the source has marked as failed, archived or deleted.
        """
        if desired != self.desired:
            self._aborts = self._abort_due_ns = self._write_failures = self._write_due_ns = 0
            for cause in ("trial", "source"):
                self.degraded.pop(cause, None)
        self.desired = desired
        self._unfit = unfit
        self.reconcile()

    def rolling_back(self, under_way: bool) -> None:
        """An operator has this model's pointer moved back: the next swap to the warm version is that rollback."""
        self._rolling_back = under_way

    def worker_died(self, served: Any, how: str) -> None:
        """A worker of a resident version is gone."""
        self._ports.log("worker_died", model=self.model, version=served.contract.version, how=how)
        if self.serving is not None and served is self.serving.served:
            if self.on_probation and self.warm is not None and self.warm.served.alive:
                self.condemned = f"{how} in probation"
        elif self.warm is not None and served is self.warm.served and not served.alive:
            served.fail_all(self._gone)
            self._retire(served)
            self.warm = None
        elif served in self.retiring and not served.alive:
            served.fail_all(self._gone)
        self.reconcile()

    def bad_output(self, served: Any, what: str) -> None:
        """A served version said what it must not say."""
        if self.serving is not None and served is self.serving.served and self.on_probation:
            self.condemned = f"{what} in probation"
            self._ports.call_in(0, self.reconcile)

    def replied(self) -> None:
        """A reply by the serving version."""
        if self._probation_left > 1:
            self._probation_left -= 1
        elif self._probation_left:
            self._probation_until_ns = 0

    @property
    def on_probation(self) -> bool:
        return self._probation_left > 0 and self._ports.clock_ns() < self._probation_until_ns

    @property
    def settled(self) -> bool:
        """Nothing is under way."""
        waits = self.trial is None or (self.held is not None and self.trial.outcome == "ready")
        return waits and not self._writing and not 0 < self._aborts < _TOLD_AFTER

    @property
    def in_use(self) -> set[str]:
        """The versions that serve, are warm or on trial: a worker may have to read their files."""
        found = {
            binding.served.pointer.version for binding in (self.serving, self.warm) if binding is not None
        }
        return found | ({self.trial.pointer.version} if self.trial is not None else set())

    def has_served(self, pointer: Pointer) -> bool:
        """Whether the version is known to be good: a trial of it is about a worker, and not about the version."""
        known = [b.digest for b in (self.serving, self.warm) if b is not None]
        return pointer.held_before or pointer.digest in (*known, self._kept and self._kept.digest)

    def forgive(self) -> None:
        """Forget that the wanted version was rejected, and try it once more."""
        if self.desired is not None and self.rejected.pop(self.desired.digest, None) is not None:
            self.reconcile()

    def take_news(self) -> str | None:
        """`swapped` or `rejected` if that happened lately and nobody was told: what a reload has to answer.

        Events are quicker than an operator: by the time that a reload arrives, what it asks for is often done.
        """
        news, self._news = self._news, None
        if news is None or self._ports.clock_ns() - news[1] > _NEWS_S * 1e9:
            return None
        return news[0]

    def view(self) -> View:
        now = self._ports.clock_ns()
        serving = warm = None
        if (binding := self.serving) is not None:
            alive = binding.served.alive
            serving = Resident(
                binding.contract.version,
                binding.digest,
                binding.revision,
                alive=alive,
                short=(
                    binding.served.n_workers < self._workers
                    and self.revival is None
                    and now >= self._revival_due_ns
                ),
                lost=not alive and self._revival_failures >= _LOST_AFTER,
            )
        if self.warm is not None:
            warm = Resident(
                self.warm.contract.version,
                self.warm.digest,
                self.warm.revision,
                alive=self.warm.served.alive,
                fit=self.warm.digest not in self._unfit,
            )
        return View(
            desired=self.desired,
            serving=serving,
            warm=warm,
            trial=OnTrial(self.trial.pointer.digest, self.trial.outcome) if self.trial is not None else None,
            rejected=frozenset(self.rejected),
            held=self.held is not None,
            condemned=self.condemned is not None,
            may_write=self._rollback_on_reject and not self._writing and now >= self._write_due_ns,
            kept=self._kept,
            aborted=self._aborts > 0,
            may_try=now >= self._abort_due_ns,
        )

    def reconcile(self) -> None:
        """Act until all is as wanted, or as near as it can be now."""
        while (act := next_action(self.view())) is not None:
            _ACTS[act](self)
        if self.settled:
            self.waiters = [waiter for waiter in self.waiters if not waiter()]

    def tick(self) -> None:
        """Now and then: what drained gets warm or is retired, and what was put off is looked at again."""
        if (
            self.warm is not None
            and self.warm.served.state == State.DRAINING
            and not self.warm.served.pending
        ):
            self.warm.served.move(State.WARM)
        if self._probation_left and not self.on_probation:
            self._probation_left = 0
            self._ports.log("probation_passed", model=self.model, generation=self.generation)
            self._keep()
        for served in [served for served in self.retiring if not served.pending]:
            self.retiring.remove(served)
            served.close(kill=False)
        self.reconcile()

    def close(self) -> None:
        """Let every worker go; what is still unanswered is refused."""
        for trial in (self.trial, self.revival):
            if trial is not None and trial.candidate is not None:
                trial.candidate.drop()
        self.trial = self.revival = None
        resident = [binding.served for binding in (self.warm, self.serving) if binding is not None]
        for served in [*self.retiring, *resident]:
            served.fail_all(_shutting_down)
            served.close(kill=False)

    # -- the acts

    def _start_trial(self) -> None:
        wanted = target(self.view())
        assert wanted is not None
        self._ports.log("trial_started", model=self.model, version=wanted.version, revision=wanted.revision)
        self.trial = trial = Trial(wanted, self._ports.clock_ns(), self._trial_over)
        candidate = self._ports.start_trial(wanted, trial)
        trial.candidate = candidate

    def _abort(self) -> None:
        trial = self.trial
        assert trial is not None
        self._end_trial()
        delay_s = _ABORT_BACKOFF_S[min(self._aborts, len(_ABORT_BACKOFF_S) - 1)]
        self._aborts += 1
        self._abort_due_ns = self._ports.clock_ns() + int(delay_s * 1e9)
        self.degraded["trial"] = f"{trial.pointer.version} can't be tried: {trial.reason}"
        self._ports.log("trial_aborted", model=self.model, version=trial.pointer.version, reason=trial.reason)
        self._ports.call_in(delay_s, self.reconcile)

    def _tried(self) -> None:
        self._aborts = self._abort_due_ns = 0
        self.degraded.pop("trial", None)

    def _trial_over(self, trial: Trial) -> None:
        if trial is not self.trial:
            return
        if trial.outcome == "ready":
            self._check_contract(trial)
        self.reconcile()

    def _check_contract(self, trial: Trial) -> None:
        """Other features than the clients of the serving version send: a rejection, unless that was meant."""
        pointer = trial.pointer
        meant = self._allow_schema_change or pointer.allow_schema_change or pointer.held_before
        if self.serving is None or meant:
            return
        old, new = self.serving.contract, trial.served.contract
        if old.features != new.features:
            trial.outcome, trial.state, trial.stage = "rejected", State.REJECTED, "validating"
            trial.reason = describe_schema_change(old, new)

    def _drop_trial(self) -> None:
        assert self.trial is not None
        self._ports.log(
            "trial_dropped", model=self.model, version=self.trial.pointer.version, state=str(self.trial.state)
        )
        self._end_trial()

    def _end_trial(self) -> None:
        trial, self.trial = self.trial, None
        if trial is not None and trial.candidate is not None:
            trial.candidate.drop()

    def _reject(self) -> None:
        trial = self.trial
        assert trial is not None
        self._end_trial()
        self._tried()
        self._remember(trial.pointer, trial.stage, trial.reason)

    def _remember(self, pointer: Pointer, stage: str, reason: str) -> None:
        rejection = Rejection(pointer.version, pointer.digest, stage, reason, self._ports.now())
        self.rejected[pointer.digest] = self.last_rejection = rejection
        self._news = ("rejected", self._ports.clock_ns())
        serving = self.serving.contract.version if self.serving is not None else None
        self._ports.log(
            "rejected", model=self.model, version=pointer.version, stage=stage, reason=reason, serving=serving,
            digest=pointer.digest,
        )  # fmt: skip
        self._ports.event(
            "rejected", self.model, **{"from": serving, "to": pointer.version}, generation=self.generation,
            digest=pointer.digest, reason=f"{stage}: {reason}", actor=self._actor,
        )  # fmt: skip

    def _swap(self) -> None:
        trial, wanted = self.trial, target(self.view())
        assert trial is not None
        assert wanted is not None
        self.trial = None
        self._tried()
        took_ms = (self._ports.clock_ns() - trial.started_ns) / 1e6
        if self.serving is not None:
            self._news = ("swapped", self._ports.clock_ns())
        self._ports.join(trial.served, trial.worker)
        self._serve(trial.served, wanted, "swap", trial_ms=round(took_ms, 1), stages_ms=trial.stages_ms)
        self._begin_probation()
        if self.warm is None:
            self._keep()  # nothing better is kept from before

    def _swap_to_warm(self) -> None:
        assert self.desired is not None
        assert self.warm is not None
        assert self.desired is not None
        served, self.warm = self.warm.served, None
        self._news = ("swapped", self._ports.clock_ns())
        back = self._rolling_back or (self.serving is not None and self.serving.digest in self._unfit)
        self._serve(served, self.desired, "rollback" if back else "swap")
        self._keep()

    def _fall_back(self) -> None:
        assert self.serving is not None
        assert self.warm is not None
        failed, reason = self.serving.served.pointer, self.condemned
        served, self.warm = self.warm.served, None
        if reason is not None:
            self._remember(failed, "probation", reason)
        else:
            # It has no worker and none can be made: that is the machine's trouble, so it is tried again later.
            reason = f"no worker of {failed.version} can be started"
        self._serve(served, served.pointer, "rollback", reason=reason, actor=self._actor)
        self._keep()

    def _serve(self, served: Any, pointer: Pointer, kind: str, **fields: Any) -> None:
        """The swap: one assignment, between two requests. Everything else here is about the version before."""
        old = self.serving
        same_as_before = old is None and self._kept is not None and self._kept.digest == served.pointer.digest
        self.generation = max(pointer.revision, self.generation + (0 if same_as_before else 1))
        served.move(State.SERVING)
        self.serving = Binding(
            self.generation,
            served,
            served.contract,
            served.pointer.digest,
            pointer.revision,
            self._ports.now(),
        )
        self.condemned = None
        self._rolling_back = False
        self._probation_left = 0
        self._end_revival()
        if old is not None:
            self._put_aside(old)
        told = {
            "from": old.contract.version if old is not None else None,
            "to": served.contract.version,
            "generation": self.generation,
            "digest": served.pointer.digest,
            "reason": fields.pop("reason", pointer.reason),
            "actor": fields.pop("actor", pointer.actor),
        }
        self._ports.log("swapped" if kind == "swap" else "rolled_back", model=self.model, **told, **fields)
        self._ports.event(kind, self.model, **told)

    def _put_aside(self, old: Binding) -> None:
        """The version that served becomes the warm one, and the warm one before it is retired.

        One that is dead or rejected is no use as a warm one: then the one before it stays.
        """
        if not old.served.alive:
            old.served.hand_over(self.serving, self._gone)
        if not old.served.alive or old.digest in self.rejected:
            self._retire(old.served)
            return
        if self.warm is not None:
            self._retire(self.warm.served)
        old.served.move(State.DRAINING)
        self.warm = old

    def _keep(self) -> None:
        assert self.serving is not None
        self._ports.keep(self.serving, list(self.rejected.values())[-_KEPT_REJECTIONS:])

    def _retire(self, served: Any) -> None:
        self._ports.log("version_retired", model=self.model, version=served.contract.version)
        served.move(State.RETIRED)
        self.retiring.append(served)

    def _gone(self) -> RequestError:
        return retryable(
            "NOT_READY", f"{self.model}: the version that took the request is gone; send it again"
        )

    def _relabel(self) -> None:
        assert self.serving is not None
        assert self.desired is not None
        old = self.serving
        self.generation = max(self.desired.revision, self.generation)
        self.serving = Binding(
            self.generation, old.served, old.contract, old.digest, self.desired.revision, old.since
        )
        self._ports.log(
            "relabelled", model=self.model, version=old.contract.version, generation=self.generation
        )
        self._ports.event(
            "state", self.model, **{"from": old.contract.version, "to": old.contract.version},
            generation=self.generation, digest=old.digest, reason=self.desired.reason, actor=self.desired.actor,
        )  # fmt: skip
        if not self.on_probation:
            self._keep()

    def _begin_probation(self) -> None:
        self._probation_left = self._probation_requests
        self._probation_until_ns = self._ports.clock_ns() + int(self._probation_s * 1e9)

    def _revive(self) -> None:
        assert self.serving is not None
        served = self.serving.served
        self._ports.log("starting_worker", model=self.model, version=served.contract.version)
        self.revival = Trial(served.pointer, self._ports.clock_ns(), self._revival_over)
        self.revival.candidate = self._ports.start_trial(served.pointer, self.revival)

    def _revival_over(self, revival: Trial) -> None:
        if revival is not self.revival:
            return
        self.revival = None
        assert self.serving is not None
        served = self.serving.served
        if revival.outcome == "ready" and revival.served.contract == served.contract:
            self._revival_failures = 0
            self._ports.log("worker_joined", model=self.model, version=served.contract.version)
            self.degraded.pop("worker", None)
            self._ports.join(served, revival.worker)
        else:
            if revival.candidate is not None:
                revival.candidate.drop()
            self._revival_failures += 1
            why = revival.reason or "it has other features, outputs or settings than before"
            self.degraded["worker"] = f"no worker of {served.contract.version}: {why}"
            delay_s = _REVIVAL_BACKOFF_S[min(self._revival_failures, len(_REVIVAL_BACKOFF_S) - 1)]
            self._revival_due_ns = self._ports.clock_ns() + int(delay_s * 1e9)
            if self._revival_failures >= _LOST_AFTER:
                served.fail_all(self._gone)
            self._ports.call_in(delay_s, self.reconcile)
        self.reconcile()

    def _end_revival(self) -> None:
        self._revival_failures = 0
        self.degraded.pop("worker", None)
        revival, self.revival = self.revival, None
        if revival is not None and revival.candidate is not None:
            revival.candidate.drop()

    def _write_rollback(self) -> None:
        """Point the source back to what serves, if it still names what was rejected."""
        assert self.serving is not None
        assert self.desired is not None
        rejection = self.rejected[self.desired.digest]
        reason = f"{rejection.stage}: {rejection.reason}"
        self._writing = True

        def done(outcome: WriteOutcome) -> None:
            self._writing = False
            if outcome.code is None:
                self._write_failures = 0
                self.degraded.pop("source", None)
                told = {"from": outcome.from_version, "to": outcome.to_version, "generation": self.generation}
                self._ports.log("rolled_back", model=self.model, **told, reason=reason, actor=self._actor)
                digest = self.serving.digest if self.serving else None
                self._ports.event(
                    "rollback", self.model, **told, digest=digest, reason=reason, actor=self._actor
                )
            else:
                # A conflict mostly means that the pointer has moved on; what it names then clears this.
                delay_s = _WRITE_BACKOFF_S[min(self._write_failures, len(_WRITE_BACKOFF_S) - 1)]
                self._write_failures += 1
                self._write_due_ns = self._ports.clock_ns() + int(delay_s * 1e9)
                self.degraded["source"] = (
                    f"the rejection of {rejection.version} isn't written: {outcome.error}"
                )
                self._ports.log("source_write_failed", model=self.model, error=outcome.error)
                self._ports.call_in(delay_s, self.reconcile)
            self.reconcile()

        self._ports.write(
            self.model, self.desired.version, self.serving.contract.version, True, reason, self._actor, done
        )


_ACTS: dict[Act, Callable[[Slot], None]] = {
    Act.DROP_TRIAL: Slot._drop_trial,
    Act.ABORT: Slot._abort,
    Act.REJECT: Slot._reject,
    Act.SWAP: Slot._swap,
    Act.SWAP_TO_WARM: Slot._swap_to_warm,
    Act.RELABEL: Slot._relabel,
    Act.FALL_BACK: Slot._fall_back,
    Act.REVIVE: Slot._revive,
    Act.WRITE_ROLLBACK: Slot._write_rollback,
    Act.START_TRIAL: Slot._start_trial,
}


def _shutting_down() -> RequestError:
    return retryable("DRAINING", "this daemon is shutting down; ask another")


def describe_schema_change(old: Contract, new: Contract) -> str:
    """How the features differ, in one sentence."""
    added = [name for name in new.features if name not in old.index]
    gone = [name for name in old.features if name not in new.index]
    if added or gone:
        return (
            f"other features than {old.version}: {_some('new', added)}, {_some('gone', gone)}; if its clients know, "
            "allow it with: modelreg promote --allow-schema-change"
        )
    return f"the features of {old.version} in another order"


def _some(what: str, names: list[str]) -> str:
    shown = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
    return f"{len(names)} {what}" + (f" ({shown})" if names else "")
