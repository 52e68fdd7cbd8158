"""``list`` as one SQL statement: every filter, every order, pages by key."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
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
        rows = _page(connection, wanted, wanted.limit)
    else:
        # Those that have the metric come first, by an index; then those that don't.
        way = direction(wanted.sort, more)
        lacking = wanted.after is not None and not _has_metric(connection, wanted.after, wanted.sort)
        rows = [] if lacking else _page(connection, wanted, wanted.limit, way=way)
        left = None if wanted.limit is None else wanted.limit - len(rows)
        if left is None or left > 0:
            rest = wanted if lacking else replace(wanted, after=None)
            rows += _page(connection, rest, left, without=canonical(wanted.sort))
    return [msgspec.json.decode(row) for row in rows]


def related(connection: sa.Connection, ref: str) -> dict[str, str | None]:
    """Reference → parent, of a version's ancestors and descendants alone."""
    found = [connection.execute(statement, {"ref": ref}).all() for statement in _relatives()]
    return {row.ref: row.parent for rows in found for row in rows}


def parents(connection: sa.Connection) -> list[dict[str, Any]]:
    """``name``, ``ref``, ``at``, ``parent`` and ``problem`` (why its facts aren't known) of every present version."""
    v = versions.c
    found = connection.execute(
        sa.select(v.name, v.ref, v.at, v.parent, v.problem).where(v.status != "deleted")
    )
    return [dict(row) for row in found.mappings()]


@dataclass(frozen=True, slots=True)
class _Shape:
    """Which filters a statement has, without their values. ``way``: how the metric that it is sorted by gets better."""

    named: bool
    status: bool
    channel: bool
    tag: bool
    config_hash: bool
    task_type: bool
    minima: int
    after: bool
    way: str | None
    without: bool


def _page(
    connection: sa.Connection,
    wanted: Search,
    limit: int | None,
    *,
    way: str | None = None,
    without: str | None = None,
) -> list[str]:
    shape = _Shape(
        named=wanted.name is not None,
        status=wanted.status is not None,
        channel=wanted.channel is not None,
        tag=wanted.tag is not None,
        config_hash=wanted.config_hash is not None,
        task_type=wanted.task_type is not None,
        minima=len(wanted.minima),
        after=wanted.after is not None,
        way=way,
        without=without is not None,
    )
    values: dict[str, Any] = {
        "name": wanted.name,
        "status": wanted.status,
        "channel": wanted.channel,
        "tag": wanted.tag,
        "config_hash": wanted.config_hash,
        "task_type": wanted.task_type,
        "metric": None if way is None or wanted.sort is None else canonical(wanted.sort),
        "without": without,
        "limit": -1 if limit is None else limit,  # SQLite's word for all
    }
    for at, (metric, least) in enumerate(wanted.minima):
        values[f"metric{at}"], values[f"least{at}"] = canonical(metric), least
    if wanted.after is not None:
        mark = connection.execute(_mark(shape), {**values, "after": wanted.after}).one_or_none()
        if mark is None:
            return []
        values.update(mark._mapping)
    return [row for (row,) in connection.execute(_statement(shape), values).all()]


@functools.cache
def _statement(shape: _Shape) -> sa.Select[Any]:
    """One page of a list, its values to be bound. Made once for each shape: that costs more than SQLite's answer."""
    source, keys = _ordered(shape)
    statement = sa.select(versions.c.row).select_from(source)
    for condition in _conditions(shape):
        statement = statement.where(condition)
    if shape.after:
        marks = {name: sa.bindparam(f"mark_{name}", type_=column.type) for name, column in keys.items()}
        falling = [name for name in keys if name != "value"]
        later: Any = sa.tuple_(*(keys[n] for n in falling)) < sa.tuple_(*(marks[n] for n in falling))
        if shape.way is not None:
            measure, mark = keys["value"], marks["value"]
            beyond = measure < mark if shape.way == "higher" else measure > mark
            later = beyond | ((measure == mark) & later)
        statement = statement.where(later)
    order = [
        column.asc() if name == "value" and shape.way != "higher" else column.desc()
        for name, column in keys.items()
    ]
    return statement.order_by(*order).limit(sa.bindparam("limit", type_=sa.Integer))


def _mark(shape: _Shape) -> sa.Select[Any]:
    """Where the version ``after`` stands in the order."""
    source, keys = _ordered(shape)
    columns = [column.label(f"mark_{name}") for name, column in keys.items()]
    return sa.select(*columns).select_from(source).where(versions.c.ref == sa.bindparam("after"))


def _ordered(shape: _Shape) -> tuple[Any, dict[str, Any]]:
    """What to select from, and what to order by, by name."""
    v = versions.c
    keys: dict[str, Any] = {"seq": v.seq} if shape.named else {"at": v.at, "seq": v.seq, "name": v.name}
    if shape.way is None:
        return versions, keys
    measure: Any = sa.func.abs(metrics.c.value) if shape.way == "magnitude" else metrics.c.value
    mine = (metrics.c.name == v.name) & (metrics.c.version == v.version)
    joined = metrics.join(versions, mine & (metrics.c.metric == sa.bindparam("metric", type_=sa.Text)))
    return joined, {"value": measure, **keys}


def _has_metric(connection: sa.Connection, ref: str, metric: str) -> bool:
    known = _exists(metrics, metrics.c.metric == canonical(metric))
    return (
        connection.execute(sa.select(versions.c.seq).where(versions.c.ref == ref, known)).first() is not None
    )


def _conditions(shape: _Shape) -> Iterator[Any]:
    v = versions.c

    def given(name: str) -> Any:
        return sa.bindparam(name, type_=sa.Text)

    yield v.status == given("status") if shape.status else v.status != "deleted"
    if shape.named:
        yield v.name == given("name")
    if shape.task_type:
        yield v.task_type == given("task_type")
    if shape.config_hash:
        begins = given("config_hash")
        # A range, for the index: after a hexadecimal beginning comes nothing above f.
        yield (v.config_hash >= begins) & (v.config_hash < begins.concat("g"))
    if shape.channel:
        yield _exists(channels, channels.c.channel == given("channel"))
    if shape.tag:
        yield _exists(tags, tags.c.tag == given("tag"))
    for at in range(shape.minima):
        of = metrics.alias()
        least = of.c.value >= sa.bindparam(f"least{at}", type_=sa.Float)
        yield _exists(of, (of.c.metric == given(f"metric{at}")) & least)
    if shape.without:
        yield ~_exists(metrics, metrics.c.metric == given("without"))


def _exists(table: Any, condition: Any) -> Any:
    mine = (table.c.name == versions.c.name) & (table.c.version == versions.c.version)
    return sa.exists(sa.select(sa.literal(1)).where(mine & condition))


@functools.cache
def _relatives() -> tuple[sa.Select[Any], sa.Select[Any]]:
    """The ancestors and the descendants of the version ``ref``, itself among them."""
    v, ref = versions.c, sa.bindparam("ref", type_=sa.Text)
    present = v.status != "deleted"
    up = sa.select(v.ref, v.parent).where(v.ref == ref, present).cte("up", recursive=True)
    up = up.union(sa.select(v.ref, v.parent).join(up, v.ref == up.c.parent).where(present))
    down = sa.select(v.ref, v.parent).where(v.ref == ref).cte("down", recursive=True)
    down = down.union(sa.select(v.ref, v.parent).join(down, v.parent == down.c.ref).where(present))
    return sa.select(up), sa.select(down)
