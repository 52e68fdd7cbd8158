"""One model in the daemon: what is wanted, what serves, what is warm, what is on trial; and the acts of the policy.

Everything that touches the outside (workers, the source, events, timers) goes through `Ports`, so that a test can run
this with a seed and no process. Owned by one thread.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from modeld import log
from modeld.errors import RequestError, retryable
from modeld.swap.backoff import Backoff
from modeld.swap.drains import Drains
from modeld.swap.policy import Act, OnTrial, Pointer, Resident, State, View, next_action, target, way_back
from modeld.swap.ports import Binding, Ports, Rejection, Trial
from modeld.swap.probation import Probation, Terms
from modeld.swap.revival import Revival
from modeld.swap.schema import describe_schema_change
from modeld.swap.writeback import WriteBack

#: Waits before a trial that couldn't be held is tried again. Seconds.
_ABORT_BACKOFF_S = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0)
#: Candidates in a row that are superseded on trial while nothing serves, before the kept version is served first.
_STARVED_AFTER = 2
#: Trials in a row that couldn't be held after which an operator is told instead of waiting on.
_TOLD_AFTER = 3
#: Rejections that a restart remembers.
_KEPT_REJECTIONS = 32
#: A swap or a rejection counts as the outcome of a reload that comes this much later. Seconds.
_NEWS_S = 30.0


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
        probation: Terms,
        workers: int = 1,
        keep_warm: int = 1,
        drain_timeout_s: float = 10.0,
    ) -> None:
        self.model = model
        self.desired: Pointer | None = None
        self.serving: Binding | None = None
        #: Versions that served before and still can; the one that served last comes first.
        self.warm: list[Binding] = []
        self.trial: Trial | None = None
        self.retiring: list[Any] = []
        self.rejected: dict[str, Rejection] = {}
        self.last_rejection: Rejection | None = None
        self.held: str | None = None
        self.condemned: str | None = None
        self.generation = 0
        self.degraded: dict[str, str] = {}
        #: How the version that was swapped in last differed from the one before, on live rows.
        self.compared: list[dict[str, Any]] = []
        #: What the last swap took of the loop's time, all told. µs.
        self.swap_pause_us: int | None = None
        self._news: tuple[str, int] | None = None
        #: Called after every reconcile that ends with nothing under way.
        self.waiters: list[Callable[[], bool]] = []
        self._ports = ports
        self._actor = actor
        self._rollback_on_reject = rollback_on_reject
        self._allow_schema_change = allow_schema_change
        self._workers = workers
        self._keep_warm = keep_warm
        self._drains = Drains(drain_timeout_s, ports.clock_ns)
        self._probation = Probation(probation, ports.clock_ns)
        self._revival = Revival(model, ports, self.degraded, self.reconcile)
        self._write_back = WriteBack(model, ports, actor, self.degraded, self.reconcile)
        self._aborts = Backoff(*_ABORT_BACKOFF_S)
        self._starts_superseded = 0
        self._unfit: frozenset[str] = frozenset()
        self._kept: Pointer | None = None
        self._rolling_back = False

    # -- what happened

    def resume(self, kept: Pointer, generation: int, rejected: list[Rejection]) -> None:
        """What the state directory remembers of the time before this start."""
        self._kept = kept
        self.generation = generation
        self.rejected = {rejection.digest: rejection for rejection in rejected}
        self.last_rejection = next((one for one in reversed(rejected) if not one.actor), None)

    def observe(self, desired: Pointer | None, unfit: frozenset[str] = frozenset()) -> None:
        """The source says this now. None: it names no version, and what serves goes on serving.

        `unfit`: digests that the source has marked as failed, archived or deleted.
        """
        if desired != self.desired:
            self._tried()
            self._write_back.reset()
            self._forget_rollback(desired)
        self.desired = desired
        self._unfit = unfit
        self.reconcile()

    def source_is_back(self) -> None:
        """The source can be read again: what is to be written to it needn't wait."""
        self._write_back.hurry()

    def roll_back_here(self, to: str | None, reason: str, actor: str, *, mark_failed: bool, why: str) -> bool:
        """Go back to a warm version at once, on an operator's word, though the source can't be written (`why`).

        The source gets the record when it can, if it still names the version that was rolled back from.

        Returns:
            False where there is no warm version to go back to, or not the one named by `to`.
        """
        back = way_back(self.view(), to)
        if self.serving is None or back is None:
            return False
        failed = self.serving.served.pointer
        rejection = Rejection(
            failed.version, failed.digest, "rollback", reason, self._ports.now(), actor, mark_failed
        )
        self.rejected[failed.digest] = rejection
        self._write_back.is_behind(rejection, why)
        served = self._take_warm(back.digest)
        self._serve(served, served.pointer, "rollback", reason=reason, actor=actor)
        self._keep()
        self.reconcile()
        return True

    def _forget_rollback(self, desired: Pointer | None) -> None:
        """The source has moved on from what an operator rolled back from: its own word on that version holds."""
        old = self.desired
        if old is not None and desired is not None and desired.digest != old.digest:
            rejection = self.rejected.get(old.digest)
            if rejection is not None and rejection.actor:
                del self.rejected[old.digest]

    def rolling_back(self, under_way: bool) -> None:
        """An operator has this model's pointer moved back: the next swap is that rollback, until it is over."""
        self._rolling_back = under_way

    def worker_died(self, served: Any, how: str) -> None:
        """A worker of a resident version is gone."""
        self._ports.log(log.WORKER_DIED, model=self.model, version=served.contract.version, how=how)
        if self.serving is not None and served is self.serving.served:
            if self.on_probation and any(one.served.alive for one in self.warm):
                self.condemned = f"{how} in probation"
        elif (old := next((one for one in self.warm if one.served is served), None)) and not served.alive:
            served.fail_all(self._gone)
            self.warm.remove(old)
            self._retire(served)
        elif served in self.retiring and not served.alive:
            served.fail_all(self._gone)
        self.reconcile()

    def bad_output(self, served: Any, what: str) -> None:
        """A served version said what it must not say."""
        if self.serving is not None and served is self.serving.served and self.on_probation:
            self._condemn(what)

    def replied(self, took_us: int) -> None:
        """A reply by the serving version, `took_us` after its request was admitted."""
        if (why := self._probation.replied(took_us)) is not None:
            self._condemn(why)

    def erred(self) -> None:
        """An error of ours in place of a reply by the serving version."""
        if (why := self._probation.erred()) is not None:
            self._condemn(why)

    def _condemn(self, what: str) -> None:
        """The serving version failed its probation. What follows isn't for the middle of a batch."""
        self.condemned = f"{what} in probation"
        self._ports.call_in(0, self.reconcile)

    @property
    def on_probation(self) -> bool:
        return self._probation.on

    @property
    def revival(self) -> Trial | None:
        """The proof of another worker for the version that serves, if one is under way."""
        return self._revival.trial

    @property
    def settled(self) -> bool:
        """Nothing is under way."""
        waits = self.trial is None or (self.held is not None and self.trial.outcome == "ready")
        return waits and not self._write_back.under_way and not 0 < self._aborts.failures < _TOLD_AFTER

    @property
    def waiting(self) -> str | None:
        """The version that is to be served, while another one serves."""
        if self.desired is None or self.serving is None or self.desired.digest == self.serving.digest:
            return None
        return self.desired.version

    @property
    def in_use(self) -> set[str]:
        """The versions that serve, are warm or on trial: a worker may have to read their files."""
        found = {binding.served.pointer.version for binding in self._bindings()}
        return found | ({self.trial.pointer.version} if self.trial is not None else set())

    def has_served(self, pointer: Pointer) -> bool:
        """Whether the version is known to be good: a trial of it is about a worker, and not about the version."""
        known = {binding.digest for binding in self._bindings()} | (
            {self._kept.digest} if self._kept is not None else set()
        )
        return pointer.held_before or pointer.digest in known

    def _bindings(self) -> list[Binding]:
        """The versions that may answer: the serving one and the warm ones."""
        return [*([self.serving] if self.serving is not None else []), *self.warm]

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
        serving = None
        if (binding := self.serving) is not None:
            alive = binding.served.alive
            serving = Resident(
                binding.contract.version,
                binding.digest,
                binding.revision,
                alive=alive,
                short=binding.served.n_workers < self._workers and self._revival.due,
                lost=not alive and self._revival.hopeless,
            )
        warm = tuple(
            Resident(
                one.contract.version,
                one.digest,
                one.revision,
                alive=one.served.alive,
                fit=one.digest not in self._unfit,
            )
            for one in self.warm
        )
        rejection = self.rejected.get(self.desired.digest) if self.desired is not None else None
        writes = self._rollback_on_reject or (rejection is not None and bool(rejection.actor))
        return View(
            desired=self.desired,
            serving=serving,
            warm=warm,
            trial=OnTrial(self.trial.pointer.digest, self.trial.outcome) if self.trial is not None else None,
            rejected=frozenset(self.rejected),
            held=self.held is not None,
            condemned=self.condemned is not None,
            may_write=writes and self._write_back.due,
            kept=self._kept,
            starved=(
                self._starts_superseded >= _STARVED_AFTER
                and self._kept is not None
                and self._kept.digest not in self._unfit
            ),
            aborted=self._aborts.failures > 0,
            may_try=self._ports.clock_ns() >= self._aborts.due_ns,
        )

    def reconcile(self) -> None:
        """Act until all is as wanted, or as near as it can be now."""
        while (act := next_action(self.view())) is not None:
            start_ns = self._ports.clock_ns()
            _ACTS[act](self)
            if act in _SWAPS:
                self.swap_pause_us = (self._ports.clock_ns() - start_ns) // 1000
        if self.settled:
            self.waiters = [waiter for waiter in self.waiters if not waiter()]

    def tick(self) -> None:
        """Now and then: what drained gets warm or is retired, and what was put off is looked at again."""
        self._end_drains()
        if (why := self._probation.tick()) is not None:
            self._condemn(why)
        if self._probation.passed():
            self._ports.log(log.PROBATION_PASSED, model=self.model, generation=self.generation)
            self._keep()
            self._let_go_of_warm()
        self.reconcile()

    def _end_drains(self) -> None:
        """What has answered everything is warm, or closed; what hasn't by the deadline refuses the rest."""
        for served, since_ns, late in self._drains.take_over():
            if served.state is State.RETIRED:
                served.fail_all(self._too_late)
                self.retiring.remove(served)
                served.close(kill=late)
            else:
                # Requests that name this version by now keep coming: only those of before are late.
                served.refuse_before(since_ns, self._too_late)
                served.move(State.WARM)

    def close(self) -> None:
        """Let every worker go; what is still unanswered is refused."""
        self._end_trial()
        self._revival.end()
        for served in self.residents():
            served.fail_all(_shutting_down)
            served.close(kill=False)

    def residents(self) -> list[Any]:
        """Every version that has workers or requests: serving, warm, retiring."""
        return [*(binding.served for binding in self._bindings()), *self.retiring]

    # -- the acts

    def _start_trial(self) -> None:
        wanted = target(self.view())
        assert wanted is not None
        self._ports.log(log.TRIAL_STARTED, model=self.model, version=wanted.version, revision=wanted.revision)
        self.trial = trial = Trial(wanted, self._ports.clock_ns(), self._trial_over)
        candidate = self._ports.start_trial(wanted, trial)
        trial.candidate = candidate

    def _abort(self) -> None:
        trial = self.trial
        assert trial is not None
        self._end_trial()
        delay_s = self._aborts.failed(self._ports.clock_ns())
        self.degraded["trial"] = f"{trial.pointer.version} can't be tried: {trial.reason}"
        self._ports.log(
            log.TRIAL_ABORTED, model=self.model, version=trial.pointer.version, reason=trial.reason
        )
        self._ports.call_in(delay_s, self.reconcile)

    def _tried(self) -> None:
        self._aborts.reset()
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
            log.TRIAL_DROPPED,
            model=self.model,
            version=self.trial.pointer.version,
            state=str(self.trial.state),
        )
        if self.serving is None:
            self._starts_superseded += 1
        self._end_trial()

    def _end_trial(self) -> None:
        trial, self.trial = self.trial, None
        if trial is not None and trial.candidate is not None:
            trial.candidate.drop()
            trial.forget()

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
            log.REJECTED, model=self.model, version=pointer.version, stage=stage, reason=reason, serving=serving,
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
        self.compared = trial.live
        kind = "rollback" if self._rolling_back else "swap"
        self._serve(
            trial.served, wanted, kind, trial.live, trial_ms=round(took_ms, 1), stages_ms=trial.stages_ms
        )
        trial.forget()
        self._probation.begin()
        self._let_go_of_warm()
        if not self.warm:
            self._keep()  # nothing better is kept from before

    def _swap_to_warm(self) -> None:
        assert self.desired is not None
        served = self._take_warm(self.desired.digest)
        self._news = ("swapped", self._ports.clock_ns())
        back = self._rolling_back or (self.serving is not None and self.serving.digest in self._unfit)
        self._serve(served, self.desired, "rollback" if back else "swap")
        self._let_go_of_warm()
        self._keep()

    def _fall_back(self) -> None:
        back = way_back(self.view())
        assert self.serving is not None
        assert back is not None
        failed, reason = self.serving.served.pointer, self.condemned
        served = self._take_warm(back.digest)
        if reason is not None:
            self._remember(failed, "probation", reason)
        else:
            # It has no worker and none can be made: that is the machine's trouble, so it is tried again later.
            reason = f"no worker of {failed.version} can be started"
        self._serve(served, served.pointer, "rollback", reason=reason, actor=self._actor)
        self._let_go_of_warm()
        self._keep()

    def _serve(
        self,
        served: Any,
        pointer: Pointer,
        kind: str,
        live: list[dict[str, Any]] | None = None,
        **fields: Any,
    ) -> None:
        """The swap: one assignment, between two requests. Everything else here is about the version before."""
        old = self.serving
        same_as_before = old is None and self._kept is not None and self._kept.digest == served.pointer.digest
        self.generation = max(pointer.revision, self.generation + (0 if same_as_before else 1))
        if same_as_before and self.desired is not None and self.desired.digest != served.pointer.digest:
            # What was promoted since may have been served before the restart, under its own revision.
            self.generation = max(self.generation, self.desired.revision + 1)
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
        self._probation.end()
        self._revival.end()
        if old is not None:
            self._put_aside(old)
        self._ports.prove(served)
        told = {
            "from": old.contract.version if old is not None else None,
            "to": served.contract.version,
            "generation": self.generation,
            "digest": served.pointer.digest,
            "reason": fields.pop("reason", pointer.reason),
            "actor": fields.pop("actor", pointer.actor),
        }
        if live:
            told["live"] = live
        self._ports.log(
            log.SWAPPED if kind == "swap" else log.ROLLED_BACK, model=self.model, **told, **fields
        )
        self._ports.event(kind, self.model, **told)

    def _put_aside(self, old: Binding) -> None:
        """The version that served stays warm, unless it is dead or rejected and so no use as a warm one."""
        if not old.served.alive:
            old.served.hand_over(self.serving, self._gone)
        if not old.served.alive or old.digest in self.rejected:
            self._retire(old.served)
            return
        old.served.move(State.DRAINING)
        self.warm.insert(0, old)
        self._drains.begin(old.served)

    def _take_warm(self, digest: str) -> Any:
        """The warm version of this digest, which is about to serve."""
        binding = next(one for one in self.warm if one.digest == digest and one.served.alive)
        self.warm.remove(binding)
        self._drains.forget(binding.served)
        return binding.served

    def _let_go_of_warm(self) -> None:
        """No more warm versions than asked for; but one, while there may be a way back to go."""
        while len(self.warm) > max(self._keep_warm, self.on_probation):
            self._retire(self.warm.pop().served)

    def _keep(self) -> None:
        assert self.serving is not None
        self._ports.keep(self.serving, list(self.rejected.values())[-_KEPT_REJECTIONS:])

    def _retire(self, served: Any) -> None:
        self._ports.log(log.RETIRED, model=self.model, version=served.contract.version)
        served.move(State.RETIRED)
        self.retiring.append(served)
        self._drains.begin(served)

    def _gone(self) -> RequestError:
        return retryable(
            "NOT_READY", f"{self.model}: the version that took the request is gone; send it again"
        )

    def _too_late(self) -> RequestError:
        return retryable(
            "DRAINING",
            f"{self.model}: the version that took the request was superseded and didn't answer within "
            f"limits.drain_timeout_s = {self._drains.timeout_s:g} s; send it again",
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
            log.RELABELLED, model=self.model, version=old.contract.version, generation=self.generation
        )
        self._ports.event(
            "state", self.model, **{"from": old.contract.version, "to": old.contract.version},
            generation=self.generation, digest=old.digest, reason=self.desired.reason, actor=self.desired.actor,
        )  # fmt: skip
        if not self.on_probation:
            self._keep()

    def _revive(self) -> None:
        assert self.serving is not None
        self._revival.start(self.serving.served, self._gone)

    def _write_rollback(self) -> None:
        """Point the source back to what serves, if it still names what was rejected."""
        assert self.desired is not None

        def serving() -> Binding:
            assert self.serving is not None
            return self.serving

        self._write_back.start(self.rejected[self.desired.digest], serving, lambda: self.desired)


_SWAPS = frozenset({Act.SWAP, Act.SWAP_TO_WARM, Act.FALL_BACK})
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
