"""Another worker for a version that serves and has lost one: it proves itself anew, and joins."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from modeld import log
from modeld.errors import RequestError
from modeld.swap.backoff import Backoff
from modeld.swap.ports import Ports, Trial

#: Waits after a try that failed. Seconds.
_BACKOFF_S = (0.1, 0.5, 1.0)
#: Failed tries in a row after which the version counts as lost.
_LOST_AFTER = 2


class Revival:
    """At most one try at a time. `changed` is called when one is over."""

    def __init__(
        self, model: str, ports: Ports, degraded: dict[str, str], changed: Callable[[], None]
    ) -> None:
        self.trial: Trial | None = None
        self._model = model
        self._ports = ports
        self._degraded = degraded
        self._changed = changed
        self._backoff = Backoff(*_BACKOFF_S)

    @property
    def due(self) -> bool:
        """Whether a try may start now."""
        return self.trial is None and self._ports.clock_ns() >= self._backoff.due_ns

    @property
    def hopeless(self) -> bool:
        """More than one try failed, so waiting for the next is no plan."""
        return self._backoff.failures >= _LOST_AFTER

    def start(self, served: Any, gone: Callable[[], RequestError]) -> None:
        """Prove another worker of `served`. With `gone` its requests are refused when that is hopeless."""
        self._ports.log(log.WORKER_STARTING, model=self._model, version=served.contract.version)

        def over(trial: Trial) -> None:
            if trial is self.trial:
                self.trial = None
                self._over(trial, served, gone)

        self.trial = Trial(served.pointer, self._ports.clock_ns(), over)
        self.trial.candidate = self._ports.start_trial(served.pointer, self.trial)

    def end(self) -> None:
        """What serves now needs none."""
        self._backoff.reset()
        self._degraded.pop("worker", None)
        trial, self.trial = self.trial, None
        if trial is not None and trial.candidate is not None:
            trial.candidate.drop()
            trial.forget()

    def _over(self, trial: Trial, served: Any, gone: Callable[[], RequestError]) -> None:
        if trial.outcome == "ready" and trial.served.contract == served.contract:
            self._backoff.reset()
            self._ports.log(log.WORKER_JOINED, model=self._model, version=served.contract.version)
            self._degraded.pop("worker", None)
            self._ports.join(served, trial.worker)
        else:
            if trial.candidate is not None:
                trial.candidate.drop()
            why = trial.reason or "it has other features, outputs or settings than before"
            self._degraded["worker"] = f"no worker of {served.contract.version}: {why}"
            wait_s = self._backoff.failed(self._ports.clock_ns())
            self._ports.call_in(wait_s, self._changed)
        trial.forget()
        self._changed()
        if self.hopeless and not served.alive:
            served.fail_all(gone)  # no other version has taken over, and the requests with it
