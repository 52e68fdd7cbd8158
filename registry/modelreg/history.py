"""The audit trail: who decided what, when and why, and from what to what. Derived from the log alone."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from modelreg.records import ChannelOp, Record
from modelreg.state import Fold


@dataclass(frozen=True, slots=True)
class ChannelChange:
    """A channel's move; None stands for no version."""

    channel: str
    from_version: str | None
    to_version: str | None


@dataclass(frozen=True, slots=True)
class HistoryEntry:
    """One record. ``at`` is RFC 3339 in UTC; ``ops`` are as written; ``changes`` are derived."""

    name: str
    seq: int
    at: str
    actor: str
    reason: str | None
    ops: tuple[dict[str, Any], ...]
    changes: tuple[ChannelChange, ...]


def entries(name: str, records: Iterable[Record]) -> list[HistoryEntry]:
    """The history of one model, newest first."""
    holders: dict[str, str | None] = {}
    found = []
    for record in records:
        changes = []
        for op in record.ops:
            if isinstance(op, ChannelOp):
                changes.append(ChannelChange(op.channel, holders.get(op.channel), op.version))
                holders[op.channel] = op.version
        found.append(
            HistoryEntry(
                name,
                record.seq,
                record.at,
                record.actor,
                record.reason,
                tuple(record.raw["ops"]),
                tuple(changes),
            )
        )
    return found[::-1]


@dataclass(frozen=True, slots=True)
class Holding:
    """What a channel held at a moment. ``seq``, ``at``, ``actor`` and ``reason``: of the record that put it there."""

    name: str
    channel: str
    version: str
    digest: str
    seq: int
    at: str
    actor: str
    reason: str | None


def holdings(name: str, records: Iterable[Record], moment: dt.datetime) -> list[Holding]:
    """What each channel of a model held at ``moment``, by the log's clock."""
    fold = Fold(name)
    known = list(records)
    last = max((i for i, r in enumerate(known) if dt.datetime.fromisoformat(r.at) <= moment), default=-1)
    for record in known[: last + 1]:
        fold.apply(record)
    state = fold.snapshot()
    return [
        Holding(
            name,
            channel.channel,
            channel.version,
            state.versions[channel.version].digest,
            channel.seq,
            channel.at,
            channel.actor,
            channel.reason,
        )
        for channel in state.channels.values()
        if channel.version is not None
    ]
