"""``list`` as one SQL statement: every filter, every order, pages by key."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from modelreg.catalog import Catalog, channels, metrics, tags, versions
from modelreg.metrics import canonical, direction
from modelreg.settings import MetricSettings

#: Stands where a version lacks the metric of the order: it comes last.
_WORST = -1.7e308


@dataclass(frozen=True, slots=True)
class Search:
    """The filters of ``list``; ``after``: a reference, whose successors in the same order are wanted."""

    name: str | None = None
    channel: str | None = None
    status: str | None = None
    tag: str | None = None
    config_hash: str | None = None
    task_type: str | None = None
    minima: Sequence[tuple[str, float]] = ()
    sort: str | None = None
    limit: int | None = None
    after: str | None = None


def search(catalog: Catalog, wanted: Search, more: MetricSettings) -> list[dict[str, Any]]:
    """The rows as ``listing.describe`` makes them, without ``path``; raises StoreUnavailableError."""
    v = versions.c
    key: list[Any] = [_goodness(wanted.sort, more)] if wanted.sort is not None else []
    key += [v.seq] if wanted.name is not None else [v.at, v.seq, v.name]
    statement = sa.select(v.row)
    for condition in _conditions(wanted):
        statement = statement.where(condition)
    with catalog.read() as connection:
        if wanted.after is not None:
            mark = connection.execute(sa.select(*key).where(v.ref == wanted.after)).one_or_none()
            if mark is None:
                return []
            statement = statement.where(sa.tuple_(*key) < sa.tuple_(*(sa.literal(x) for x in mark)))
        statement = statement.order_by(*(column.desc() for column in key)).limit(wanted.limit)
        return [json.loads(row) for row in connection.execute(statement).scalars()]


def _conditions(wanted: Search) -> list[Any]:
    v = versions.c
    found: list[Any] = [v.status == wanted.status if wanted.status is not None else v.status != "deleted"]
    if wanted.name is not None:
        found.append(v.name == wanted.name)
    if wanted.task_type is not None:
        found.append(v.task_type == wanted.task_type)
    if wanted.config_hash is not None:
        found.append(v.config_hash.startswith(wanted.config_hash, autoescape=True))
    if wanted.channel is not None:
        found.append(_exists(channels, channels.c.channel == wanted.channel))
    if wanted.tag is not None:
        found.append(_exists(tags, tags.c.tag == wanted.tag))
    for metric, least in wanted.minima:
        found.append(_exists(metrics, (metrics.c.metric == canonical(metric)) & (metrics.c.value >= least)))
    return found


def _exists(table: sa.Table, condition: Any) -> Any:
    mine = (table.c.name == versions.c.name) & (table.c.version == versions.c.version)
    return sa.exists(sa.select(sa.literal(1)).where(mine & condition))


def _goodness(metric: str, more: MetricSettings) -> Any:
    value: Any = metrics.c.value
    match direction(metric, more):
        case "lower":
            value = -value
        case "magnitude":
            value = -sa.func.abs(value)
    mine = (metrics.c.name == versions.c.name) & (metrics.c.version == versions.c.version)
    found = sa.select(value).where(mine & (metrics.c.metric == canonical(metric))).scalar_subquery()
    return sa.func.coalesce(found, _WORST)
