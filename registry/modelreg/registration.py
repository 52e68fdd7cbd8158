"""Sealing: staging → checksum → proof → fsync → rename into place → commit.

Between the rename and the commit a process may die. What it leaves is a complete version without a record.
The next registration of that version never removes it, for its owner may still be alive: it commits a record
for it, which is the same as what the owner would have done. Whoever's record lands first has won, and the
bytes always fit the record.
"""

from __future__ import annotations

import errno
import hashlib
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from modelreg import bundle as bundles
from modelreg import card, trash
from modelreg import metadata as facts
from modelreg.bundle import Bundle
from modelreg.card import CARD_FILE
from modelreg.disk import Disk
from modelreg.errors import IntegrityError, LoadError, RegistryError, StoreUnavailableError
from modelreg.metadata import METADATA_FILE, FileInfo, Metadata
from modelreg.sealed import CHECKSUM_FILE, Sealed, checksum_bytes, digest_of, read_sealed
from modelreg.settings import Settings

if TYPE_CHECKING:
    from modelreg.golden import Golden

#: Facts that may differ between two registrations of the same thing.
_CIRCUMSTANCES = ("created_at", "env", "memory_bytes")


@dataclass(frozen=True, slots=True)
class Staged:
    """A complete version that isn't in place yet."""

    directory: Path
    digest: str
    metadata: Metadata
    files: Mapping[str, bytes]


def stage(
    root: Path, bundle: Bundle, metadata: Metadata, golden: Golden | bool, *, settings: Settings, disk: Disk
) -> Staged:
    """Write and prove a version in ``.registry/staging``; ``golden`` False loads nothing, True makes rows up.

    Raises:
        LoadError: the model can't be loaded or doesn't give the golden answers.
        StoreUnavailableError: it can't be written.
    """
    directory = root / ".registry" / "staging" / uuid.uuid4().hex
    try:
        disk.make_dirs(directory)
        for name, data in bundle.files.items():
            disk.write_new(directory / name, data, mode=0o444)
        if golden is not False:
            bundle_files, metadata = _prove(directory, bundle, metadata, golden, settings, disk)
        else:
            bundle_files = dict(bundle.files)
        if CARD_FILE not in bundle_files:
            text = card.render(metadata, settings).encode()
            disk.write_new(directory / CARD_FILE, text, mode=0o444)
            bundle_files[CARD_FILE], metadata = text, _with_file(metadata, CARD_FILE, "artefact", text)
        files = {**bundle_files, METADATA_FILE: facts.encode(metadata)}
        checksum = checksum_bytes(files)
        disk.write_new(directory / METADATA_FILE, files[METADATA_FILE], mode=0o444)
        disk.write_new(directory / CHECKSUM_FILE, checksum, mode=0o444)
        disk.fsync_dir(directory)
    except BaseException as error:
        disk.remove_flat_dir(directory)
        if isinstance(error, OSError) and not isinstance(error, RegistryError):
            raise StoreUnavailableError(
                f"{directory}: can't be written: {error.strerror or error}"
            ) from error
        raise
    return Staged(directory, digest_of(checksum), metadata, files)


def _prove(
    directory: Path, bundle: Bundle, metadata: Metadata, golden: Golden | bool, settings: Settings, disk: Disk
) -> tuple[dict[str, bytes], Metadata]:
    """Load the staged files in a process that may die; seal the golden rows with its answers."""
    from modelreg import golden as goldens
    from modelreg.goldenrows import synthesise
    from modelreg.isolation import probe

    if bundle.problem is not None:
        raise bundle.problem
    if isinstance(golden, bool):
        infos = [
            [header.infos[column] for header in bundle.headers.values() if header.infos]
            for column in range(len(bundle.features))
        ]
        seed = hashlib.sha256(b"".join(bundle.files[file] for file in bundle.estimators.values())).digest()
        limits = settings.golden
        # Trees take missing values; of other estimators that isn't known.
        holes = limits.nan_fraction if bundle.format == bundles.LIGHTGBM_TEXT else 0.0
        golden = goldens.Golden(synthesise(infos, rows=limits.rows, nan_fraction=holes, seed=seed), {})
    # The probe reads a sealed directory like everybody else, so the files are sealed once for it alone.
    draft = {**bundle.files, METADATA_FILE: facts.encode(metadata)}
    checksum = checksum_bytes(draft)
    disk.write_new(directory / METADATA_FILE, draft[METADATA_FILE])
    disk.write_new(directory / CHECKSUM_FILE, checksum)
    result = probe(
        directory,
        digest=digest_of(checksum),
        rows=golden.rows,
        outputs=list(metadata.outputs),
        settings=settings,
        where=f"{metadata.name}:{metadata.version} isn't registered",
    )
    disk.unlink(directory / METADATA_FILE)
    disk.unlink(directory / CHECKSUM_FILE)
    if result.golden is None:
        raise LoadError(f"{metadata.name}: the probe gave no answers")
    if golden.outputs:
        difference = goldens.first_difference(golden, result.golden.outputs, result.golden.libraries)
        if difference is not None:
            raise LoadError(f"the golden file isn't of this model: {difference}")
    sealed_golden = goldens.dump(result.golden)
    disk.write_new(directory / goldens.GOLDEN_FILE, sealed_golden, mode=0o444)
    metadata = msgspec.structs.replace(metadata, memory_bytes=result.memory_bytes)
    metadata = _with_file(metadata, goldens.GOLDEN_FILE, "golden", sealed_golden)
    return {**bundle.files, goldens.GOLDEN_FILE: sealed_golden}, metadata


def _with_file(metadata: Metadata, name: str, role: str, data: bytes) -> Metadata:
    return msgspec.structs.replace(
        metadata,
        size_bytes=(metadata.size_bytes or 0) + len(data),
        files={**metadata.files, name: FileInfo(role, len(data))},
    )


def move_into_place(staged: Staged, target: Path, disk: Disk) -> bool:
    """Rename a staged version to ``versions/<version>``; False if something is there already.

    Raises:
        StoreUnavailableError: it can't be moved.
    """
    try:
        disk.make_dirs(target.parent)
        try:
            disk.rename(staged.directory, target)
        except OSError as error:
            if error.errno in (errno.EEXIST, errno.ENOTEMPTY, errno.ENOTDIR):
                return False
            raise
        disk.fsync_dir(target.parent)
        return True
    except OSError as error:
        raise StoreUnavailableError(
            f"{target}: can't be put into place: {error.strerror or error}"
        ) from error


@dataclass(frozen=True, slots=True)
class Leftover:
    """A version directory without a record. ``same``: it is what the new registrant wants to register."""

    digest: str
    same: bool


def inspect_leftover(directory: Path, staged: Staged, *, max_bytes: int, disk: Disk) -> Leftover | None:
    """What an interrupted registration left; None if it isn't a complete version, which no crash leaves."""
    try:
        found = read_sealed(directory, max_bytes=max_bytes, disk=disk)
    except IntegrityError:
        return None
    return Leftover(found.digest, _same(found, staged))


def _same(found: Sealed, staged: Staged) -> bool:
    ours = {name: data for name, data in staged.files.items() if name != METADATA_FILE}
    theirs = {name: data for name, data in found.files.items() if name != METADATA_FILE}
    return ours == theirs and _substance(found.metadata) == _substance(staged.metadata)


def _substance(metadata: Metadata) -> dict[str, Any]:
    return {key: value for key, value in facts.to_dict(metadata).items() if key not in _CIRCUMSTANCES}


def set_aside(directory: Path, root: Path, disk: Disk) -> None:
    """Move what is no version out of the way, into ``.registry/trash``.

    Raises:
        StoreUnavailableError: it can't be moved.
    """
    try:
        trash.move(directory, root, disk)
    except OSError as error:
        raise StoreUnavailableError(f"{directory}: can't be set aside: {error.strerror or error}") from error
