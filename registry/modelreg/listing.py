"""Rows for people and machines: one version as plain values, and the filters and orders of ``list``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from modelreg.core import Core
from modelreg.errors import NotFoundError, RegistryError, UsageError
from modelreg.metadata import to_dict
from modelreg.metrics import goodness, value_of
from modelreg.settings import MetricSettings
from modelreg.state import ModelState


def describe(registry: Core, state: ModelState, version: str) -> dict[str, Any]:
    """One version: its state from the log, its facts from metadata.json (None and a ``problem`` if bad)."""
    found = state.versions[version]
    row: dict[str, Any] = {
        "ref": f"{state.name}:{version}",
        "name": state.name,
        "version": version,
        "digest": found.digest,
        "status": found.status,
        "stage": state.stage_of(version),
        "channels": list(state.channels_of(version)),
        "tags": list(found.tags),
        "approvals": list(found.approvals),
        "seq": found.seq,
        "at": found.at,
        "actor": found.actor,
        "reason": found.reason,
        "path": str(registry.version_dir(state.name, version)),
        "metadata": None,
    }
    if found.status != "deleted":
        try:
            row["metadata"] = to_dict(registry.metadata(state.name, version))
        except RegistryError as error:
            row["problem"] = str(error)
    return row


def parse_minimum(text: str) -> tuple[str, float]:
    """``METRIC=X`` as (metric, x).

    Raises:
        UsageError: it isn't that.
    """
    name, equals, value = text.partition("=")
    try:
        if name and equals:
            return name, float(value)
    except ValueError:
        pass
    raise UsageError(f"--min {text!r}: expected METRIC=NUMBER, as in ic=0.02")


def select(
    registry: Core,
    name: str | None,
    *,
    channel: str | None = None,
    status: str | None = None,
    tag: str | None = None,
    config_hash: str | None = None,
    task_type: str | None = None,
    minima: Sequence[tuple[str, float]] = (),
    sort: str | None = None,
    limit: int | None = None,
) -> list[dict[str, Any]]:
    """The versions that pass every filter: newest first, or best first by the metric ``sort``.

    Deleted versions are shown where ``status`` asks for them. A version without the metric of a filter
    doesn't pass it; in the order it comes last.

    Raises:
        NotFoundError: no such model.
        UsageError: ``sort`` is a metric of which nobody knows what is better.
    """
    if sort is not None and goodness(sort, 0.0, registry.settings.metrics) is None:
        raise UsageError(f"--sort {sort}: it isn't known whether higher or lower is better")
    rows = []
    for model in [name] if name is not None else registry.models():
        try:
            state = registry.state(model)
        except NotFoundError:
            if name is not None:
                raise
            continue  # its log has no valid record: `state` of it says so
        for version, found in state.versions.items():
            if (
                (channel is None or channel in state.channels_of(version))
                and (found.status == status if status is not None else found.status != "deleted")
                and (tag is None or tag in found.tags)
            ):
                rows.append(describe(registry, state, version))
    rows = [row for row in rows if _passes(row["metadata"] or {}, task_type, config_hash, minima)]
    rows.sort(key=lambda row: (row["at"], row["seq"]) if name is None else row["seq"], reverse=True)
    if sort is not None:
        rows.sort(key=lambda row: _rank(row["metadata"] or {}, sort, registry.settings.metrics))
    return rows[:limit]


def _passes(
    metadata: Mapping[str, Any],
    task_type: str | None,
    config_hash: str | None,
    minima: Sequence[tuple[str, float]],
) -> bool:
    if task_type is not None and metadata.get("task_type") != task_type:
        return False
    if config_hash is not None and not str(metadata.get("config_hash") or "").startswith(config_hash):
        return False
    for metric, least in minima:
        value = value_of(metadata.get("metrics", {}), metric)
        if value is None or value < least:
            return False
    return True


def _rank(metadata: Mapping[str, Any], metric: str, more: MetricSettings) -> tuple[bool, float]:
    value = value_of(metadata.get("metrics", {}), metric)
    better = None if value is None else goodness(metric, value, more)
    return (True, 0.0) if better is None else (False, -better)
