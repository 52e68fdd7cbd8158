"""A proof of plans under way: the front's side of a prover, which works beside the worker that serves.

A version serves by its worker from the moment of the swap; what a prover finds later is the same function, to the bit,
and so it is taken between two requests, within the same generation. A prover that dies, hangs or finds nothing leaves
the worker serving.
"""

from __future__ import annotations

import fcntl
import time
from typing import TYPE_CHECKING

import msgspec

from modeld import log
from modeld.forest.errors import PlanError, PlanRefused
from modeld.forest.scorer import Scorer
from modeld.forest.sealed import open_plans
from modeld.front.servable import Servable
from modeld.front.spawner import Worker
from modeld.front.trials import request
from modeld.wire.contract import Contract
from modeld.work import ipc

if TYPE_CHECKING:
    from modeld.front.daemon import Daemon

#: What the front scores itself takes this long at most, by its own measure: nobody is served meanwhile. Nanoseconds.
_INLINE_NS = 1_000_000
#: Provers that are tried where one couldn't begin or couldn't have the files, and the wait between two. Seconds.
_TRIES, _WAIT_S = 3, 1.0


class RunningProof:
    """Provers of one version, one after the other, until one has an answer."""

    def __init__(self, daemon: Daemon, served: Servable) -> None:
        self._daemon = daemon
        self._served = served
        self._worker: Worker | None = None
        self._tries = 0
        self._over = False
        daemon.loop.call_in(0, self._start)  # not within the swap: requests wait for that

    def drop(self) -> None:
        """End it; it reports nothing more."""
        self._over = True
        self._let_go()

    def _start(self) -> None:
        if self._over:
            return
        self._tries += 1
        daemon, settings = self._daemon, self._daemon.config.trial
        try:
            worker = self._worker = daemon.spawner.spawn()
        except OSError as e:
            self._again(f"no prover can be made: {e.strerror}")
            return
        worker.on_packet = self._on_packet
        worker.on_end = lambda how: (
            self._without(how) if worker.pid else self._again(f"{how} before it began")
        )
        worker.send(ipc.head(ipc.PROVE) + msgspec.json.encode(request(daemon.config, self._served.pointer)))

        def late() -> None:
            if self._worker is worker:
                self._without(f"not proved after trial.timeout_s = {settings.timeout_s:g} s")

        daemon.loop.call_in(settings.timeout_s, late)

    def _on_packet(self, packet: bytes) -> None:
        if len(packet) < ipc.HEAD.size or packet[0] != ipc.PLANS:
            self._without("the prover sent what can't be read")
            return
        try:
            found = msgspec.json.decode(packet[ipc.HEAD.size :], type=ipc.Planned)
        except msgspec.DecodeError as e:
            self._without(f"the prover sent what can't be read: {e}")
            return
        if found.again:
            self._again(found.why)
        elif found.why:
            self._without(found.why)
        else:
            self._take(found)

    def _take(self, found: ipc.Planned) -> None:
        """The prover's plans, checked: nothing of them is believed."""
        assert self._worker is not None
        config, contract = self._daemon.config, self._served.contract
        try:
            if not self._worker.fds:
                raise PlanRefused("none came")
            fd = self._worker.fds[0]
            scorers = checked(fd, config.trial.max_version_mb << 20, contract)
            rows, why = inline_rows(scorers, contract, config.plan.inline_rows)
            own = fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, 16)
        except (PlanError, OSError) as error:
            self._without(f"the prover's plan is refused: {error}")
            return
        self.drop()
        self._served.use_plans(scorers, rows, own, why)
        self._daemon.log(
            log.PLAN_SERVES,
            model=contract.model,
            version=contract.version,
            bytes=sum(scorer.checked.nbytes for scorer in scorers),
            inline_rows=rows,
            **({"reason": why} if why else {}),
            proof_ms=found.took_ms,
        )

    def _without(self, why: str) -> None:
        if not self._over:
            self.drop()
            self._served.do_without_plans(why)
            label = self._served.contract
            self._daemon.log(log.PLAN_MISSING, model=label.model, version=label.version, reason=why)

    def _again(self, why: str) -> None:
        """That said nothing about the version."""
        if self._over:
            return
        if self._tries >= _TRIES:
            self._without(why)
            return
        self._let_go()
        self._daemon.loop.call_in(_WAIT_S, self._start)

    def _let_go(self) -> None:
        worker, self._worker = self._worker, None
        if worker is not None:
            worker.close(kill=True)


def checked(fd: int, max_bytes: int, contract: Contract) -> list[Scorer]:
    """The plans in the sealed memfd `fd`, one for each output of `contract`. Raises PlanError."""
    scorers = open_plans(fd, max_bytes)
    shapes = [(scorer.n_features, scorer.n_outputs) for scorer in scorers]
    if shapes != [(contract.n_features, width or 1) for _, width in contract.outputs]:
        raise PlanRefused(f"plans of {shapes} (features, outputs) don't fit the contract")
    return scorers


def inline_rows(scorers: list[Scorer], contract: Contract, at_most: int) -> tuple[int, str]:
    """For how many rows of one request the front has the time, and where that is none, why."""
    if not at_most:
        return 0, "plan.inline_rows is 0"
    row_ns = _row_ns(scorers, contract)
    if row_ns > _INLINE_NS:
        return 0, f"a row takes {row_ns // 1000} µs, too long for the front's loop"
    return min(at_most, _INLINE_NS // row_ns), ""


def _row_ns(scorers: list[Scorer], contract: Contract) -> int:
    """What a row costs with these plans: the quickest of three, as the first meets cold caches."""
    row = bytes(contract.n_features * 8)
    took = []
    for _ in range(3):
        start = time.perf_counter_ns()
        for scorer in scorers:
            scorer.score_bytes(row, 1)
        took.append(time.perf_counter_ns() - start)
    return max(1, min(took))
