"""A rejection, or an operator's rollback, on its way to the source, which mustn't go on naming what isn't served."""

from __future__ import annotations

from collections.abc import Callable

from modeld import log
from modeld.swap.backoff import Backoff
from modeld.swap.policy import Pointer
from modeld.swap.ports import Binding, Ports, Rejection, WriteOutcome

#: Waits after a write that failed. Seconds.
_BACKOFF_S = (1.0, 2.0, 5.0, 15.0, 60.0)


class WriteBack:
    """One write at a time, by compare-and-set. `changed` is called when one is over."""

    def __init__(
        self, model: str, ports: Ports, actor: str, degraded: dict[str, str], changed: Callable[[], None]
    ) -> None:
        self.under_way = False
        self._model = model
        self._ports = ports
        self._actor = actor
        self._degraded = degraded
        self._changed = changed
        self._backoff = Backoff(*_BACKOFF_S)

    @property
    def due(self) -> bool:
        """Whether a write may start now."""
        return not self.under_way and self._ports.clock_ns() >= self._backoff.due_ns

    def hurry(self) -> None:
        """The source can be reached again: no need to wait any longer."""
        self._backoff.reset()

    def reset(self) -> None:
        """The source names something else: what failed before says nothing about it."""
        self._backoff.reset()
        self._degraded.pop("source", None)

    def is_behind(self, rejection: Rejection, why: str) -> None:
        """Tell that the source doesn't know yet."""
        what = "rollback from" if rejection.actor else "rejection of"
        self._degraded["source"] = f"the {what} {rejection.version} isn't written to the source: {why}"

    def start(
        self,
        rejection: Rejection,
        serving: Callable[[], Binding],
        desired: Callable[[], Pointer | None],
    ) -> None:
        """Point the source from what was rejected to what serves."""
        actor = rejection.actor or self._actor
        self.under_way = True

        def done(outcome: WriteOutcome) -> None:
            self.under_way = False
            wanted = desired()
            if outcome.code is None:
                self.reset()
                binding = serving()
                told = {
                    "from": outcome.from_version,
                    "to": outcome.to_version,
                    "generation": binding.generation,
                }
                self._ports.log(
                    log.ROLLED_BACK, model=self._model, **told, reason=rejection.told, actor=actor
                )
                if not rejection.taken_away:
                    self._ports.event(
                        "rollback",
                        self._model,
                        **told,
                        digest=binding.digest,
                        reason=rejection.told,
                        actor=actor,
                    )
            elif wanted is None or wanted.digest != rejection.digest:
                # The pointer has moved on: what was to be written is nobody's wish any more.
                self.reset()
                self._ports.log(
                    log.WRITE_DROPPED, model=self._model, version=rejection.version, error=outcome.error
                )
            else:
                wait_s = self._backoff.failed(self._ports.clock_ns())
                self.is_behind(rejection, outcome.error or "")
                self._ports.log(log.WRITE_FAILED, model=self._model, error=outcome.error)
                self._ports.call_in(wait_s, self._changed)
            self._changed()

        self._ports.write(
            self._model, rejection.version, serving().contract.version, rejection.mark_failed, rejection.told,
            actor, done,
        )  # fmt: skip
