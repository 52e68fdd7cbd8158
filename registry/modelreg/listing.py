"""Rows for people and machines: one version as plain values, and the filters and orders of ``list``."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict, Unpack

from modelreg.core import Core
from modelreg.errors import NotFoundError, RegistryError, StoreUnavailableError, UsageError
from modelreg.metadata import to_dict
from modelreg.metrics import goodness, value_of
from modelreg.settings import MetricSettings
from modelreg.state import TRANSITIONS, ModelState

if TYPE_CHECKING:
    from modelreg.catalogsearch import Search

log = logging.getLogger("modelreg")


def describe(
    registry: Core, state: ModelState, version: str, facts: dict[str, Any] | None = None
) -> dict[str, Any]:
    """One version: its state from the log, its facts from metadata.json (None and a ``problem`` if bad).

    ``facts``: what metadata.json is known to say.
    """
    found = state.versions[version]
    row: dict[str, Any] = {
        "ref": f"{state.name}:{version}",
        "name": state.name,
        "version": version,
        "digest": found.digest,
        "status": found.status,
        "stage": state.stage_of(version),
        "lifecycle": state.lifecycle_of(version),
        "channels": list(state.channels_of(version)),
        "tags": list(found.tags),
        "approvals": list(found.approvals),
        "exports": [export.format for export in found.exports],
        "seq": found.seq,
        "at": found.at,
        "actor": found.actor,
        "reason": found.reason,
        "path": str(registry.version_dir(state.name, version)),
        "metadata": facts,
    }
    if found.status != "deleted" and facts is None:
        try:
            row["metadata"] = to_dict(registry.metadata(state.name, version))
        except RegistryError as error:
            row["problem"] = str(error)
    return row


class Filters(TypedDict, total=False):
    """What versions may be asked for by; ``select`` says what each means."""

    channel: str | None
    status: str | None
    tag: str | None
    config_hash: str | None
    task_type: str | None
    minima: Sequence[tuple[str, float]]
    sort: str | None
    limit: int | None
    after: str | None


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


def select(registry: Core, name: str | None = None, **filters: Unpack[Filters]) -> list[dict[str, Any]]:
    """The versions that pass every filter: newest first, or best first by the metric ``sort``.

    Filters: ``channel``, ``status``, ``tag``, ``config_hash`` (may be shortened), ``task_type``, ``minima`` (pairs of
    metric and least value), ``sort``, ``limit``, ``after`` (a reference: what follows it in this order).
    Deleted versions are shown where ``status`` asks for them. A version without the metric of a filter doesn't pass
    it; in the order it comes last. Answered by the catalog; by the files where that can't be used.

    Raises:
        NotFoundError: no such model.
        UsageError: no such status, or ``sort`` is a metric of which nobody knows what is better.
    """
    from modelreg.catalogsearch import Search, search

    wanted = Search(name, **filters)
    if wanted.status is not None and wanted.status not in TRANSITIONS:
        raise UsageError(f"--status {wanted.status}: no such status; known: {', '.join(TRANSITIONS)}")
    if wanted.sort is not None and goodness(wanted.sort, 0.0, registry.settings.metrics) is None:
        raise UsageError(f"--sort {wanted.sort}: it isn't known whether higher or lower is better")
    if name is not None:
        registry.state(name)
    try:
        with registry.catalog.current(name) as connection:
            rows = search(connection, wanted, registry.settings.metrics)
    except StoreUnavailableError as error:
        log.info("the catalog can't be used, so every version's files are read: %s", error)
        return scan(registry, wanted)
    for row in rows:
        row["path"] = f"{registry.root}/{row['name']}/versions/{row['version']}"
    return rows


def broken(registry: Core, name: str | None = None) -> dict[str, str]:
    """Models whose log is damaged, and what is wrong. Every record's file is looked at, not only the newest.

    Raises:
        NotFoundError: no such model.
    """
    if name is not None:
        registry.state(name)
    try:
        registry.catalog.sync(name, thorough=True)
        found = registry.catalog.broken()
    except StoreUnavailableError as error:
        log.info("the catalog can't be used, so every log is read: %s", error)
        states = [registry.state(model) for model in ([name] if name is not None else registry.models())]
        found = {state.name: state.broken for state in states if state.broken is not None}
    return {model: why for model, why in found.items() if name in (None, model)}


def scan(registry: Core, wanted: Search, models: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """The same as ``select`` from logs and files alone. ``models``: all that there are, where somebody has looked."""
    rows = []
    if models is None:
        models = registry.models() if wanted.name is None else [wanted.name]
    for model in models:
        try:
            state = registry.state(model)
        except NotFoundError:
            if wanted.name is not None:
                raise
            continue  # gone since somebody looked
        for version, found in state.versions.items():
            if (
                (wanted.channel is None or wanted.channel in state.channels_of(version))
                and (
                    found.status == wanted.status if wanted.status is not None else found.status != "deleted"
                )
                and (wanted.tag is None or wanted.tag in found.tags)
            ):
                rows.append(describe(registry, state, version))
    rows = [
        r for r in rows if _passes(r["metadata"] or {}, wanted.task_type, wanted.config_hash, wanted.minima)
    ]
    newest = (lambda r: (r["at"], r["seq"], r["name"])) if wanted.name is None else (lambda r: (r["seq"],))
    rows.sort(key=newest, reverse=True)
    if wanted.sort is not None:
        metric = wanted.sort
        rows.sort(key=lambda row: _rank(row["metadata"] or {}, metric, registry.settings.metrics))
    if wanted.after is not None:
        refs = [row["ref"] for row in rows]
        rows = rows[refs.index(wanted.after) + 1 :] if wanted.after in refs else []
    return rows[: wanted.limit]


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
