"""One model in the daemon: what is wanted, what is on trial, what was rejected; and the acts of the policy.

Everything that touches the outside (workers, the source, events, timers) goes through `Ports`, so that a test can run
this with a seed and no process. Owned by one thread.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from modeld import log
from modeld.swap.candidacy import Candidacy
from modeld.swap.memory import Memory
from modeld.swap.policy import Act, OnTrial, Pointer, View, next_action, target, way_back
from modeld.swap.ports import Binding, Ports, Rejection, Trial
from modeld.swap.probation import Terms
from modeld.swap.rejections import Rejections
from modeld.swap.schema import describe_schema_change
from modeld.swap.service import Service
from modeld.swap.writeback import WriteBack

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
        self.held: str | None = None
        self.degraded: dict[str, str] = {}
        self.service = Service(
            model,
            ports,
            self.degraded,
            self.reconcile,
            probation=probation,
            workers=workers,
            keep_warm=keep_warm,
            drain_timeout_s=drain_timeout_s,
        )
        #: How the version that was swapped in last differed from the one before, on live rows.
        self.compared: list[dict[str, Any]] = []
        #: What the last swap took of the loop's time, all told. µs.
        self.swap_pause_us: int | None = None
        #: Called after every reconcile that ends with nothing under way.
        self.waiters: list[Callable[[], bool]] = []
        self._ports = ports
        self._actor = actor
        self._rollback_on_reject = rollback_on_reject
        self._allow_schema_change = allow_schema_change
        self._candidacy = Candidacy(model, ports, self.degraded, self._objection, self.reconcile)
        self._rejections = Rejections(model, ports, actor)
        self._write_back = WriteBack(model, ports, actor, self.degraded, self.reconcile)
        self._memory = Memory()
        self._news: tuple[str, int] | None = None
        self._unfit: frozenset[str] = frozenset()
        self._rolling_back = False
        #: A pointer that an operator moved back under a hold, which therefore doesn't stand in its way.
        self._let_in: Pointer | None = None
        #: The version that an operator's rollback was written for, while the source hasn't been seen to name it.
        self._back_to: str | None = None

    # -- what there is

    @property
    def serving(self) -> Binding | None:
        """What requests are bound to from now on."""
        return self.service.serving

    @property
    def generation(self) -> int:
        """The last one that was given; it never falls."""
        return self.service.generation

    @property
    def warm(self) -> list[Binding]:
        """Versions that served before and still can; the one that served last comes first."""
        return self.service.former.warm

    @property
    def trial(self) -> Trial | None:
        """The candidate, if there is one."""
        return self._candidacy.trial

    @property
    def rejected(self) -> dict[str, Rejection]:
        """What isn't tried again, by digest."""
        return self._rejections.by_digest

    @property
    def last_rejection(self) -> Rejection | None:
        """The last one that this daemon found out."""
        return self._rejections.last

    @property
    def settled(self) -> bool:
        """Nothing is under way."""
        waits = self.trial is None or (self.held is not None and self.trial.outcome == "ready")
        under_way = self._write_back.under_way or self._candidacy.patient or self._back_to is not None
        return waits and not under_way

    @property
    def waiting(self) -> str | None:
        """The version that is to be served, while another one serves."""
        if self.desired is None or self.serving is None or self.desired.digest == self.serving.digest:
            return None
        return self.desired.version

    @property
    def waiting_behind_hold(self) -> str | None:
        """The version that a hold keeps out, which nothing else speaks against."""
        if not self._kept_out or self.desired is None or self.desired.digest in self.rejected:
            return None
        return self.waiting

    @property
    def _kept_out(self) -> bool:
        return self.held is not None and (self._let_in is None or self.desired != self._let_in)

    @property
    def in_use(self) -> set[str]:
        """The versions that serve, are warm or on trial: a worker may have to read their files."""
        found = {binding.served.pointer.version for binding in self.service.bindings()}
        return found | ({self.trial.pointer.version} if self.trial is not None else set())

    def has_served(self, pointer: Pointer) -> bool:
        """Whether the version is known to be good: a trial of it is about a worker, and not about the version."""
        resident = any(binding.digest == pointer.digest for binding in self.service.bindings())
        return resident or self._memory.is_of(pointer.digest) or self._is_way_back(pointer)

    def _is_way_back(self, pointer: Pointer) -> bool:
        """Whether the pointer leads back to a version that clients knew, and didn't only pass by on trial."""
        return pointer.held_before and not self._memory.knows_unserved(pointer.digest)

    def residents(self) -> list[Any]:
        """Every version that has workers or requests: serving, warm, retiring."""
        return self.service.residents()

    # -- what happened

    def resume(
        self,
        kept: Pointer,
        generation: int,
        rejected: list[Rejection],
        features: Sequence[str] = (),
        unserved: Iterable[str] = (),
    ) -> None:
        """What the state directory remembers of the time before this start.

        `features`: those of `kept`, if known; `unserved`: digests that were named and never served.
        """
        self._memory.kept, self._memory.features = kept, features
        self._memory.restore_unserved(unserved)
        self.resume_generation(generation, kept.digest)
        self._rejections.restore(rejected)

    def resume_generation(self, generation: int, digest: str) -> None:
        """The generation before this start, where it is the last that is known of, and the version that had it."""
        if generation > self.service.generation:
            self.service.generation, self._memory.numbered = generation, digest

    def observe(self, desired: Pointer | None, unfit: frozenset[str] = frozenset()) -> None:
        """The source says this now. None: it names no version, and what serves goes on serving.

        `unfit`: digests that the source has marked as failed, archived or deleted.
        """
        if desired != self.desired:
            self._candidacy.forget_aborts()
            self._write_back.reset()
            self._rejections.pointer_moved(self.desired, desired)
            self._let_in = None
            if desired is not None and not self.has_served(desired):
                self._memory.named_first(desired.digest)
        self.desired = desired
        back_to, self._back_to = self._back_to, None
        if desired is not None and desired.version == back_to:
            self._let_in = desired
        self._unfit = unfit
        self.reconcile()

    def source_is_back(self) -> None:
        """The source can be read again: what is to be written to it needn't wait, nor what couldn't be copied."""
        self._write_back.hurry()
        good = self.serving is not None and not (self.service.on_probation and self.warm)
        if good and "state_dir" in self.degraded:
            self._keep()

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
        rejection = self._rejections.roll_back(failed, reason, actor, mark_failed=mark_failed)
        if self.desired is not None and self.desired.digest == failed.digest:
            self._write_back.is_behind(rejection, why)
        served = self.service.former.take_warm(back.digest)
        self._serve(served, served.pointer, "rollback", reason=reason, actor=actor)
        self._keep()
        self.reconcile()
        return True

    def rolling_back(self, under_way: bool) -> None:
        """An operator has this model's pointer moved back: the next swap is that rollback, until it is over."""
        self._rolling_back = under_way

    def rolled_back(self, left: str | None, to: str | None) -> None:
        """The pointer is back: a hold keeps others from moving it forth, and not the operator from going back.

        While the source is only known to name the version that was `left`, this is about what it says next.
        """
        if self.desired is None:
            return
        if self.desired.version == to:
            self._let_in = self.desired
            self.reconcile()
        elif self.desired.version == left:
            self._back_to = to

    def forgive(self) -> None:
        """Forget that the wanted version was rejected, and try it once more."""
        if self.desired is not None and self._rejections.forgive(self.desired.digest):
            self.reconcile()

    def take_news(self) -> str | None:
        """`swapped` or `rejected` if that happened lately and nobody was told: what a reload has to answer.

        Events are quicker than an operator: by the time that a reload arrives, what it asks for is often done.
        """
        news, self._news = self._news, None
        if news is None or self._ports.clock_ns() - news[1] > _NEWS_S * 1e9:
            return None
        return news[0]

    def tick(self) -> None:
        """Now and then: what drained gets warm or is retired, and what was put off is looked at again."""
        if self.service.tick():
            self._ports.log(log.PROBATION_PASSED, model=self.model, generation=self.generation)
            self._keep()
            self.service.trim()
        self.reconcile()

    def close(self) -> None:
        """Let every worker go; what is still unanswered is refused."""
        self._candidacy.end()
        self.service.close()

    # -- the decision

    def view(self) -> View:
        rejection = self.rejected.get(self.desired.digest) if self.desired is not None else None
        writes = self._rollback_on_reject or (rejection is not None and bool(rejection.actor))
        return View(
            desired=self.desired,
            serving=self.service.view(),
            warm=self.service.former.view(self._unfit),
            trial=OnTrial(self.trial.pointer.digest, self.trial.outcome) if self.trial is not None else None,
            rejected=frozenset(self.rejected),
            held=self._kept_out,
            condemned=self.service.condemned is not None,
            may_write=writes and self._write_back.due,
            kept=self._memory.kept,
            kept_fit=self._memory.kept is None or self._memory.kept.digest not in self._unfit,
            starved=self._memory.starved,
            aborted=self._candidacy.aborted,
            may_try=self._candidacy.due,
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

    def _objection(self, trial: Trial) -> str | None:
        """Other features than the clients of the version before send are a rejection, unless that was meant."""
        pointer = trial.pointer
        if self._allow_schema_change or pointer.allow_schema_change or self._is_way_back(pointer):
            return None
        new = trial.served.contract.features
        if self.serving is not None:
            version, old = self.serving.contract.version, self.serving.contract.features
        elif (kept := self._memory.kept) is not None and kept.digest not in self.rejected:
            version, old = kept.version, tuple(self._memory.features) or new
        else:
            return None
        return describe_schema_change(version, old, new) if old != new else None

    # -- the acts

    def _start_trial(self) -> None:
        wanted = target(self.view())
        assert wanted is not None
        self._candidacy.start(wanted)

    def _abort(self) -> None:
        self._candidacy.abort()

    def _drop_trial(self) -> None:
        self._candidacy.drop()
        if self.serving is None:
            self._memory.superseded()

    def _reject(self) -> None:
        trial = self._candidacy.reject()
        self._remember(trial.pointer, trial.stage, trial.reason, of_promotion=trial.of_promotion)
        if self.serving is None and self._memory.is_of(trial.pointer.digest):
            self._rejections.forgive_promotions()  # whose features were compared with what can't be had
        if self.serving is not None and not self.service.on_probation:
            self._keep()  # a restart mustn't try it again

    def _remember(self, pointer: Pointer, stage: str, reason: str, *, of_promotion: bool = False) -> None:
        self._news = ("rejected", self._ports.clock_ns())
        self._rejections.find(
            pointer, stage, reason, self.service.version, self.generation, of_promotion=of_promotion
        )

    def _swap(self) -> None:
        wanted = target(self.view())
        assert wanted is not None
        trial = self._candidacy.take()
        took_ms = (self._ports.clock_ns() - trial.started_ns) / 1e6
        self._tell_of_swap()
        self._ports.join(trial.served, trial.worker)
        self.compared = trial.live
        back, kind = self._goes_back, "rollback" if self._rolling_back else "swap"
        self._serve(
            trial.served, wanted, kind, trial.live, trial_ms=round(took_ms, 1), stages_ms=trial.stages_ms
        )
        trial.forget()
        self.service.begin_probation()
        self.service.trim()
        if back or not self.warm:
            self._keep()  # nothing better is kept from before

    def _tell_of_swap(self) -> None:
        """A reload that asks later; whoever rolled back is told of it anyway."""
        if self.serving is not None and not self._rolling_back:
            self._news = ("swapped", self._ports.clock_ns())

    @property
    def _goes_back(self) -> bool:
        """What serves is left, and isn't only followed by something newer."""
        return self._rolling_back or (self.serving is not None and self.serving.digest in self._unfit)

    def _swap_to_warm(self) -> None:
        assert self.desired is not None
        served = self.service.former.take_warm(self.desired.digest)
        self._tell_of_swap()
        self._serve(served, self.desired, "rollback" if self._goes_back else "swap")
        self.service.trim()
        self._keep()

    def _fall_back(self) -> None:
        back = way_back(self.view())
        assert self.serving is not None
        assert back is not None
        failed, reason = self.serving.served.pointer, self.service.condemned
        served = self.service.former.take_warm(back.digest)
        if reason is not None:
            self._remember(failed, "probation", reason)
            reason = f"probation: {reason}"
        else:
            # It has no worker and none can be made: that is the machine's trouble, so it is tried again later.
            reason = f"no worker of {failed.version} can be started"
        self._serve(
            served, served.pointer, "rollback", logged=log.FELL_BACK, reason=reason, actor=self._actor
        )
        self.service.trim()
        self._keep()

    def _serve(
        self,
        served: Any,
        pointer: Pointer,
        kind: str,
        live: list[dict[str, Any]] | None = None,
        **fields: Any,
    ) -> None:
        self.service.serve(
            served, pointer, self._number(served, pointer), kind, self.rejected.keys(), live, **fields
        )
        self._rolling_back = False
        self._memory.served(served.pointer.digest)

    def _number(self, served: Any, pointer: Pointer) -> int:
        """The generation of what is to serve: the pointer's revision, and higher than what went before."""
        digest, desired = served.pointer.digest, self.desired
        if self.serving is not None or digest != self._memory.numbered:
            return max(pointer.revision, self.generation + 1)
        if desired is not None and desired.digest != digest:
            # What was promoted since may have been served before the restart, under its own revision.
            return max(pointer.revision, self.generation, desired.revision + 1)
        return max(pointer.revision, self.generation)

    def _relabel(self) -> None:
        assert self.desired is not None
        self.service.relabel(self.desired)
        if not self.service.on_probation:
            self._keep()

    def _keep(self) -> None:
        assert self.serving is not None
        self._ports.keep(self.serving, self._rejections.to_keep(), self._memory.unserved)

    def _revive(self) -> None:
        self.service.revive()

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
