"""The version on trial: one at a time, and the waits before the next try where a trial can't be held."""

from __future__ import annotations

from collections.abc import Callable

from modeld import log
from modeld.swap.backoff import Backoff
from modeld.swap.policy import Pointer, State
from modeld.swap.ports import Ports, Trial

#: Waits before a trial that couldn't be held is tried again. Seconds.
_ABORT_BACKOFF_S = (0.1, 0.25, 0.5, 1.0, 2.0, 5.0)
#: Trials in a row that couldn't be held after which an operator is told instead of waiting on.
_TOLD_AFTER = 3


class Candidacy:
    """`objection` says why a version that passed mustn't serve; `changed` is called when a trial is over."""

    def __init__(
        self,
        model: str,
        ports: Ports,
        degraded: dict[str, str],
        objection: Callable[[Trial], str | None],
        changed: Callable[[], None],
    ) -> None:
        self.trial: Trial | None = None
        self._model = model
        self._ports = ports
        self._degraded = degraded
        self._objection = objection
        self._changed = changed
        self._aborts = Backoff(*_ABORT_BACKOFF_S)

    @property
    def due(self) -> bool:
        """Whether a trial may start now."""
        return self._ports.clock_ns() >= self._aborts.due_ns

    @property
    def aborted(self) -> bool:
        """Whether the last trial of what is wanted couldn't be held."""
        return self._aborts.failures > 0

    @property
    def patient(self) -> bool:
        """Whether it couldn't be held, but not so often that it is no use to wait."""
        return 0 < self._aborts.failures < _TOLD_AFTER

    def start(self, pointer: Pointer) -> None:
        self._ports.log(
            log.TRIAL_STARTED, model=self._model, version=pointer.version, revision=pointer.revision
        )
        self.trial = trial = Trial(pointer, self._ports.clock_ns(), self._over)
        candidate = self._ports.start_trial(pointer, trial)
        trial.candidate = candidate

    def _over(self, trial: Trial) -> None:
        if trial is not self.trial:
            return
        if trial.outcome == "ready" and (why := self._objection(trial)) is not None:
            trial.outcome, trial.state = "rejected", State.REJECTED
            trial.stage, trial.reason, trial.of_promotion = "validating", why, True
        self._changed()

    def take(self) -> Trial:
        """The trial, which isn't this object's business any more: its version serves."""
        trial, self.trial = self.trial, None
        assert trial is not None
        self.forget_aborts()
        return trial

    def reject(self) -> Trial:
        """End a trial that failed."""
        trial = self.end()
        assert trial is not None
        self.forget_aborts()
        return trial

    def abort(self) -> None:
        """End a trial that couldn't be held; the next may start some time later."""
        trial = self.end()
        assert trial is not None
        delay_s = self._aborts.failed(self._ports.clock_ns())
        self._degraded["trial"] = f"{trial.pointer.version} can't be tried: {trial.reason}"
        self._ports.log(
            log.TRIAL_ABORTED, model=self._model, version=trial.pointer.version, reason=trial.reason
        )
        self._ports.call_in(delay_s, self._changed)

    def drop(self) -> None:
        """End a trial of what isn't wanted any more."""
        trial = self.end()
        assert trial is not None
        self._ports.log(
            log.TRIAL_DROPPED, model=self._model, version=trial.pointer.version, state=str(trial.state)
        )

    def end(self) -> Trial | None:
        """Let the worker go, if there is one."""
        trial, self.trial = self.trial, None
        if trial is not None and trial.candidate is not None:
            trial.candidate.drop()
            trial.forget()
        return trial

    def forget_aborts(self) -> None:
        """What is wanted was tried, or something else is wanted."""
        self._aborts.reset()
        self._degraded.pop("trial", None)
