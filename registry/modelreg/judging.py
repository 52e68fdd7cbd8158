"""Whether a version may be put into a channel: gates, and data sets where their current versions are told."""

from __future__ import annotations

import datetime as dt
import logging
from collections.abc import Callable

from msgspec import structs

from modelreg import gates
from modelreg.core import Judge
from modelreg.errors import PromotionGateError
from modelreg.gates import GateResult
from modelreg.metadata import Metadata
from modelreg.records import ChannelOp
from modelreg.settings import ChannelGates, DatasetSettings, Settings
from modelreg.state import ModelState

log = logging.getLogger("modelreg")


def judge(settings: Settings, channel: str, clock: Callable[[], dt.datetime], *, override: bool) -> Judge:
    """What refuses a move with PromotionGateError, or where it may be overridden notes the gates that were missed."""
    configured = settings.gates.get(channel, ChannelGates())

    def judge(state: ModelState, op: ChannelOp, metadata: Metadata) -> ChannelOp:
        results = gates.evaluate(configured, metadata.metrics, state, str(op.version), clock())
        results += _datasets(settings.datasets, metadata)
        missed = [str(result) for result in results if not result.passed]
        if not missed:
            return op
        if not override:
            told = "; ".join(missed)
            raise PromotionGateError(
                f"{state.name}:{op.version} doesn't pass the gates of {op.channel}: {told}. Override them with "
                "--override-gates and a reason that stays in the log",
                results,
            )
        return structs.replace(op, overridden=tuple(missed))

    return judge


def _datasets(told: DatasetSettings, metadata: Metadata) -> list[GateResult]:
    if not (told.file or told.command) or not metadata.dataset_version_ids:
        return []
    from modelreg.compatibility import VersionCompatibilityChecker, current_versions

    current = current_versions(told.file, told.command)
    found = VersionCompatibilityChecker(told.strict).check(metadata.dataset_version_ids, current)
    if not found.compatible:
        return [GateResult("datasets", warning, None, False) for warning in found.warnings]
    for warning in found.warnings:
        log.warning("%s:%s: %s", metadata.name, metadata.version, warning)
    return []
