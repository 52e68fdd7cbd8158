"""``list`` as one SQL statement: every filter, every order, pages by key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import sqlalchemy as sa

from modelreg.catalogtables import channels, metrics, tags, versions
from modelreg.metrics import canonical, direction
from modelreg.settings import MetricSettings


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


def search(connection: sa.Connection, wanted: Search, more: MetricSettings) -> list[dict[str, Any]]:
    """The rows as ``listing.describe`` makes them, without ``path``."""
    if wanted.sort is None:
        rows = _page(connection, wanted, None, versions, wanted.limit)
    else:
        # Those that have the metric come first, by an index; then those that don't.
        value, joined = _measured(wanted.sort, more)
        lacking = wanted.after is not None and not _exists_in(connection, joined, wanted.after)
        rows = [] if lacking else _page(connection, wanted, value, joined, wanted.limit)
        left = None if wanted.limit is None else wanted.limit - len(rows)
        if left is None or left > 0:
            rest = wanted if lacking else replace(wanted, after=None)
            rows += _page(connection, rest, None, versions, left, without=canonical(wanted.sort))
    return [msgspec.json.decode(row) for row in rows]


def related(connection: sa.Connection, ref: str) -> dict[str, str | None]:
    """Reference → parent, of a version's ancestors and descendants alone."""
    v = versions.c
    present = v.status != "deleted"
    up = sa.select(v.ref, v.parent).where(v.ref == ref, present).cte("up", recursive=True)
    up = up.union(sa.select(v.ref, v.parent).join(up, v.ref == up.c.parent).where(present))
    down = sa.select(v.ref, v.parent).where(v.ref == ref).cte("down", recursive=True)
    down = down.union(sa.select(v.ref, v.parent).join(down, v.parent == down.c.ref).where(present))
    return {row.ref: row.parent for cte in (up, down) for row in connection.execute(sa.select(cte)).all()}


def parents(connection: sa.Connection) -> list[dict[str, Any]]:
    """``name``, ``ref``, ``at``, ``parent`` and ``problem`` (why its facts aren't known) of every present version."""
    v = versions.c
    found = connection.execute(
        sa.select(v.name, v.ref, v.at, v.parent, v.problem).where(v.status != "deleted")
    )
    return [dict(row) for row in found.mappings()]


def _page(
    connection: sa.Connection,
    wanted: Search,
    value: Any,
    source: Any,
    limit: int | None,
    without: str | None = None,
) -> list[str]:
    v = versions.c
    key: list[Any] = [v.seq] if wanted.name is not None else [v.at, v.seq, v.name]
    statement = sa.select(v.row).select_from(source)
    for condition in _conditions(wanted):
        statement = statement.where(condition)
    if without is not None:
        statement = statement.where(~_exists(metrics, metrics.c.metric == without))
    if wanted.after is not None:
        columns = key if value is None else [value[0], *key]
        mark = connection.execute(
            sa.select(*columns).select_from(source).where(v.ref == wanted.after)
        ).one_or_none()
        if mark is None:
            return []
        later: Any = sa.tuple_(*key) < sa.tuple_(*(sa.literal(x) for x in mark[len(columns) - len(key) :]))
        if value is not None:
            measure, rising = value
            beyond = measure > mark[0] if rising else measure < mark[0]
            later = beyond | ((measure == mark[0]) & later)
        statement = statement.where(later)
    order = [] if value is None else [value[0].asc() if value[1] else value[0].desc()]
    statement = statement.order_by(*order, *(column.desc() for column in key)).limit(limit)
    return [row for (row,) in connection.execute(statement).all()]


def _measured(metric: str, more: MetricSettings) -> tuple[tuple[Any, bool], Any]:
    """What to order by, whether rising, and versions joined with it."""
    way = direction(metric, more)
    measure: Any = sa.func.abs(metrics.c.value) if way == "magnitude" else metrics.c.value
    mine = (metrics.c.name == versions.c.name) & (metrics.c.version == versions.c.version)
    joined = metrics.join(versions, mine & (metrics.c.metric == canonical(metric)))
    return (measure, way != "higher"), joined


def _exists_in(connection: sa.Connection, joined: Any, ref: str) -> bool:
    found = connection.execute(sa.select(versions.c.seq).select_from(joined).where(versions.c.ref == ref))
    return found.first() is not None


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
        least_of = metrics.alias()
        found.append(
            _exists(least_of, (least_of.c.metric == canonical(metric)) & (least_of.c.value >= least))
        )
    return found


def _exists(table: Any, condition: Any) -> Any:
    mine = (table.c.name == versions.c.name) & (table.c.version == versions.c.version)
    return sa.exists(sa.select(sa.literal(1)).where(mine & condition))
