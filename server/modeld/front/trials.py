"""A trial under way: the front's side of a worker that proves a version."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from modeld import log
from modeld.forest.errors import PlanError, PlanRefused
from modeld.forest.scorer import Scorer
from modeld.forest.sealed import open_plans
from modeld.front.spawner import Worker
from modeld.swap.policy import Pointer, State
from modeld.swap.slot import Trial
from modeld.wire.contract import Contract
from modeld.work import ipc

if TYPE_CHECKING:
    from modeld.front.daemon import Daemon

#: What the front scores itself takes this long at most, by its own measure: nobody is served meanwhile. Nanoseconds.
_INLINE_NS = 1_000_000


class RunningTrial:
    """A worker on trial, reporting to the slot that wants it."""

    def __init__(self, daemon: Daemon, pointer: Pointer, trial: Trial) -> None:
        settings = daemon.config.trial
        self._daemon = daemon
        self._pointer = pointer
        self._trial = trial
        self._over = False
        self._worker: Worker | None = None
        self._begun = False
        try:
            worker = daemon.spawner.spawn()
        except OSError as e:
            why = f"no worker can be made: {e.strerror}"
            daemon.loop.call_in(0, lambda: self._abort(why))
            return
        self._worker = worker
        worker.on_packet, worker.on_end = self._on_packet, self._on_end
        kept = Path(daemon.config.state_dir) / "good" / pointer.model / pointer.digest.removeprefix("sha256:")
        request = ipc.Trial(
            directories=[str(Path(pointer.directory).absolute()), str(kept.absolute())],
            model=pointer.model,
            version=pointer.version,
            digest=pointer.digest,
            golden_rtol=settings.golden_rtol,
            timeout_s=settings.timeout_s,
            memory_limit_mb=settings.memory_limit_mb,
            max_bytes=settings.max_version_mb << 20,
            allow_code=pointer.digest in settings.allow_joblib,
            datasets=daemon.datasets_for(pointer),
        )
        worker.send(ipc.head(ipc.TRIAL) + msgspec.json.encode(request))
        daemon.loop.call_in(settings.timeout_s, self._late)

    def drop(self) -> None:
        """End it, passed or not; no more reports."""
        self._over = True
        if self._worker is not None:
            self._worker.close(kill=True)

    def _on_packet(self, packet: bytes) -> None:
        kind = packet[0] if len(packet) >= ipc.HEAD.size else 0
        payload = packet[ipc.HEAD.size :]
        try:
            if kind == ipc.STAGE:
                self._begun = True
                self._trial.reached(State(payload.decode()))
            elif kind == ipc.READY:
                self._passed(msgspec.json.decode(payload, type=ipc.Ready))
            elif kind == ipc.REJECTED:
                rejected = msgspec.json.decode(payload, type=ipc.Rejected)
                if rejected.again:
                    self._abort(rejected.reason)
                else:
                    self._fail(rejected.stage, rejected.reason)
            else:
                self._fail(str(self._trial.state), f"the worker sent a packet of kind {kind}")
        except (ValueError, msgspec.DecodeError) as e:
            self._fail(str(self._trial.state), f"the worker sent what can't be read: {e}")

    def _passed(self, ready: ipc.Ready) -> None:
        self._over = True
        pointer = self._pointer
        contract = Contract(
            model=pointer.model,
            version=pointer.version,
            features=tuple(ready.features),
            schema=ready.schema,
            outputs=tuple(ready.outputs),
            nan_allowed=ready.nan_allowed,
            platform=ready.platform,
            row_independent=ready.row_independent,
        )
        scorers, rows, why = self._plans(ready, contract)
        served = self._daemon.new_servable(pointer, contract, scorers, rows, why)
        served.warnings = tuple(ready.warnings)
        for warning in ready.warnings:
            self._daemon.log(log.DATASET_DRIFT, model=pointer.model, version=pointer.version, warning=warning)
        self._trial.passed(served, self._worker, ready.stages_ms)

    def _plans(self, ready: ipc.Ready, contract: Contract) -> tuple[list[Scorer], int, str]:
        """The worker's plans, checked, and for how many rows; or none, and why not. No reason to reject a version."""
        daemon, why = self._daemon, ready.unplanned_why
        if not daemon.config.plan.inline_rows:
            return [], 0, "plan.inline_rows is 0"
        if ready.planned:
            try:
                if self._worker is None or not self._worker.fds:
                    raise PlanRefused("none came")
                scorers = open_plans(self._worker.fds[0], daemon.config.trial.max_version_mb << 20)
                shapes = [(scorer.n_features, scorer.n_outputs) for scorer in scorers]
                if shapes != [(contract.n_features, width or 1) for _, width in contract.outputs]:
                    raise PlanRefused(f"plans of {shapes} (features, outputs) don't fit the contract")
                row_ns = _row_ns(scorers, contract)
                rows = min(daemon.config.plan.inline_rows, _INLINE_NS // row_ns)
                if not rows:
                    raise PlanRefused(f"a row takes {row_ns // 1000} µs, too long for the front's loop")
            except PlanError as error:
                why = f"the worker's plan is refused: {error}"
            else:
                size = sum(scorer.checked.nbytes for scorer in scorers)
                daemon.log(
                    log.PLAN_SERVES,
                    model=contract.model,
                    version=contract.version,
                    bytes=size,
                    inline_rows=rows,
                )
                return scorers, rows, ""
        daemon.log(log.PLAN_MISSING, model=contract.model, version=contract.version, reason=why)
        return [], 0, why

    def _on_end(self, how: str) -> None:
        """Also after it passed, as long as nobody took the worker over."""
        if self._begun:
            self._over = True
            self._trial.failed(str(self._trial.state), how)
        else:
            self._abort(f"{how} before it began")

    def _late(self) -> None:
        limit = self._daemon.config.trial.timeout_s
        if self._begun:
            self._fail(str(self._trial.state), f"not done after trial.timeout_s = {limit:g} s")
        else:
            self._abort(f"no worker began within {limit:g} s")

    def _fail(self, stage: str, reason: str) -> None:
        if not self._over:
            self.drop()
            self._trial.failed(stage, reason)

    def _abort(self, reason: str) -> None:
        if not self._over:
            self.drop()
            self._trial.aborted(reason)


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
