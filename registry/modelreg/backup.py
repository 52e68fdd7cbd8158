"""Backups that are consistent while others write, and their way back.

The logs are append-only and versions are sealed. So a backup takes each log up to a point first, and then the versions
that this log speaks of: whatever comes later isn't in it, whatever is in it is complete.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from modelreg import trash
from modelreg.archive import Progress, unpack_tar, write_tar
from modelreg.clock import utc_now
from modelreg.disk import DISK, Disk
from modelreg.errors import ConflictError, IntegrityError, NotFoundError, StoreUnavailableError
from modelreg.records import canonical_json, record_name
from modelreg.sealed import CHECKSUM_FILE, Sealed, checksum_bytes, read_export, read_sealed

if TYPE_CHECKING:
    from modelreg.core import Core
    from modelreg.state import Export, VersionState

log = logging.getLogger("modelreg")

#: The largest list of models that is read from a backup, in bytes.
MAX_TELLING_BYTES = 64 << 20

_TELLING_FILE = "backup.json"


def back_up(
    registry: Core, target: Path | None, progress: Progress, disk: Disk, *, dry_run: bool = False
) -> tuple[Path, int]:
    """Write a backup; returns where and how many files. Default: ``.registry/backups/<UTC second>.tar``.

    ``dry_run``: read and check everything, write nothing.

    Raises:
        ConflictError: the target exists. IntegrityError: a log is broken or a version's files aren't those sealed.
        StoreUnavailableError: something can't be read or written.
    """
    if target is None:
        directory = registry.root / ".registry" / "backups"
        try:
            if not dry_run:
                disk.make_dirs(directory)
        except OSError as error:
            raise StoreUnavailableError(f"{directory}: can't be made: {error.strerror or error}") from error
        target = directory / f"{utc_now():%Y%m%d_%H%M%S}.tar"
    elif target.is_dir():
        target = target / f"modelreg-{utc_now():%Y%m%d_%H%M%S}.tar"
    members = _members(registry, progress, disk)
    if not dry_run:
        return target, write_tar(target, members, disk)
    if disk.exists(target):
        raise ConflictError(f"{target} exists; choose another name")
    try:
        return target, sum(1 for _ in members)
    except OSError as error:
        if isinstance(error, StoreUnavailableError):
            raise
        raise StoreUnavailableError(f"{registry.root}: can't be read: {error.strerror or error}") from error


def _members(registry: Core, progress: Progress, disk: Disk) -> Iterator[tuple[str, Path | bytes]]:
    home = registry.root / ".registry"
    for own in ("registry.json", "registry.yaml"):
        if disk.exists(home / own):
            yield f".registry/{own}", home / own
    heads = {}
    for name, trouble in registry.survey().items():
        progress(name)
        if isinstance(trouble, PermissionError):
            # Somebody else's, by intent; any other trouble would make half a backup look whole.
            log.warning(
                "%s/%s: can't be read: %s; it isn't in the backup", registry.root, name, trouble.strerror
            )
            continue
        if trouble is not None:
            raise trouble
        state = registry.state(name)
        if state.broken:
            raise IntegrityError(
                f"model {name!r} is read-only: {state.broken}; mend it before you back it up"
            )
        heads[name] = {"seq": state.seq, "head": state.head}
        for seq in range(1, state.seq + 1):
            yield f"{name}/log/{record_name(seq)}", registry.root / name / "log" / record_name(seq)
        for found in state.versions.values():
            if found.status == "deleted":
                continue
            sealed = _read(registry, name, found, disk)
            for file, data in {**sealed.files, CHECKSUM_FILE: checksum_bytes(sealed.files)}.items():
                yield f"{name}/versions/{found.version}/{file}", data
            for export in found.exports:
                yield f"{name}/{export.file}", _read_export(registry, name, found, export, disk)
        signatures = registry.root / name / "signatures"
        for file in disk.listdir(signatures) if disk.exists(signatures) else ():
            if file.endswith(".sig"):
                yield f"{name}/signatures/{file}", signatures / file
    yield f".registry/{_TELLING_FILE}", canonical_json({"format": 1, "models": heads})


def _read(registry: Core, name: str, found: VersionState, disk: Disk) -> Sealed:
    """A version's files; deleted since the log was read, they are in the trash."""
    limit = registry.settings.limits.version_bytes
    try:
        directory = registry.version_dir(name, found.version)
        return read_sealed(directory, expect_digest=found.digest, max_bytes=limit, disk=disk)
    except NotFoundError:
        trashed = _trashed(registry, name, found, CHECKSUM_FILE, disk)
        if trashed is None:
            raise IntegrityError(
                f"{directory}: missing, though it is registered; see: modelreg doctor"
            ) from None
        return read_sealed(trashed, expect_digest=found.digest, max_bytes=limit, disk=disk)


def _read_export(registry: Core, name: str, found: VersionState, export: Export, disk: Disk) -> bytes:
    """What was added in another format; it goes to the trash with its version, as an entry of its own."""
    limit = registry.settings.limits.version_bytes
    try:
        return read_export(registry.root / name, export, max_bytes=limit, disk=disk)
    except IntegrityError:
        moved = replace(export, file=Path(export.file).name)
        trashed = _trashed(registry, name, found, moved.file, disk)
        if trashed is None:
            raise
        return read_export(trashed, moved, max_bytes=limit, disk=disk)


def _trashed(registry: Core, name: str, found: VersionState, file: str, disk: Disk) -> Path | None:
    """The directory with ``file`` among what the trash has of a version."""
    for entry in trash.entries(registry.root, disk):
        if (entry.name, entry.version) == (name, found.version) and disk.exists(entry.path / file):
            return entry.path
    return None


def restore(source: Path, root: Path, disk: Disk = DISK, *, dry_run: bool = False) -> int:
    """Unpack a backup into a root that isn't there yet, or has nothing in it; returns how many files.

    It is unpacked beside the root, checked, and renamed into place; with ``dry_run`` it is removed again instead.

    Raises:
        ConflictError: something is at the root. NotFoundError: no such backup. IntegrityError: it isn't one, or it is
            damaged. StoreUnavailableError: something can't be written.
    """
    from modelreg.core import Core

    if not source.is_file():
        raise NotFoundError(f"{source}: no such backup")
    if root.exists() and (not root.is_dir() or any(root.iterdir())):
        raise ConflictError(f"{root}: is in use; restore into a new directory, then move it")
    staging = root.absolute().parent / f".tmp-restore-{uuid.uuid4().hex}"
    try:
        disk.make_dirs(staging)
        if root.exists():  # what takes its place is for the same people: group, mode, default ACL
            os.chown(staging, -1, root.stat().st_gid)
            shutil.copystat(root, staging)
        count = unpack_tar(source, staging, disk)
        try:
            telling = disk.read(staging / ".registry" / _TELLING_FILE, max_bytes=MAX_TELLING_BYTES)
            told = json.loads(telling)["models"]
        except (FileNotFoundError, ValueError, KeyError, TypeError) as error:
            raise IntegrityError(f"{source}: not a backup of modelreg") from error
        registry = Core(staging, disk=disk)
        for name, head in told.items():
            state = registry.state(name)
            if state.broken or (state.seq, state.head) != (head["seq"], head["head"]):
                raise IntegrityError(
                    f"{source}: the log of {name} isn't complete: {state.broken or 'other head'}"
                )
            for found in state.versions.values():
                directory = registry.version_dir(name, found.version)
                if found.status != "deleted":
                    limit = registry.settings.limits.version_bytes
                    read_sealed(directory, expect_digest=found.digest, max_bytes=limit, disk=disk)
                    for export in found.exports:
                        read_export(staging / name, export, max_bytes=limit, disk=disk)
        if dry_run:
            return count
        if root.exists():
            root.rmdir()
        disk.rename(staging, root)
        disk.fsync_dir(root.absolute().parent)
        return count
    except OSError as error:
        if isinstance(error, StoreUnavailableError):
            raise
        raise StoreUnavailableError(f"{root}: can't be restored: {error.strerror or error}") from error
    finally:
        shutil.rmtree(staging, ignore_errors=True)
