"""Adopting what other tools left: finds versions in a directory, changes nothing there.

Three layouts: ``<YYYYMMDD_HHMMSS>/model.*`` with ``production/latest``; a JSON file that lists pickles and scalers
beside it; ``artifacts/<type>/<version>/model.*``. Facts come from ``metadata.json`` (``metrics.json``) or the JSON
file's entries.
"""

from __future__ import annotations

import datetime as dt
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modelreg.bundle import ARTEFACTS, FORMATS, OWN_FIELDS
from modelreg.disk import DISK, Disk
from modelreg.errors import IntegrityError, NotFoundError, StoreUnavailableError, UsageError
from modelreg.names import is_version

_MAX_JSON_BYTES = 64 << 20
_SCALERS = ("scaler.joblib", "scaler.pkl", "scaler.pickle")
_RENAMED = {
    "training_date": "trained_at",
    "train_date": "trained_at",
    "validation_metrics": "metrics",
    "performance": "metrics",
    "features_used": "features",
    "feature_names": "features",
    "factor_list": "features",
    "hyperparameters": "parameters",
    "parent_model_id": "derived_from",
    "parent": "derived_from",
}


@dataclass(frozen=True, slots=True)
class Found:
    """A version of another tool. ``version`` is None where its own can't be one of ours; ``status``: theirs."""

    name: str
    version: str | None
    model: Path
    scaler: Path | None
    artefacts: tuple[Path, ...]
    features: tuple[str, ...] | None
    facts: Mapping[str, Any]
    status: str | None


def discover(directory: Path, name: str | None, disk: Disk = DISK) -> list[Found]:
    """The versions in a directory, oldest first; ``name`` is for layouts that have no names of their own.

    Raises:
        NotFoundError: no such directory, or nothing in it is of a known layout. UsageError: facts can't be read.
        StoreUnavailableError: a directory can't be listed.
    """
    try:
        return _discover(directory, name, disk)
    except OSError as error:
        if isinstance(error, StoreUnavailableError):
            raise
        raise StoreUnavailableError(f"{directory}: can't be read: {error.strerror or error}") from error


def _discover(directory: Path, name: str | None, disk: Disk) -> list[Found]:
    if not directory.is_dir():
        raise NotFoundError(f"{directory}: no such directory")
    base = directory / "artifacts" if (directory / "artifacts").is_dir() else directory
    base = base / "models" if (base / "models").is_dir() else base
    own = clean_name(name or (base.parent.name if base.name == "models" else base.name))
    found = list(_by_time(base, own, disk))
    if not found:
        found = [
            f
            for listing in _listed(directory, disk)
            if listing.suffix == ".json"
            for f in _by_listing(listing, name, disk)
        ]
    if not found:
        found = list(_by_type(base, disk))
    if not found:
        raise NotFoundError(
            f"{directory}: none of the known layouts: <YYYYMMDD_HHMMSS>/model.*, a JSON file with model paths, or "
            "artifacts/<type>/<version>/model.*"
        )
    return found


def clean_name(text: str) -> str:
    """A model's name out of any text."""
    return re.sub(r"[^a-z0-9_.-]+", "-", text.lower()).strip("-._")[:64] or "imported"


def _by_time(base: Path, name: str, disk: Disk) -> Iterator[Found]:
    latest = base / "production" / "latest"
    current = latest.resolve().name if latest.is_symlink() else None
    for directory in [path for path in _listed(base, disk) if path.is_dir()]:
        if re.fullmatch(r"\d{8}_\d{6}", directory.name) and (model := _model(directory, disk)):
            facts = _facts_beside(directory, disk)
            status = "production" if directory.name == current else facts.get("deployment_status")
            yield _found(name, directory.name, model, directory, facts, status, disk)


def _by_type(base: Path, disk: Disk) -> Iterator[Found]:
    for kind in [path for path in _listed(base, disk) if path.is_dir()]:
        versions = [path for path in _listed(kind, disk) if path.is_dir() and _model(path, disk)]
        for directory in sorted(versions, key=lambda path: _order(path.name)):
            model = _model(directory, disk)
            if model is not None:
                facts = _facts_beside(directory, disk)
                yield _found(
                    clean_name(kind.name), directory.name, model, directory, facts, facts.get("status"), disk
                )


def _by_listing(listing: Path, name: str | None, disk: Disk) -> Iterator[Found]:
    told = _facts(listing, disk)
    entries: Any = told.get("models", told)
    pairs = list(entries.items()) if isinstance(entries, dict) else list(enumerate(entries))
    for key, entry in pairs:
        if not isinstance(entry, dict):
            continue
        model = _named(listing.parent, entry, ("model_path", "model_file", "path", "file", "model"))
        if model is None or model.suffix not in FORMATS:
            continue
        scaler = _named(listing.parent, entry, ("scaler_path", "scaler_file", "scaler"))
        words = [entry.get("model_type"), entry.get("currency_pair") or entry.get("pair")]
        own = name or "-".join(str(word) for word in words if word) or str(entry.get("name") or key)
        facts = {**entry, "imported_id": str(key)}
        version = str(entry.get("version") or "")
        found = _found(clean_name(own), version, model, None, facts, entry.get("status"), disk)
        yield Found(found.name, found.version, model, scaler, (), found.features, found.facts, found.status)


def _found(
    name: str,
    version: str,
    model: Path,
    directory: Path | None,
    facts: Mapping[str, Any],
    status: Any,
    disk: Disk,
) -> Found:
    given = {_RENAMED.get(key, key): value for key, value in facts.items()}
    features = given.pop("features", None)
    if version and not is_version(version):
        given["imported_version"] = version
    version = version if is_version(version) else _moment(given.get("trained_at")) or ""
    for key in (*OWN_FIELDS, "tags"):
        if key in given:
            given[f"imported_{key}"] = given.pop(key)
    scaler: Path | None = None
    artefacts: tuple[Path, ...] = ()
    if directory is not None:
        scaler = next((directory / s for s in _SCALERS if (directory / s).is_file()), None)
        artefacts = tuple(path for path in _listed(directory, disk) if path.name in ARTEFACTS)
    names = tuple(map(str, features)) if isinstance(features, list) else None
    return Found(name, version or None, model, scaler, artefacts, names, given, status and str(status))


def _model(directory: Path, disk: Disk) -> Path | None:
    for path in _listed(directory, disk):
        if path.name.startswith("model.") and path.suffix in FORMATS and path.is_file():
            return path
    return None


def _named(base: Path, entry: Mapping[str, Any], keys: tuple[str, ...]) -> Path | None:
    """A file that an entry names: where it says, or beside the listing, as such directories get moved."""
    for key in keys:
        if isinstance(entry.get(key), str):
            told = Path(entry[key])
            for path in (base / told, base / told.name, base / "models" / told.name):
                if path.is_file():
                    return path
    return None


def _listed(directory: Path, disk: Disk) -> list[Path]:
    return [directory / name for name in disk.listdir(directory)]


def _facts_beside(directory: Path, disk: Disk) -> dict[str, Any]:
    """What a version's directory says of it; metrics may have a file of their own."""
    facts = _facts(directory / "metadata.json", disk)
    if not facts.keys() & {"metrics", "validation_metrics", "performance"}:
        facts["metrics"] = _numbers(_facts(directory / "metrics.json", disk))
    return facts


def _numbers(told: dict[str, Any]) -> dict[str, Any]:
    """Numbers alone, however deep; tools write names and moments beside them."""
    nested = {key: _numbers(value) if isinstance(value, dict) else value for key, value in told.items()}
    return {
        key: value
        for key, value in nested.items()
        if isinstance(value, dict | float | int) and not isinstance(value, bool)
    }


def _facts(path: Path, disk: Disk) -> dict[str, Any]:
    try:
        told = json.loads(disk.read(path.resolve(), max_bytes=_MAX_JSON_BYTES))
    except FileNotFoundError:
        return {}
    except IntegrityError as error:
        raise UsageError(str(error)) from error
    except (OSError, ValueError, RecursionError) as error:
        raise UsageError(f"{path}: can't be read as JSON: {error}") from error
    return told if isinstance(told, dict) else {"models": told}


def _moment(text: Any) -> str | None:
    try:
        moment = dt.datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return (moment.astimezone(dt.UTC) if moment.tzinfo else moment).strftime("%Y%m%d_%H%M%S")


def _order(version: str) -> tuple[Any, ...]:
    return tuple(
        (0, int(part), "") if part.isdigit() else (1, 0, part) for part in re.split(r"[._-]", version)
    )
