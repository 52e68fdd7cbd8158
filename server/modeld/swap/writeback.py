"""A rejection on its way to the source, so that it doesn't go on naming what failed."""

from __future__ import annotations

from collections.abc import Callable

from modeld import log
from modeld.swap.backoff import Backoff
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

    def reset(self) -> None:
        """The source names something else: what failed before says nothing about it."""
        self._backoff.reset()
        self._degraded.pop("source", None)

    def start(self, expect: str, rejection: Rejection, serving: Callable[[], Binding]) -> None:
        """Point the source from `expect`, which was rejected, to what serves."""
        reason = f"{rejection.stage}: {rejection.reason}"
        self.under_way = True

        def done(outcome: WriteOutcome) -> None:
            self.under_way = False
            if outcome.code is None:
                self.reset()
                binding = serving()
                told = {
                    "from": outcome.from_version,
                    "to": outcome.to_version,
                    "generation": binding.generation,
                }
                self._ports.log(log.ROLLED_BACK, model=self._model, **told, reason=reason, actor=self._actor)
                self._ports.event(
                    "rollback", self._model, **told, digest=binding.digest, reason=reason, actor=self._actor
                )
            else:
                # A conflict mostly means that the pointer has moved on; what it names then clears this.
                wait_s = self._backoff.failed(self._ports.clock_ns())
                self._degraded["source"] = (
                    f"the rejection of {rejection.version} isn't written: {outcome.error}"
                )
                self._ports.log(log.WRITE_FAILED, model=self._model, error=outcome.error)
                self._ports.call_in(wait_s, self._changed)
            self._changed()

        self._ports.write(self._model, expect, serving().contract.version, True, reason, self._actor, done)
