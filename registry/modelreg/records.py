"""One numbered record of a model's log: what was decided, by whom, and why.

A record's bytes are canonical JSON. ``prev`` is the hash of the previous record's file, so that no record can
be exchanged; ``digest`` covers the record itself, so that damage to the newest is seen too. Unknown fields
are kept.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from modelreg.errors import IntegrityError

#: The largest record that is read, in bytes.
MAX_RECORD_BYTES = 4 << 20


class RegisterOp(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="op", tag="register"):
    """A version exists from now on. ``recovered``: completed for a registrant who never came back."""

    version: str
    digest: str
    recovered: bool = False


class ChannelOp(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="op", tag="channel"):
    """A channel names this version from now on, or none.

    ``overridden``: gates that weren't passed. ``allow_schema_change``: a daemon may serve it though its features
    aren't those of the version before.
    """

    channel: str
    version: str | None
    overridden: tuple[str, ...] = ()
    allow_schema_change: bool = False


class StatusOp(msgspec.Struct, frozen=True, omit_defaults=True, tag_field="op", tag="status"):
    """A version's status from now on."""

    version: str
    status: str
    reason: str | None = None


class TagOp(msgspec.Struct, frozen=True, tag_field="op", tag="tag"):
    """A label is put on a version."""

    version: str
    tag: str


class UntagOp(msgspec.Struct, frozen=True, tag_field="op", tag="untag"):
    """A label is taken off a version."""

    version: str
    tag: str


class ApproveOp(msgspec.Struct, frozen=True, tag_field="op", tag="approve"):
    """The record's actor approves of a version."""

    version: str


class ExportOp(msgspec.Struct, frozen=True, tag_field="op", tag="export"):
    """A version was converted: ``file`` (relative to the model's directory) has it in another format."""

    version: str
    format: str
    file: str
    digest: str


class UnknownOp(msgspec.Struct, frozen=True):
    """An operation that this modelreg doesn't know; whoever meets it must not write."""

    name: str


KnownOp = RegisterOp | ChannelOp | StatusOp | TagOp | UntagOp | ApproveOp | ExportOp
Op = KnownOp | UnknownOp
_KNOWN = {
    "register": RegisterOp,
    "channel": ChannelOp,
    "status": StatusOp,
    "tag": TagOp,
    "untag": UntagOp,
    "approve": ApproveOp,
    "export": ExportOp,
}


class Record(msgspec.Struct, frozen=True):
    """A valid record. ``hash`` is that of its file's bytes; ``raw`` is everything as written."""

    seq: int
    prev: str | None
    id: str
    at: str
    actor: str
    reason: str | None
    ops: tuple[Op, ...]
    expect: dict[str, Any]
    digest: str
    hash: str
    raw: dict[str, Any]


class _Head(msgspec.Struct):
    """The fields that every record must have."""

    seq: int
    prev: str | None
    id: str
    at: str
    actor: str
    reason: str | None
    ops: list[dict[str, Any]]
    expect: dict[str, Any]
    digest: str


def sha256(data: bytes) -> str:
    """``sha256:`` and the hexadecimal hash."""
    return "sha256:" + hashlib.sha256(data).hexdigest()


def canonical_json(value: Any) -> bytes:
    """The one way to write ``value``: sorted keys, no spaces, UTF-8."""
    return json.dumps(
        value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False
    ).encode()


def record_name(seq: int) -> str:
    """The file's name of record ``seq``."""
    return f"{seq:020d}.json"


def record_seq(name: str) -> int | None:
    """The number of a record from its file's name, or None if it isn't one."""
    stem, dot, extension = name.partition(".")
    return (
        int(stem)
        if dot and extension == "json" and len(stem) == 20 and stem.isascii() and stem.isdigit()
        else None
    )


def encode_record(
    *,
    seq: int,
    prev: str | None,
    id: str,
    at: str,
    actor: str,
    reason: str | None,
    ops: Sequence[KnownOp],
    expect: Mapping[str, Any],
) -> bytes:
    """The bytes of a new record, its digest included."""
    body: dict[str, Any] = {
        "seq": seq,
        "prev": prev,
        "id": id,
        "at": at,
        "actor": actor,
        "reason": reason,
        "ops": [msgspec.to_builtins(op) for op in ops],
        "expect": dict(expect),
    }
    return canonical_json({**body, "digest": sha256(canonical_json(body))}) + b"\n"


def decode_record(data: bytes, *, seq: int, prev: str | None, where: str) -> Record:
    """Check a record's bytes against its place in the chain.

    Raises:
        IntegrityError: names ``where`` and what doesn't fit.
    """
    try:
        raw = json.loads(data)
        head = msgspec.convert(raw, _Head)
        body = {key: value for key, value in raw.items() if key != "digest"}
        digest = sha256(canonical_json(body))
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{where}: not a record: {error}") from error
    if head.digest != digest:
        raise IntegrityError(f"{where}: its bytes don't fit its digest; it was damaged or edited")
    if head.seq != seq:
        raise IntegrityError(f"{where}: says that it is record {head.seq}")
    if head.prev != prev:
        raise IntegrityError(f"{where}: doesn't follow the record before it (prev differs)")
    return Record(
        seq=seq,
        prev=prev,
        id=head.id,
        at=head.at,
        actor=head.actor,
        reason=head.reason,
        ops=tuple(_decode_op(op, where) for op in head.ops),
        expect=head.expect,
        digest=digest,
        hash=sha256(data),
        raw=raw,
    )


def _decode_op(op: dict[str, Any], where: str) -> Op:
    kind = op.get("op")
    if not isinstance(kind, str):
        raise IntegrityError(f"{where}: an operation without a kind")
    known = _KNOWN.get(kind)
    if known is None:
        return UnknownOp(kind)
    try:
        converted: KnownOp = msgspec.convert(op, known)
    except msgspec.ValidationError as error:
        raise IntegrityError(f"{where}: operation {kind!r}: {error}") from error
    return converted
