"""What a trainer hands in, checked and turned into the files and facts of a version.

Nothing is loaded here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from modelreg import metadata as facts
from modelreg.disk import Disk
from modelreg.errors import LoadError, NotFoundError, UsageError
from modelreg.lgbtext import Header, parse_header
from modelreg.metadata import FileInfo, Metadata
from modelreg.metrics import problem_with
from modelreg.names import check_output

#: The format of LightGBM's text files.
LIGHTGBM_TEXT = "lightgbm-text"

#: The format of files that joblib or pickle wrote: code.
JOBLIB = "joblib"

#: The format of ONNX files.
ONNX = "onnx"

#: The output of a version with one estimator.
SINGLE_OUTPUT = "predictions"

#: Files that are sealed beside the estimators under these names.
ARTEFACTS = frozenset(
    {"feature_importance.csv", "validation_predictions.csv", "test_predictions.csv", "MODEL_CARD.md"}
)

#: Facts that the registry establishes itself.
OWN_FIELDS = frozenset(
    {"format", "name", "version", "created_at", "schema", "outputs", "config_hash", "env", "files"}
    | {"size_bytes", "memory_bytes"}
)

#: A model's file suffix → its format.
FORMATS = {
    **dict.fromkeys((".txt", ".lgb", ".lightgbm", ".model"), LIGHTGBM_TEXT),
    **dict.fromkeys((".joblib", ".pkl", ".pickle"), JOBLIB),
    ".onnx": ONNX,
}

#: The suffix that a format's files are sealed with.
SEALED_SUFFIXES = {LIGHTGBM_TEXT: ".txt", JOBLIB: ".joblib", ONNX: ".onnx"}

#: The scaler's file within a version.
SCALER_FILE = "scaler.joblib"

_MOMENT = re.compile(r"\d{4}-\d{2}-\d{2}([T ]\d{2}:\d{2}(:\d{2}(\.\d+)?)?(Z|[+-]\d{2}:?\d{2})?)?")


@dataclass(frozen=True, slots=True)
class Bundle:
    """``estimators``: output → file name.

    ``headers``: output → what the file says of itself, where it could be read.
    """

    format: str
    files: Mapping[str, bytes]
    estimators: Mapping[str, str]
    headers: Mapping[str, Header]
    problem: LoadError | None
    features: tuple[str, ...]


def read_bundle(
    files: Mapping[str, Path] | Path,
    artefacts: Sequence[Path],
    features: Sequence[str] | None,
    *,
    scaler: Path | None = None,
    allow_joblib: bool = False,
    needs_features: bool = True,
    max_bytes: int,
    disk: Disk,
) -> Bundle:
    """Read the trainer's files, each once.

    ``problem`` says why an estimator's text can't be understood; it is up to the caller whether that matters.

    Raises:
        NotFoundError: a file isn't there.
        UsageError: a format or a name isn't known, or the estimators have different features.
    """
    if not files:
        raise UsageError("no model file given")
    named = {o: Path(path) for o, path in files.items()} if isinstance(files, Mapping) else Path(files)
    format = _format([named] if isinstance(named, Path) else list(named.values()))
    suffix = SEALED_SUFFIXES[format]
    if isinstance(named, Path):
        estimators, sources = {SINGLE_OUTPUT: f"model{suffix}"}, {f"model{suffix}": named}
    else:
        estimators = {check_output(output): f"{output}{suffix}" for output in named}
        sources = {estimators[output]: path for output, path in named.items()}
    if scaler is not None:
        if SCALER_FILE in sources:
            raise UsageError("an output can't be called 'scaler' where there is a scaler")
        sources[SCALER_FILE] = scaler
    if (format == JOBLIB or scaler is not None) and not allow_joblib:
        raise UsageError(
            f"{scaler or next(iter(sources.values()))}: a joblib file is code that runs wherever it is loaded; if you "
            "trust where it comes from, allow it with --allow-joblib (or allow_joblib in the configuration)"
        )
    for path in artefacts:
        if path.name not in ARTEFACTS or path.name in sources:
            raise UsageError(
                f"{path}: not a file that a version can have; known: {', '.join(sorted(ARTEFACTS))}"
            )
        sources[path.name] = path
    contents = {name: read_input(path, max_bytes=max_bytes, disk=disk) for name, path in sources.items()}
    if sum(map(len, contents.values())) > max_bytes:
        raise UsageError(f"the files are larger than {max_bytes} bytes together; see limits.version_bytes")
    headers: dict[str, Header] = {}
    problem = None
    for output, file in estimators.items() if format == LIGHTGBM_TEXT else ():
        try:
            headers[output] = parse_header(contents[file], where=str(sources[file]))
        except LoadError as error:
            problem = problem or error
    found = _features(features, headers)
    if needs_features and format != LIGHTGBM_TEXT and not found:
        raise UsageError(
            f"{format} files don't tell their features without being loaded; name them: --features"
        )
    return Bundle(format, contents, estimators, headers, problem, found)


def read_input(path: Path, *, max_bytes: int, disk: Disk) -> bytes:
    """Read one of the trainer's files.

    Raises:
        NotFoundError: it isn't there or can't be read.
    """
    try:
        return disk.read(path.resolve(), max_bytes=max_bytes)
    except OSError as error:
        raise NotFoundError(f"{path}: can't be read: {error.strerror or error}") from error


def build_metadata(
    bundle: Bundle,
    given: Mapping[str, Any],
    *,
    name: str,
    version: str,
    created_at: str,
    env: Mapping[str, Any],
) -> Metadata:
    """The facts of a version, from what the trainer says and what the registry establishes.

    Raises:
        UsageError: a field has the wrong type, or is one of the registry's own.
    """
    given = facts.plain(given)
    for field in given:
        if field in OWN_FIELDS:
            raise UsageError(f"metadata field {field!r}: the registry establishes it itself; leave it out")
    if problem := problem_with(given.get("metrics", {})):
        raise UsageError(problem)
    by_file = {file: output for output, file in bundle.estimators.items()}
    own = {
        "format": bundle.format,
        "name": name,
        "version": version,
        "created_at": created_at,
        "features": list(bundle.features),
        "schema": facts.schema_fingerprint(bundle.features) if bundle.features else None,
        "outputs": list(bundle.estimators),
        "env": dict(env),
        "size_bytes": sum(map(len, bundle.files.values())),
        "files": {
            file: msgspec.to_builtins(FileInfo(_role(file, by_file), len(data), by_file.get(file)))
            for file, data in bundle.files.items()
        },
    }
    if given.get("config") is not None:
        own["config_hash"] = facts.config_hash(given["config"])
    try:
        metadata = facts.from_dict({**given, **own})
        facts.encode(metadata)
    except (TypeError, ValueError, RecursionError) as error:
        raise UsageError(f"metadata: {error}") from error
    return metadata


def data_range(start: str | None, end: str | None) -> dict[str, str | None]:
    """Check the span of the training data.

    Raises:
        UsageError: an end isn't a date or a moment in ISO 8601, or the span runs backwards.
    """
    for moment in (start, end):
        if moment is not None and not _MOMENT.fullmatch(moment):
            raise UsageError(f"data range: {moment!r} isn't a date such as 2024-01-31")
    if start is not None and end is not None and len(start) == len(end) and start > end:
        raise UsageError(f"data range: {start} is after {end}")
    return {"start": start, "end": end}


def _format(paths: Sequence[Path]) -> str:
    found = {}
    for path in paths:
        if path.suffix not in FORMATS:
            raise UsageError(f"{path}: unknown model format; known: {', '.join(sorted(FORMATS))}")
        found[FORMATS[path.suffix]] = path
    if len(found) > 1:
        raise UsageError(f"the estimators have different formats ({', '.join(found)}); one is needed")
    return next(iter(found))


def _role(file: str, by_file: Mapping[str, str]) -> str:
    if file in by_file:
        return "estimator"
    return "scaler" if file == SCALER_FILE else "artefact"


def _features(given: Sequence[str] | None, headers: Mapping[str, Header]) -> tuple[str, ...]:
    lists = {output: header.features for output, header in headers.items()}
    first = next(iter(lists.values()), None)
    for output, found in lists.items():
        if found != first:
            raise UsageError(
                f"the estimator of {output!r} has other features than the first one; one list is needed"
            )
    if given is None:
        return first or ()
    features = tuple(given)
    if any(not feature or "\n" in feature for feature in features):
        raise UsageError("features: a name is empty or has a line break")
    if len(set(features)) != len(features):
        raise UsageError("features: a name is there twice")
    if first is not None and len(first) != len(features):
        raise UsageError(f"{len(features)} features given, but the model has {len(first)}")
    if first is not None and features != first and set(features) == set(first):
        raise UsageError(
            f"features: the model has these names in another order: {', '.join(first)}; rows would be read with "
            "their columns exchanged"
        )
    return features
