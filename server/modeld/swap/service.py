"""Who answers for one model: the version that serves, under its generation, and behind it those that served before."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any

from modeld import log
from modeld.errors import shutting_down
from modeld.swap.former import FormerVersions
from modeld.swap.policy import Pointer, Resident, State
from modeld.swap.ports import Binding, Ports, Trial
from modeld.swap.probation import Probation, Terms
from modeld.swap.revival import Revival


class Service:
    """Owned by a slot. `changed` is called where something happened that the policy may want to act on."""

    def __init__(
        self,
        model: str,
        ports: Ports,
        degraded: dict[str, str],
        changed: Callable[[], None],
        *,
        probation: Terms,
        workers: int,
        keep_warm: int,
        drain_timeout_s: float,
    ) -> None:
        self.serving: Binding | None = None
        self.generation = 0
        #: Why the version that serves failed its probation.
        self.condemned: str | None = None
        self.former = FormerVersions(model, ports, keep_warm=keep_warm, drain_timeout_s=drain_timeout_s)
        self._model = model
        self._ports = ports
        self._changed = changed
        self._workers = workers
        self._probation = Probation(probation, ports.clock_ns)
        self._revival = Revival(model, ports, degraded, changed)

    @property
    def version(self) -> str | None:
        """The version that serves."""
        return self.serving.contract.version if self.serving is not None else None

    @property
    def on_probation(self) -> bool:
        return self._probation.on

    @property
    def revival(self) -> Trial | None:
        """The proof of another worker, if one is under way."""
        return self._revival.trial

    def bindings(self) -> list[Binding]:
        """The versions that may answer: the serving one and the warm ones."""
        return [*([self.serving] if self.serving is not None else []), *self.former.warm]

    def residents(self) -> list[Any]:
        """Every version that has workers or requests: serving, warm, retiring."""
        return [*(binding.served for binding in self.bindings()), *self.former.retiring]

    def view(self) -> Resident | None:
        """The version that serves, as the policy sees it."""
        if (binding := self.serving) is None:
            return None
        alive = binding.served.alive
        return Resident(
            binding.contract.version,
            binding.digest,
            binding.revision,
            alive=alive,
            short=binding.served.n_workers < self._workers and self._revival.due,
            lost=not alive and self._revival.hopeless,
        )

    # -- what happened

    def worker_died(self, served: Any, how: str) -> None:
        """A worker of a resident version is gone."""
        self._ports.log(log.WORKER_DIED, model=self._model, version=served.contract.version, how=how)
        if self.serving is None or served is not self.serving.served:
            self.former.worker_died(served)
        elif self.on_probation and any(one.served.alive for one in self.former.warm):
            self.condemned = how
        self._changed()

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
        self.condemned = what
        self._ports.call_in(0, self._changed)

    def tick(self) -> bool:
        """Now and then: end drains, look at the probation; True once when that is over and was passed."""
        self.former.end_drains()
        if (why := self._probation.tick()) is not None:
            self._condemn(why)
        return self._probation.passed()

    # -- what is done

    def serve(
        self,
        served: Any,
        pointer: Pointer,
        generation: int,
        kind: str,
        rejected: Collection[str],
        live: list[dict[str, Any]] | None = None,
        **fields: Any,
    ) -> None:
        """The swap: one assignment, between two requests. Everything else here is about the version before."""
        old = self.serving
        self.generation = generation
        served.move(State.SERVING)
        self.serving = Binding(
            generation,
            served,
            served.contract,
            served.pointer.digest,
            pointer.revision,
            self._ports.now(),
        )
        self.condemned = None
        self._probation.end()
        self._revival.end()
        if old is not None:
            self.former.put_aside(old, self.serving, rejected)
        self._ports.prove(served)
        told = {
            "from": old.contract.version if old is not None else None,
            "to": served.contract.version,
            "generation": generation,
            "digest": served.pointer.digest,
            "reason": fields.pop("reason", pointer.reason),
            "actor": fields.pop("actor", pointer.actor),
        }
        if live:
            told["live"] = live
        logged = fields.pop("logged", log.SWAPPED if kind == "swap" else log.ROLLED_BACK)
        self._ports.log(logged, model=self._model, **told, **fields)
        self._ports.event(kind, self._model, **told)

    def relabel(self, pointer: Pointer) -> None:
        """What serves is what `pointer` names: the same version, under the newer generation."""
        old = self.serving
        assert old is not None
        self.generation = max(pointer.revision, self.generation)
        self.serving = Binding(
            self.generation, old.served, old.contract, old.digest, pointer.revision, old.since
        )
        self._ports.log(
            log.RELABELLED, model=self._model, version=old.contract.version, generation=self.generation
        )
        self._ports.event(
            "state", self._model, **{"from": old.contract.version, "to": old.contract.version},
            generation=self.generation, digest=old.digest, reason=pointer.reason, actor=pointer.actor,
        )  # fmt: skip

    def begin_probation(self) -> None:
        """What serves from now on is new."""
        self._probation.begin()

    def trim(self) -> None:
        """No more warm versions than asked for; but one, while there may be a way back to go."""
        self.former.trim(on_probation=self.on_probation)

    def revive(self) -> None:
        """Prove another worker for what serves."""
        assert self.serving is not None
        self._revival.start(self.serving.served, self.former.gone)

    def close(self) -> None:
        """Let every worker go; what is still unanswered is refused."""
        self._revival.end()
        for served in self.residents():
            served.fail_all(shutting_down)
            served.close(kill=False)
