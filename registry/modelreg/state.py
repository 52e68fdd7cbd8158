"""A model's state, folded from its log. Pure: records in, immutable snapshots out.

A version's status and what may follow it (all else is refused)::

    registered → validated, archived, failed, deleted
    validated  → archived, failed, deleted
    archived   → registered, validated, failed, deleted
    failed     → deleted
    deleted    →
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from types import MappingProxyType

from modelreg.clock import seconds_between
from modelreg.errors import IntegrityError
from modelreg.records import (
    ApproveOp,
    ChannelOp,
    ExportOp,
    Op,
    Record,
    RegisterOp,
    StatusOp,
    TagOp,
    UnknownOp,
    UntagOp,
)

#: Which status may follow which.
TRANSITIONS: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "registered": frozenset({"validated", "archived", "failed", "deleted"}),
        "validated": frozenset({"archived", "failed", "deleted"}),
        "archived": frozenset({"registered", "validated", "failed", "deleted"}),
        "failed": frozenset({"deleted"}),
        "deleted": frozenset(),
    }
)

#: A version of one of these can be put into a channel.
PROMOTABLE = frozenset({"registered", "validated"})

#: The channels that a version's stage is derived from, the most telling first.
STAGE_ORDER = ("production", "canary", "shadow", "staging", "development")


@dataclass(frozen=True, slots=True)
class Export:
    """A version in another format. ``file``: relative to the model's directory; ``digest``: of that file."""

    format: str
    file: str
    digest: str


@dataclass(frozen=True, slots=True)
class VersionState:
    """One version, as the log tells it.

    ``seq`` and ``at`` are the registration's; ``reason`` is the status's. ``approvals``: who approves of it.
    ``archived_from``: the status that it had before it was archived.
    """

    version: str
    digest: str
    status: str
    seq: int
    at: str
    reason: str | None = None
    tags: tuple[str, ...] = ()
    actor: str = ""
    approvals: tuple[str, ...] = ()
    archived_from: str | None = None
    exports: tuple[Export, ...] = ()


@dataclass(frozen=True, slots=True)
class ChannelState:
    """One channel. ``seq``, ``at``, ``actor`` and ``reason`` are those of the record that set it.

    ``version`` is None where the channel was emptied. ``previous``: distinct earlier holders, newest first.
    ``held_s``: seconds that each version was in it, up to ``at``. ``allow_schema_change``: the one who promoted said
    that other features are meant.
    """

    channel: str
    version: str | None
    seq: int
    at: str
    actor: str
    reason: str | None
    previous: tuple[str, ...] = ()
    allow_schema_change: bool = False
    held_s: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ModelState:
    """An immutable snapshot of a model; safe to hand to any thread.

    ``seq`` and ``head`` (hash) are those of the last valid record. ``broken`` says why the model is read-
    only, or is None. ``versions`` are in the order of registration.
    """

    name: str
    seq: int
    head: str | None
    broken: str | None
    versions: Mapping[str, VersionState]
    channels: Mapping[str, ChannelState]

    def channels_of(self, version: str) -> tuple[str, ...]:
        """The channels that name ``version`` now, sorted."""
        return tuple(sorted(c.channel for c in self.channels.values() if c.version == version))

    def stage_of(self, version: str) -> str:
        """The stage to show: the most telling channel that holds the version, else its status."""
        held = self.channels_of(version)
        for channel in STAGE_ORDER:
            if channel in held:
                return channel
        return held[0] if held else self.versions[version].status

    def lifecycle_of(self, version: str) -> str:
        """The one word that registries with a single axis have for this: derived, never stored.

        ``production``: in that channel; ``staged``: in another one. Else ``failed`` or ``deleted``, as its status;
        ``retired``: archived after it was in production, ``archived``: without; ``deprecated``: it was in production
        and isn't any more; ``registered``: all others.
        """
        held, status = self.channels_of(version), self.versions[version].status
        if held:
            return "production" if "production" in held else "staged"
        production = self.channels.get("production")
        served = production is not None and version in production.previous
        if status == "archived":
            return "retired" if served else "archived"
        if status in ("failed", "deleted"):
            return status
        return "deprecated" if served else "registered"


@dataclass(slots=True)
class Fold:
    """Builds a ``ModelState`` record by record. Not thread-safe: its owner holds a lock."""

    name: str
    seq: int = 0
    head: str | None = None
    unknown: str | None = None
    versions: dict[str, VersionState] = field(default_factory=dict)
    channels: dict[str, ChannelState] = field(default_factory=dict)

    @classmethod
    def of(cls, name: str, records: Iterable[Record]) -> Fold:
        fold = cls(name)
        for record in records:
            fold.apply(record)
        return fold

    def copy(self) -> Fold:
        """One that can take records in without changing this one."""
        return replace(self, versions=dict(self.versions), channels=dict(self.channels))

    def apply(self, record: Record) -> None:
        """Take the next record in.

        Raises:
            IntegrityError: the record contradicts what came before; the fold is then of no use any more.
        """
        for op in record.ops:
            self._apply_op(op, record)
        self.seq, self.head = record.seq, record.hash

    def snapshot(self, broken: str | None = None) -> ModelState:
        return ModelState(
            name=self.name,
            seq=self.seq,
            head=self.head,
            broken=broken or self.unknown,
            versions=MappingProxyType(dict(self.versions)),
            channels=MappingProxyType(dict(self.channels)),
        )

    def _apply_op(self, op: Op, record: Record) -> None:
        match op:
            case RegisterOp():
                if op.version in self.versions:
                    raise IntegrityError(f"record {record.seq} registers {op.version} a second time")
                self.versions[op.version] = VersionState(
                    op.version, op.digest, "registered", record.seq, record.at, actor=record.actor
                )
            case ChannelOp():
                if op.version is not None:
                    self._version(op.version, record)
                self.channels[op.channel] = _moved(self.channels.get(op.channel), op, record)
            case StatusOp():
                version = self._version(op.version, record)
                if op.status not in TRANSITIONS:
                    raise IntegrityError(
                        f"record {record.seq} gives {op.version} the unknown status {op.status!r}"
                    )
                self.versions[op.version] = replace(
                    version,
                    status=op.status,
                    reason=op.reason or record.reason,
                    archived_from=version.status if op.status == "archived" else None,
                )
            case TagOp():
                version = self._version(op.version, record)
                self.versions[op.version] = replace(version, tags=tuple(sorted({*version.tags, op.tag})))
            case UntagOp():
                version = self._version(op.version, record)
                self.versions[op.version] = replace(
                    version, tags=tuple(t for t in version.tags if t != op.tag)
                )
            case ApproveOp():
                version = self._version(op.version, record)
                actors = dict.fromkeys((*version.approvals, record.actor))
                self.versions[op.version] = replace(version, approvals=tuple(actors))
            case ExportOp():
                version = self._version(op.version, record)
                others = tuple(e for e in version.exports if e.format != op.format)
                export = Export(op.format, op.file, op.digest)
                self.versions[op.version] = replace(version, exports=(*others, export))
            case UnknownOp():
                self.unknown = (
                    f"record {record.seq} of {self.name} has the operation {op.name!r}, which this modelreg "
                    "doesn't know: upgrade modelreg before you write to this model"
                )

    def _version(self, version: str, record: Record) -> VersionState:
        found = self.versions.get(version)
        if found is None:
            raise IntegrityError(
                f"record {record.seq} speaks of version {version}, which was never registered"
            )
        return found


def _moved(before: ChannelState | None, op: ChannelOp, record: Record) -> ChannelState:
    previous: tuple[str, ...] = ()
    held: dict[str, float] = {}
    if before is not None:
        held = dict(before.held_s)
        if before.version is not None:
            held[before.version] = held.get(before.version, 0.0) + seconds_between(before.at, record.at)
        earlier = before.previous if before.version is None else (before.version, *before.previous)
        previous = tuple(dict.fromkeys(version for version in earlier if version != op.version))
    return ChannelState(
        op.channel,
        op.version,
        record.seq,
        record.at,
        record.actor,
        record.reason,
        previous,
        op.allow_schema_change,
        MappingProxyType(held),
    )
