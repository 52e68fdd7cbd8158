"""The source `path`: a symlink, file or directory that somebody else's tool re-points or rewrites.

What it leads to is identified by its resolved path and its content. A sealed version directory is taken as it is; a
LightGBM text file, or a directory with one, is copied and sealed below the state directory first: so what is tried is
what was read, whatever is written over it meanwhile. A file caught half-written fails its trial, and the whole file
that follows is another digest.

A rollback re-points the symlink, where the pointer is one and may be written; else it says so, and the daemon goes on
serving what it served.
"""

from __future__ import annotations

import dataclasses
import os
import re
import shutil
import stat
from pathlib import Path

from modeld.config import Source
from modeld.swap.policy import Pointer
from modeld.watch.kept import write_copy
from modeld.watch.messages import Write, Written
from modeld.watch.source import Seen
from modelreg.disk import DISK
from modelreg.errors import ConflictError, IntegrityError, NotFoundError, StoreUnavailableError, UsageError
from modelreg.lgbtext import parse_header
from modelreg.metadata import METADATA_FILE, FileInfo, Metadata, encode, schema_fingerprint
from modelreg.sealed import CHECKSUM_FILE, checksum_bytes, digest_of, read_metadata

#: A model file is never larger. Bytes.
_MAX_BYTES = 1 << 30
#: Copies that are kept of what was seen last.
_KEEP = 4

Identity = tuple[tuple[str, int, int, int, int], ...]


class PathSource:
    """One pointer. Used by one thread of the watcher."""

    def __init__(self, settings: Source, state_dir: str) -> None:
        self._root = Path(os.path.abspath(settings.root))
        self._name = settings.models[0] if settings.models else None
        self._adopted = Path(state_dir) / "adopted"
        self._identity: Identity | None = None
        self._pointer: Pointer | None = None
        #: Version → what the symlink said when it led there: the way back.
        self._targets: dict[str, str] = {}
        self._previous: list[str] = []
        #: Versions that were rolled back from as failed: none of them is a way back.
        self._failed: set[str] = set()

    def look(self) -> Seen:
        """Raises RegistryError or OSError where the pointer leads nowhere."""
        try:
            resolved = self._root.resolve(strict=True)
        except (OSError, RuntimeError) as e:
            raise NotFoundError(f"{self._root}: leads nowhere: {e}") from e
        identity = _identity(resolved)
        if identity != self._identity or self._pointer is None:
            found = self._read(resolved)
            if self._pointer is None or found.digest != self._pointer.digest:
                revision = self._pointer.revision + 1 if self._pointer is not None else 1
                held_before = found.version in self._previous
                self._pointer = dataclasses.replace(found, revision=revision, held_before=held_before)
                self._remember(found.version)
            self._identity = identity
        return Seen([self._pointer])

    def write(self, request: Write) -> Written:
        """Re-point the symlink. Raises RegistryError or OSError."""
        self.look()
        assert self._pointer is not None
        if self._pointer.version != request.expect:
            raise ConflictError(f"{self._root} leads to {self._pointer.version}, not to {request.expect}")
        if request.mark_failed:
            self._failed.add(request.expect)
        if not self._root.is_symlink():
            raise StoreUnavailableError(f"{self._root} is no symlink: it can't be pointed back")
        usable = [v for v in reversed(self._previous) if v != request.expect and v not in self._failed]
        to = request.to or next(iter(usable), None)
        target = self._targets.get(to) if to is not None else None
        if to is None or target is None:
            raise NotFoundError(f"{self._root}: no way back to {to or 'an earlier version'} is known")
        DISK.symlink_replace(target, self._root)
        DISK.fsync_dir(self._root.parent)
        return Written(request.token, request.model, from_version=request.expect, to_version=to)

    def directories(self) -> list[Path]:
        """Every directory on the way: a symlink swapped by rename shows in its parent."""
        found = [self._root.parent]
        hop = self._root
        for _ in range(40):
            if not hop.is_symlink():
                break
            hop = Path(os.path.normpath(hop.parent / os.readlink(hop)))
            found.append(hop.parent)
        resolved = Path(os.path.realpath(self._root))
        found.append(resolved if resolved.is_dir() else resolved.parent)
        return list(dict.fromkeys(found))

    def lease(self, versions: list[tuple[str, str]]) -> None:
        """Nothing: whoever cleans up behind this pointer knows of no leases."""

    def close(self) -> None:
        """Nothing was leased."""

    def _remember(self, version: str) -> None:
        if self._root.is_symlink():
            self._targets[version] = os.readlink(self._root)
        self._previous = [*(v for v in self._previous if v != version), version][-_KEEP:]

    def _read(self, resolved: Path) -> Pointer:
        if resolved.is_dir() and (resolved / CHECKSUM_FILE).exists():
            checksum = DISK.read(resolved / CHECKSUM_FILE, max_bytes=1 << 20)
            metadata = read_metadata(resolved, expect_digest=digest_of(checksum))
            name = self._name or metadata.name
            return Pointer(name, metadata.version, digest_of(checksum), 0, str(resolved))
        model = _model_file(resolved)
        data = DISK.read(model, max_bytes=_MAX_BYTES)
        return self._adopt(model, resolved, data)

    def _adopt(self, model: Path, resolved: Path, data: bytes) -> Pointer:
        """Seal a copy of a bare model file."""
        name = self._name or _clean(self._root.stem)
        label = _clean(resolved.name if resolved.is_dir() else resolved.stem)
        features = list(parse_header(data, where=str(model)).features)
        metadata = Metadata(
            format="lightgbm-text",
            name=name,
            version=label,
            features=features,
            schema=schema_fingerprint(features),
            outputs=["predictions"],
            size_bytes=len(data),
            files={"model.txt": FileInfo("estimator", len(data), "predictions")},
        )
        files = {"model.txt": data, METADATA_FILE: encode(metadata)}
        checksum = checksum_bytes(files)
        digest = digest_of(checksum)
        directory = self._adopted / digest.removeprefix("sha256:")
        if not directory.exists():
            write_copy({**files, CHECKSUM_FILE: checksum}, directory)
            old = sorted(
                (p for p in self._adopted.iterdir() if p != directory), key=lambda p: p.stat().st_mtime
            )
            for one in old[: -_KEEP + 1]:
                shutil.rmtree(one, ignore_errors=True)
        # Two contents behind one file name are two versions.
        return Pointer(name, f"{label}+{digest[7:15]}", digest, 0, str(directory))


def _model_file(resolved: Path) -> Path:
    if resolved.is_dir():
        named = resolved / "model.txt"
        found = [named] if named.exists() else sorted(resolved.glob("*.txt"))
        if len(found) != 1:
            raise UsageError(
                f"{resolved}: neither a sealed version nor a directory with one LightGBM text file"
            )
        return Path(os.path.realpath(found[0]))
    if not stat.S_ISREG(resolved.stat().st_mode):
        raise IntegrityError(f"{resolved}: not a regular file")
    return resolved


def _identity(resolved: Path) -> Identity:
    """What changes when the content may have: path, inode, size and time of each file."""
    entries = sorted(resolved.iterdir()) if resolved.is_dir() else []
    found = []
    for path in [resolved, *entries]:
        status = path.stat()
        found.append((str(path), status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns))
    return tuple(found)


def _clean(text: str) -> str:
    return re.sub(r"[^a-z0-9_.-]", "-", text.lower()).strip(".-_")[:40] or "model"
