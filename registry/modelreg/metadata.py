"""``metadata.json``: what a version is. Immutable facts, sealed with the files; unknown fields are kept."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from modelreg.errors import IntegrityError

#: The file's name.
METADATA_FILE = "metadata.json"

#: The largest metadata.json that is read, in bytes.
MAX_METADATA_BYTES = 64 << 20


class FileInfo(msgspec.Struct, frozen=True, omit_defaults=True):
    """One sealed file: its role (estimator, golden, artefact), the output it computes, its size in bytes."""

    role: str
    size_bytes: int = 0
    output: str | None = None


class DataRange(msgspec.Struct, frozen=True):
    """The span of the training data, as dates or moments in ISO 8601."""

    start: str | None = None
    end: str | None = None


class Metadata(msgspec.Struct, frozen=True, kw_only=True):
    """The fields of REGISTRY.md; ``extra`` holds all others as they came."""

    format: str
    name: str
    version: str
    model_type: str | None = None
    task_type: str | None = None
    created_at: str | None = None
    trained_at: str | None = None
    data_range: DataRange | None = None
    dataset_version_ids: list[str] = []
    snapshot_id: str | None = None
    features: list[str] = []
    schema: str | None = None
    outputs: list[str] = []
    horizons: list[str] = []
    parameters: dict[str, Any] = {}
    config: Any = None
    config_hash: str | None = None
    metrics: dict[str, Any] = {}
    env: dict[str, Any] = {}
    parent: str | None = None
    training_run_id: str | None = None
    size_bytes: int | None = None
    memory_bytes: int | None = None
    exports: list[Any] = []
    tags: list[str] = []
    notes: str | None = None
    min_samples: int | None = None
    calibration_ok: bool | None = None
    files: dict[str, FileInfo] = {}
    extra: dict[str, Any] = {}


#: The names of the fields that Metadata knows.
KNOWN_FIELDS = frozenset(Metadata.__struct_fields__) - {"extra"}


def from_dict(raw: dict[str, Any]) -> Metadata:
    """Build metadata from plain values; unknown fields go to ``extra``.

    Raises:
        msgspec.ValidationError: a known field has the wrong type.
    """
    known = {key: value for key, value in raw.items() if key in KNOWN_FIELDS}
    extra = {key: value for key, value in raw.items() if key not in KNOWN_FIELDS}
    return msgspec.convert({**known, "extra": extra}, Metadata)


def to_dict(metadata: Metadata) -> dict[str, Any]:
    """The plain values of metadata, ``extra`` fields beside the known ones."""
    plain: dict[str, Any] = msgspec.to_builtins(metadata)
    extra = plain.pop("extra")
    return {**plain, **extra}


def plain(value: Any) -> Any:
    """A trainer's values as JSON has them: numpy's numbers and arrays, moments, tuples. What else there is stays."""
    if isinstance(value, Mapping):
        return {key: plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if isinstance(value, dt.date):
        return value.isoformat()
    # Known by what they can do: the registry runs without numpy.
    return plain(value.tolist()) if hasattr(value, "tolist") and hasattr(value, "dtype") else value


def encode(metadata: Metadata) -> bytes:
    """The bytes of metadata.json."""
    return json.dumps(to_dict(metadata), indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n"


def decode(data: bytes, *, where: str) -> Metadata:
    """Read metadata.json.

    Raises:
        IntegrityError: it isn't JSON, or a known field has the wrong type.
    """
    try:
        return from_dict(msgspec.json.decode(data, type=dict[str, Any]))
    except (ValueError, RecursionError) as error:
        raise IntegrityError(f"{where}: not a metadata.json: {error}") from error


def schema_fingerprint(features: Sequence[str]) -> str:
    """``sha256:`` of the ordered feature names, joined by newlines."""
    return "sha256:" + hashlib.sha256("\n".join(features).encode()).hexdigest()


def compute_config_hash(config: Any) -> str:
    """The ``config_hash`` that ``register`` seals for ``meta={"config": config}``; find versions by it."""
    return config_hash(config)


def config_hash(config: Any) -> str:
    """SHA-256 (hexadecimal) of the configuration's sorted-key JSON: the order of keys doesn't matter."""
    return hashlib.sha256(json.dumps(plain(config), sort_keys=True).encode()).hexdigest()
