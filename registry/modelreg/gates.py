"""Promotion gates: what a version must have shown before a channel may point at it.

Pure: settings, facts and a state in; one result per gate out. Which gates there are is a matter of the
configuration (``gates`` in ``config/registry.yaml``); without one there are none.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from modelreg.clock import seconds_between
from modelreg.metrics import value_of

if TYPE_CHECKING:
    from modelreg.settings import ChannelGates, MetricGate
    from modelreg.state import ModelState


@dataclass(frozen=True, slots=True)
class GateResult:
    """One gate. ``gate``: ``ic``, ``hours_in.staging`` or ``approvals``; ``value`` is None where it is missing."""

    gate: str
    rule: str
    value: float | None
    passed: bool

    def __str__(self) -> str:
        if self.gate == "datasets":
            return self.rule
        value = "missing" if self.value is None else f"{self.value:g}"
        return f"{self.gate} is {value}, required {self.rule}"


def evaluate(
    gates: ChannelGates,
    metrics: Mapping[str, Any],
    state: ModelState,
    version: str,
    now: dt.datetime,
) -> list[GateResult]:
    """Every gate with what the version has to show for it; a missing metric doesn't pass.

    Approvals count by distinct actors other than the registrant. Time in a channel is the sum over all stays, from
    the moments in the log up to ``now``.
    """
    results = [_metric(name, gate, value_of(metrics, name)) for name, gate in gates.metrics.items()]
    for channel, hours in gates.hours_in.items():
        spent = hours_held(state, channel, version, now)
        results.append(GateResult(f"hours_in.{channel}", f">= {hours:g}", round(spent, 4), spent >= hours))
    if gates.approvals:
        found = state.versions[version]
        counted = [actor for actor in found.approvals if actor != found.actor]
        if gates.approvers:
            counted = [actor for actor in counted if actor in gates.approvers]
        who = f" of {', '.join(gates.approvers)}" if gates.approvers else " other than the registrant"
        results.append(
            GateResult(
                "approvals", f">= {gates.approvals}{who}", len(counted), len(counted) >= gates.approvals
            )
        )
    return results


def describe_rules(gates: ChannelGates) -> list[tuple[str, str]]:
    """Gate and rule, for people: ``("ic", "> 0.02")``."""
    rules = [(name, _rule(gate)) for name, gate in gates.metrics.items()]
    rules += [(f"hours_in.{channel}", f">= {hours:g}") for channel, hours in gates.hours_in.items()]
    return rules + ([("approvals", f">= {gates.approvals}")] if gates.approvals else [])


def hours_held(state: ModelState, channel: str, version: str, now: dt.datetime) -> float:
    """How long ``version`` has been in ``channel`` in all its stays, in hours."""
    found = state.channels.get(channel)
    if found is None:
        return 0.0
    seconds = found.held_s.get(version, 0.0)
    if found.version == version:
        seconds += seconds_between(found.at, now)
    return seconds / 3600


def _metric(name: str, gate: MetricGate, value: float | None) -> GateResult:
    passed = value is not None and (
        (gate.above is None or value > gate.above)
        and (gate.min is None or value >= gate.min)
        and (gate.below is None or value < gate.below)
        and (gate.max is None or value <= gate.max)
    )
    return GateResult(name, _rule(gate), value, passed)


def _rule(gate: MetricGate) -> str:
    limits = ((">", gate.above), (">=", gate.min), ("<", gate.below), ("<=", gate.max))
    return " and ".join(f"{sign} {limit:g}" for sign, limit in limits if limit is not None) or "given"
