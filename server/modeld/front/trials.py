"""A trial under way: the front's side of a worker that proves a version."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from modeld import log
from modeld.config import Config, TrialSettings
from modeld.front.live import LiveRows
from modeld.front.servable import Servable
from modeld.front.spawner import Worker
from modeld.swap.policy import Pointer, State
from modeld.swap.ports import Trial
from modeld.watch.kept import kept_signature, signature_beside
from modeld.wire.contract import Contract
from modeld.work import ipc

if TYPE_CHECKING:
    from modeld.front.daemon import Daemon

#: Fewer live rows than this show a difference and prove nothing.
_LEAST_ROWS = 32
#: What a version may take and give at most, by its worker's word: features, values of one output in a row, and of all.
_MAX_FEATURES, _MAX_WIDTH, _MAX_ROW_WIDTH = 16_384, 4096, 65_536


def request(config: Config, pointer: Pointer) -> ipc.Trial:
    """What a worker or a prover of the version at `pointer` is told."""
    settings = config.trial
    kept = Path(config.state_dir) / "good" / pointer.model / pointer.digest.removeprefix("sha256:")
    return ipc.Trial(
        directories=[str(Path(pointer.directory).absolute()), str(kept.absolute())],
        model=pointer.model,
        version=pointer.version,
        digest=pointer.digest,
        golden_rtol=settings.golden_rtol,
        timeout_s=settings.timeout_s,
        memory_limit_mb=settings.memory_limit_mb,
        max_bytes=settings.max_version_mb << 20,
        allow_code=settings.allow_joblib == "signed" or pointer.digest in settings.allow_joblib,
        keys=settings.require_signature,
        signatures=[str(path) for path in (signature_beside(pointer), kept_signature(kept))],
        max_row_us=settings.max_row_us,
    )


def _live(settings: TrialSettings, rows: LiveRows) -> tuple[ipc.Live | None, int]:
    """The rows to compare on, with the limits that so many of them are good for, and their memfd; or none, and -1."""
    if not len(rows):
        return None, -1
    try:
        live, fd = rows.pack()
    except OSError:  # no descriptor or no memory: the trial goes without the comparison
        return None, -1
    if live.rows >= min(_LEAST_ROWS, settings.live_rows):
        live.max_mean_abs_diff = settings.max_mean_abs_diff
        live.min_rank_correlation = settings.min_rank_correlation
    return live, fd


def contract_error(ready: ipc.Ready) -> str | None:
    """What is wrong with the inputs and outputs that a worker says its version has; None: nothing."""
    widths = [width for _, width in ready.outputs]
    if not 1 <= len(ready.features) <= _MAX_FEATURES:
        return f"it has {len(ready.features)} features; 1 to {_MAX_FEATURES} can be served"
    if len(set(ready.features)) != len(ready.features):
        return "two of its features have one name"
    if not widths:
        return "it has no outputs"
    if len({name for name, _ in ready.outputs}) != len(widths):
        return "two of its outputs have one name"
    if not 0 <= min(widths) <= max(widths) <= _MAX_WIDTH:
        return f"an output's width is {min(widths)} to {max(widths)}; 0 to {_MAX_WIDTH} can be served"
    if sum(width or 1 for width in widths) > _MAX_ROW_WIDTH:
        return f"a row's outputs are more than {_MAX_ROW_WIDTH} values"
    return None


class RunningTrial:
    """A worker on trial, reporting to the slot that wants it."""

    def __init__(self, daemon: Daemon, pointer: Pointer, trial: Trial, serving: Servable | None) -> None:
        """`serving`: the version that serves meanwhile, whose last answers the candidate's are compared with."""
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
        described, live_fd = request(daemon.config, pointer), -1
        described.datasets = daemon.datasets_for(pointer)
        if serving is not None and serving.pointer.digest != pointer.digest:
            described.live, live_fd = _live(daemon.config.trial, serving.live)
        worker.send(ipc.head(ipc.TRIAL) + msgspec.json.encode(described), live_fd)
        daemon.loop.call_in(daemon.config.trial.timeout_s, self._late)

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
        if (wrong := contract_error(ready)) is not None:
            self._fail(str(self._trial.state), f"the worker says what can't be served: {wrong}")
            return
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
        served = self._daemon.new_servable(pointer, contract, ready.unplanned_why)
        served.warnings = tuple(ready.warnings)
        for warning in ready.warnings:
            self._daemon.log(log.DATASET_DRIFT, model=pointer.model, version=pointer.version, warning=warning)
        live = [msgspec.to_builtins(one) for one in ready.live]
        self._trial.passed(served, self._worker, ready.stages_ms, live)

    def _on_end(self, how: str) -> None:
        """Also after it passed, as long as nobody took the worker over."""
        if self._begun:
            self._over = True
            self._trial.failed(str(self._trial.state), how)
        else:
            self._abort(f"{how} before it began")

    def _late(self) -> None:
        if self._over:
            return
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
