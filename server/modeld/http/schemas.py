"""The registry API's bodies, as its OpenAPI description has them."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import Path, Query
from pydantic import BaseModel, ConfigDict, Field, StringConstraints

#: What a model, a version and a channel may be called; see modelreg.names.
_NAME = r"^[a-z0-9][a-z0-9_.\-]{0,63}$"
_NUMBER = "(0|[1-9][0-9]*)"
_IDENTIFIERS = r"[0-9A-Za-z\-]+(\.[0-9A-Za-z\-]+)*"
_SEMVER = rf"v?{_NUMBER}\.{_NUMBER}\.{_NUMBER}(-{_IDENTIFIERS})?(\+{_IDENTIFIERS})?"
_VERSION = rf"^({_SEMVER}|[0-9]{{8}}_[0-9]{{6}}(_[0-9]+)?)$"
_CHANNEL = r"^[a-z][a-z0-9_\-]{0,63}$"
_SHOWN = rf"^({_VERSION[1:-1]}|[a-z][a-z0-9_\-]{{0,63}}(~[0-9]{{1,4}})?)$"
_MINIMUM = r"^[A-Za-z0-9_.]{1,64}=-?[0-9]{1,15}(\.[0-9]{1,15})?$"
_MOMENT = (
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}(T[0-9]{2}:[0-9]{2}(:[0-9]{2}(\.[0-9]{1,6})?)?(Z|[+\-][0-9]{2}:[0-9]{2})?)?$"
)
_STATUS = "^(registered|validated|archived|failed|deleted)$"
_REASON = r"^[^\x00-\x1f]*[^\x00-\x20][^\x00-\x1f]*$"

#: The patterns in words, for whoever sent what doesn't match.
MEANING = {
    _NAME: "a model's name: up to 64 of a-z 0-9 _ . -, a letter or digit first",
    _VERSION: "a version: 1.2.3, or a UTC timestamp 20260115_093000",
    _CHANNEL: "a channel: up to 64 of a-z 0-9 _ -, a letter first",
    _SHOWN: "a version (1.2.3, 20260115_093000) or a channel (production, production~1)",
    _MINIMUM: "METRIC=NUMBER",
    _MOMENT: "a date or a time: 2026-01-15, 2026-01-15T09:30:00Z",
    _STATUS: "registered, validated, archived, failed or deleted",
    _REASON: "a reason: one line that isn't blank",
}

ModelName = Annotated[str, Path(pattern=_NAME, description="The model's name.")]
VersionName = Annotated[
    str, Path(pattern=_VERSION, max_length=128, description="A semantic version, or a UTC timestamp.")
]
#: A version, or a channel and how many holders back.
Shown = Annotated[str, StringConstraints(pattern=_SHOWN)]
Minimum = Annotated[str, StringConstraints(pattern=_MINIMUM)]
Status = Annotated[str, StringConstraints(pattern=_STATUS)]
Moment = Annotated[
    str,
    Query(
        pattern=_MOMENT,
        description="A date (its end) or a time, in UTC where no offset is given.",
        examples=["2026-01-15"],
    ),
]
Channel = Annotated[str, Query(pattern=_CHANNEL, description="A channel.")]
Limit = Annotated[int, Query(ge=1, le=500, description="At most so many.")]


class _Out(BaseModel):
    model_config = ConfigDict(protected_namespaces=())


class Gate(_Out):
    """A promotion gate, and what the version has to show for it."""

    gate: str
    rule: str
    value: float | None
    passed: bool


#: RFC 9457. `code` is stable, `detail` is for people; `gates` and `errors` where there are any.
PROBLEM: dict[str, Any] = {
    "title": "Problem",
    "type": "object",
    "required": ["type", "title", "status", "detail", "code"],
    "properties": {
        "type": {"type": "string"},
        "title": {"type": "string"},
        "status": {"type": "integer"},
        "detail": {"type": "string"},
        "code": {"type": "string"},
        "gates": {"type": "array", "items": {"type": "object"}},
        "errors": {"type": "array", "items": {"type": "object"}},
    },
}


class Version(_Out):
    """A version: its state from the log, its sealed facts in `metadata`."""

    ref: str
    name: str
    version: str
    digest: str
    status: str
    stage: str
    channels: list[str]
    tags: list[str]
    approvals: list[str]
    exports: list[str]
    seq: int
    at: str
    actor: str
    reason: str | None
    metadata: dict[str, Any] | None
    problem: str | None = None


class Versions(_Out):
    """A page. `next`: give it as `after` for the page behind it."""

    versions: list[Version]
    next: str | None


class Model(_Out):
    """A model at a glance. `seq`: its log's last record, which is the ETag too."""

    name: str
    seq: int
    versions: int
    channels: dict[str, str]
    read_only: str | None


class Models(_Out):
    models: list[Model]


class ChannelChange(_Out):
    channel: str
    from_version: str | None
    to_version: str | None


class Entry(_Out):
    """One record of the audit trail."""

    name: str
    seq: int
    at: str
    actor: str
    reason: str | None
    ops: list[dict[str, Any]]
    changes: list[ChannelChange]


class Holding(_Out):
    """What a channel held at a moment."""

    name: str
    channel: str
    version: str
    digest: str
    seq: int
    at: str
    actor: str
    reason: str | None


class History(_Out):
    """Newest first. `next`: give it as `before` for the page behind it."""

    entries: list[Entry]
    next: int | None


class Held(_Out):
    held: list[Holding]


class MetricComparison(_Out):
    metric: str
    better: str | None
    values: dict[str, float | None]
    winner: str | None
    difference: float | None


class Comparison(_Out):
    metrics: list[MetricComparison]


class Relative(_Out):
    ref: str
    parent: str | None
    distance: int


class Lineage(_Out):
    ref: str
    ancestors: list[Relative]
    descendants: list[Relative]


class Check(_Out):
    name: str
    detail: str


class Validation(_Out):
    """A version that passed; one that doesn't is a problem with the code `integrity` or `load`."""

    name: str
    version: str
    digest: str
    golden_rows: int
    checks: list[Check]


class Commit(_Out):
    """A durable decision; `changed` false: the channel held the version already, and nothing was written."""

    name: str
    seq: int
    at: str
    channel: str | None
    from_version: str | None
    to_version: str | None
    digest: str | None
    overridden: list[str]
    changed: bool


class Reloaded(BaseModel):
    """What came of a reload."""

    model_config = ConfigDict(extra="allow", protected_namespaces=())

    reloaded: bool
    version: str | None = None


_Reason = Annotated[str, Field(min_length=1, max_length=2000, pattern=_REASON)]


class _In(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)

    reason: _Reason = Field(description="Why; it goes into the log.")
    dry_run: bool = False


class Promote(_In):
    """Point a channel at the version."""

    to: str = Field("production", pattern=_CHANNEL)
    override_gates: bool = Field(False, description="Promote though gates aren't passed; the log says which.")
    allow_schema_change: bool = Field(False, description="Other features than before are meant.")


class Rollback(_In):
    """Point a channel back; where `to` is left out, at the previous distinct version."""

    to: str | None = Field(None, pattern=_VERSION, max_length=128)
    channel: str = Field("production", pattern=_CHANNEL)
    mark_failed: bool = Field(False, description="Mark the version that is left, so that it can't come back.")
