"""The last known good: a verified copy of each version served, in the daemon's own directory.

    <state_dir>/good/<model>/<hex of the digest>/   the sealed files
    <state_dir>/good/<model>/<hex of the digest>.sig its signature, where it has one
    <state_dir>/good/<model>.json                   which one, its generation, and what was rejected
    <state_dir>/holds.json                          the models that are held, and why
    <state_dir>/generations.json                    the last generation of each model, and which digest has it

With it a restart serves without the registry, generations go on where they were, and a rejected version isn't tried
anew. The record names a copy only after the copy is on the disk.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
from pathlib import Path
from typing import TypeVar

import msgspec

from modeld.swap.policy import Pointer
from modeld.watch.messages import Keep, Kept
from modelreg.disk import DISK
from modelreg.errors import IntegrityError, RegistryError
from modelreg.names import check_model_name
from modelreg.sealed import CHECKSUM_FILE, checksum_bytes, digest_of, read_sealed
from modelreg.signing import SIGNATURE_BYTES, signature_file

T = TypeVar("T")

#: A record's file is never larger. Bytes.
_MAX_RECORD_BYTES = 1 << 20


class KeptVersions:
    """The copies below `state_dir`. Used by the watcher alone."""

    def __init__(self, state_dir: str) -> None:
        self._good = Path(state_dir) / "good"
        self._holds = Path(state_dir) / "holds.json"
        self._generations = Path(state_dir) / "generations.json"

    def load(self) -> list[Kept]:
        """What is kept; a record that can't be read is as if it weren't there."""
        found = []
        try:
            names = sorted(os.listdir(self._good))
        except OSError:
            return []
        for name in names:
            if name.endswith(".json"):
                try:
                    data = DISK.read(self._good / name, max_bytes=_MAX_RECORD_BYTES)
                    kept = msgspec.json.decode(data, type=Kept)
                except (OSError, IntegrityError, msgspec.DecodeError):
                    continue
                directory = self._directory(kept.pointer)
                pointer = dataclasses.replace(kept.pointer, directory=str(directory))
                found.append(msgspec.structs.replace(kept, pointer=pointer))
        return found

    def holds(self) -> dict[str, str]:
        """What was held; a file that can't be read is as if it weren't there."""
        return _read(self._holds, dict[str, str], {})

    def hold(self, held: dict[str, str]) -> None:
        """Remember what is held. Raises OSError."""
        _write(self._holds, held)

    def generations(self) -> dict[str, tuple[int, str]]:
        """By model the last generation, with its digest; a file that can't be read is as if it weren't there."""
        return _read(self._generations, dict[str, tuple[int, str]], {})

    def number(self, generations: dict[str, tuple[int, str]]) -> None:
        """Remember the last generation of each model. Raises OSError."""
        _write(self._generations, generations)

    def keep(self, request: Keep) -> None:
        """Copy the version if it isn't there, then name it.

        Raises:
            RegistryError: the version's bytes can't be had or aren't those of the digest.
            OSError: the copy can't be written.
        """
        pointer = request.kept.pointer
        directory = self._directory(pointer)
        if not directory.exists():
            self._copy(Path(pointer.directory), directory, pointer.digest)
        self._copy_signature(signature_beside(pointer), kept_signature(directory))
        DISK.write_replace(self._record(pointer.model), msgspec.json.encode(request.kept))
        os.utime(directory)
        copies = (other for other in directory.parent.iterdir() if other.is_dir() and other != directory)
        # The one before stays: a rollback while the source is away needs it for a restart.
        for other in sorted(copies, key=_age)[:-1]:
            shutil.rmtree(other, ignore_errors=True)
            kept_signature(other).unlink(missing_ok=True)

    def _directory(self, pointer: Pointer) -> Path:
        return self._good / check_model_name(pointer.model) / pointer.digest.removeprefix("sha256:")

    def _record(self, model: str) -> Path:
        return self._good / f"{model}.json"

    @staticmethod
    def _copy(source: Path, target: Path, digest: str) -> None:
        sealed = read_sealed(source, expect_digest=digest)
        checksum = checksum_bytes(sealed.files)
        if digest_of(checksum) != digest:
            raise RegistryError(f"{source}: its {CHECKSUM_FILE} is sealed in another form; no copy is kept")
        write_copy({**sealed.files, CHECKSUM_FILE: checksum}, target)

    @staticmethod
    def _copy_signature(source: Path, target: Path) -> None:
        """A version may be signed after it was first kept. Nothing is checked here: the trial does that."""
        with contextlib.suppress(FileNotFoundError, IntegrityError):
            DISK.write_replace(target, DISK.read(source, max_bytes=SIGNATURE_BYTES))


def _read(path: Path, shape: type[T], default: T) -> T:
    try:
        return msgspec.json.decode(DISK.read(path, max_bytes=_MAX_RECORD_BYTES), type=shape)
    except (OSError, RegistryError, msgspec.DecodeError):
        return default


def _write(path: Path, value: object) -> None:
    DISK.make_dirs(path.parent)
    DISK.write_replace(path, msgspec.json.encode(value))


def signature_beside(pointer: Pointer) -> Path:
    """Where a registry has the signature of a version."""
    model = Path(pointer.directory).absolute().parent.parent
    return signature_file(model.parent, model.name, pointer.version)


def kept_signature(directory: Path) -> Path:
    """Where the signature of a kept copy is."""
    return directory.with_suffix(".sig")


def _age(directory: Path) -> int:
    return directory.stat().st_mtime_ns


def write_copy(files: dict[str, bytes], target: Path) -> None:
    """Write a sealed directory whole: beside its place, to the disk, then by one rename. Raises OSError."""
    DISK.make_dirs(target.parent)
    staging = target.parent / f".staging-{os.getpid()}"
    shutil.rmtree(staging, ignore_errors=True)
    DISK.make_dirs(staging)
    for name, data in files.items():
        DISK.write_new(staging / name, data, mode=0o444)
    DISK.fsync_dir(staging)
    DISK.rename(staging, target)
    DISK.fsync_dir(target.parent)
