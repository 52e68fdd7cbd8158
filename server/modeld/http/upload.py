"""A version as it is uploaded: bytes to a temporary directory, then sealed by the registry as from the command line.

Two forms: the model's file alone as the body, with options in the query; or multipart/form-data, with options as
fields and files as parts: `model`, or one `output.NAME` each; `golden`, `scaler`, and the artefacts under their own
names. What a client calls a file only tells its format. Nothing here is ever a path or an address to fetch from.
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Any

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import QueryParams, UploadFile
from starlette.exceptions import HTTPException
from starlette.formparsers import MultiPartException
from starlette.requests import Request
from starlette.types import Message

from modeld.http.problems import ApiError
from modelreg import Registry, Version
from modelreg.arguments import span
from modelreg.bundle import ARTEFACTS, FORMATS
from modelreg.errors import RegistryError, UsageError

#: Options that may be given, all as text. `tag` may be repeated.
OPTIONS = frozenset(
    {
        "version",
        "features",
        "metrics",
        "meta",
        "data_range",
        "tag",
        "parent",
        "notes",
        "reason",
        "golden",
        "format",
    }
)
#: Formats of a body that is the model's file, and the suffixes that stand for them.
_RAW_SUFFIXES = {"lightgbm": ".txt", "onnx": ".onnx", "joblib": ".joblib"}
#: Parts of one form at most, and the longest field. Bytes.
_MAX_FILES, _MAX_FIELDS, _MAX_FIELD_BYTES = 32, 64, 1 << 20
#: What is collected before it is written. Bytes.
_CHUNK = 1 << 20


@dataclass(slots=True)
class Upload:
    """What came. `fingerprint`: of the body and the options, the same for the same upload."""

    options: dict[str, list[str]]
    fingerprint: str = ""
    models: dict[str, Path] = field(default_factory=dict)
    golden: Path | None = None
    scaler: Path | None = None
    artefacts: list[Path] = field(default_factory=list)


async def receive(request: Request, directory: Path, limit: int) -> Upload:
    """Write what comes into `directory`.

    Raises:
        ApiError: 413, more than `limit` bytes; 400, a part or an option that isn't known.
    """
    said = request.headers.get("content-length", "")
    if said.isdigit() and int(said) > limit:
        raise _too_large(limit)
    if request.headers.get("content-encoding", "identity").lower() != "identity":
        raise ApiError(415, "usage", "an upload comes without Content-Encoding")
    digest = hashlib.sha256()
    size = 0

    async def counted() -> Message:
        nonlocal size
        message = await request.receive()
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > limit:
            raise _too_large(limit)
        digest.update(chunk)
        return message

    source = Request(request.scope, counted)
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() == "multipart/form-data":
        upload = await _form(source, directory)
    else:
        upload = await _raw(source, directory, request.query_params)
    if unknown := upload.options.keys() - OPTIONS:
        raise ApiError(400, "usage", f"no option {min(unknown)!r}; there is {', '.join(sorted(OPTIONS))}")
    digest.update(str(sorted(upload.options.items())).encode())
    upload.fingerprint = digest.hexdigest()
    return upload


async def _raw(source: Request, directory: Path, query: QueryParams) -> Upload:
    upload = Upload({name: query.getlist(name) for name in query})
    kind = (upload.options.get("format") or ["lightgbm"])[0]
    if kind not in _RAW_SUFFIXES:
        raise ApiError(400, "usage", f"format {kind!r}: there is {', '.join(_RAW_SUFFIXES)}")
    path = directory / f"model{_RAW_SUFFIXES[kind]}"
    with path.open("xb") as file:
        held: list[bytes] = []
        async for chunk in source.stream():
            held.append(chunk)
            if sum(map(len, held)) >= _CHUNK:
                await run_in_threadpool(file.writelines, held)
                held = []
        await run_in_threadpool(file.writelines, held)
    if not path.stat().st_size:
        raise ApiError(400, "usage", "the body is empty: send the model's file, or multipart/form-data")
    upload.models[""] = path
    return upload


async def _form(source: Request, directory: Path) -> Upload:
    upload = Upload({})
    try:
        # Parts larger than a megabyte go to a temporary file as they come.
        form = await source.form(max_files=_MAX_FILES, max_fields=_MAX_FIELDS, max_part_size=_MAX_FIELD_BYTES)
    except (MultiPartException, HTTPException) as error:
        raise ApiError(400, "usage", f"the form can't be read: {_told(error)}") from None
    try:
        for name, value in form.multi_items():
            if isinstance(value, UploadFile):
                await run_in_threadpool(_take, upload, directory, name, value)
            elif name in OPTIONS:
                upload.options.setdefault(name, []).append(value)
            else:
                raise ApiError(
                    400, "usage", f"field {name!r} isn't an option; a file's part needs a filename"
                )
    finally:
        await form.close()
    return upload


def _told(error: MultiPartException | HTTPException) -> str:
    return error.message if isinstance(error, MultiPartException) else str(error.detail)


def _take(upload: Upload, directory: Path, name: str, part: UploadFile) -> None:
    suffix = PurePosixPath(part.filename or "").suffix.lower()
    if name in ARTEFACTS:
        path = directory / name
        upload.artefacts.append(path)
    elif name == "golden":
        path = upload.golden = directory / ("golden.npz" if suffix == ".npz" else "golden.csv")
    elif name == "scaler":
        path = upload.scaler = directory / "scaler.joblib"
    elif name == "model" or name.startswith("output."):
        output = name.removeprefix("model").removeprefix("output.")
        path = directory / f"model-{len(upload.models)}{suffix if suffix in FORMATS else '.txt'}"
        if output in upload.models:
            raise ApiError(400, "usage", f"part {name!r} comes twice")
        upload.models[output] = path
    else:
        raise ApiError(
            400, "usage",
            f"part {name!r}: there is model or output.NAME, golden, scaler, {', '.join(sorted(ARTEFACTS))}",
        )  # fmt: skip
    try:
        with path.open("xb") as file:
            shutil.copyfileobj(part.file, file, _CHUNK)
    except FileExistsError:
        raise ApiError(400, "usage", f"part {name!r} comes twice") from None


def register(registry: Registry, name: str, upload: Upload, actor: str, directory: Path) -> Version:
    """Seal what was uploaded. Raises as `Registry.register`; messages don't show where the bytes lay."""
    options = upload.options
    if not upload.models:
        raise ApiError(
            400, "usage", "no model came: a part named model, or one named output.NAME for each output"
        )
    if "" in upload.models and len(upload.models) > 1:
        raise ApiError(400, "usage", "either one part named model, or parts named output.NAME")
    golden: Any = upload.golden
    match _one(options, "golden"):
        case None | "auto":
            pass
        case "none" if golden is None:
            golden = False
        case told:
            raise ApiError(
                400, "usage", f"golden {told!r}: auto, or none (nothing is loaded), or a part with rows"
            )
    ranged = _one(options, "data_range")
    features = _one(options, "features")
    try:
        return registry.register(
            name,
            upload.models.get("", upload.models),
            version=_one(options, "version"),
            features=None if features is None else [each.strip() for each in features.split(",")],
            metrics=_object(options, "metrics"),
            golden=golden,
            data_range=None if ranged is None else span(ranged),
            tags=options.get("tag", ()),
            parent=_one(options, "parent"),
            notes=_one(options, "notes"),
            meta=_object(options, "meta"),
            artefacts=upload.artefacts,
            scaler=upload.scaler,
            actor=actor,
            reason=_one(options, "reason"),
        )
    except RegistryError as error:
        error.message = error.message.replace(f"{directory}/", "")
        raise


def _one(options: Mapping[str, list[str]], name: str) -> str | None:
    values = options.get(name, [])
    if len(values) > 1:
        raise UsageError(f"option {name!r} is given {len(values)} times")
    return values[0] if values else None


def _object(options: Mapping[str, list[str]], name: str) -> dict[str, Any] | None:
    text = _one(options, name)
    if text is None:
        return None
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise UsageError(f"{name}: not a JSON object: {error}") from None


def _too_large(limit: int) -> ApiError:
    return ApiError(413, "TOO_LARGE", f"an upload has at most {limit} bytes (http.max_upload_mb)")
