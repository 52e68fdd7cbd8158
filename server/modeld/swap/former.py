"""Versions that served before: the warm ones, which may serve again at once, and those that are let go of."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from modeld import log
from modeld.errors import RequestError, retryable
from modeld.swap.drains import Drains
from modeld.swap.policy import Resident, State
from modeld.swap.ports import Binding, Ports


class FormerVersions:
    """Owned by the slot that the versions belong to."""

    def __init__(self, model: str, ports: Ports, *, keep_warm: int, drain_timeout_s: float) -> None:
        #: Versions that still can serve; the one that served last comes first.
        self.warm: list[Binding] = []
        self.retiring: list[Any] = []
        self._model = model
        self._ports = ports
        self._keep_warm = keep_warm
        self._drains = Drains(drain_timeout_s, ports.clock_ns)

    def view(self, unfit: Collection[str]) -> tuple[Resident, ...]:
        """The warm versions, as the policy sees them; `unfit`: digests that the source has marked."""
        return tuple(
            Resident(
                one.contract.version,
                one.digest,
                one.revision,
                alive=one.served.alive,
                fit=one.digest not in unfit,
            )
            for one in self.warm
        )

    def put_aside(self, old: Binding, successor: Binding, rejected: Collection[str]) -> None:
        """The version that served stays warm, unless it is dead or rejected and so no use as a warm one."""
        if not old.served.alive:
            old.served.hand_over(successor, self.gone)
        if not old.served.alive or old.digest in rejected:
            self.retire(old.served)
            return
        old.served.move(State.DRAINING)
        self.warm.insert(0, old)
        self._drains.begin(old.served)

    def take_warm(self, digest: str) -> Any:
        """The warm version of this digest, which is about to serve."""
        binding = next(one for one in self.warm if one.digest == digest and one.served.alive)
        self.warm.remove(binding)
        self._drains.forget(binding.served)
        return binding.served

    def trim(self, *, on_probation: bool) -> None:
        """No more warm versions than asked for; but one, while there may be a way back to go."""
        while len(self.warm) > max(self._keep_warm, on_probation):
            self.retire(self.warm.pop().served)

    def retire(self, served: Any) -> None:
        """It is closed when it has answered what it was asked."""
        self._ports.log(log.RETIRED, model=self._model, version=served.contract.version)
        served.move(State.RETIRED)
        self.retiring.append(served)
        self._drains.begin(served)

    def worker_died(self, served: Any) -> None:
        """A worker of `served`, which doesn't serve, is gone."""
        if served.alive:
            return
        old = next((one for one in self.warm if one.served is served), None)
        if old is not None:
            self.warm.remove(old)
            self.retire(served)
        if served in self.retiring:
            served.fail_all(self.gone)

    def end_drains(self) -> None:
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

    def gone(self) -> RequestError:
        """What a request is told whose version has no worker any more."""
        return retryable(
            "NOT_READY", f"{self._model}: the version that took the request is gone; send it again"
        )

    def _too_late(self) -> RequestError:
        return retryable(
            "DRAINING",
            f"{self._model}: the version that took the request was superseded and didn't answer within "
            f"limits.drain_timeout_s = {self._drains.timeout_s:g} s; send it again",
        )
