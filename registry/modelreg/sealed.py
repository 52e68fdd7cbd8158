"""Sealed version directories: their checksum file, their digest, and reading them so that nothing can change
underway.

Every file is read once; what was checked is what is used. Neither numpy nor any model library is imported
here.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from modelreg.disk import DISK, Disk
from modelreg.errors import IntegrityError, NotFoundError, StoreUnavailableError
from modelreg.metadata import MAX_METADATA_BYTES, METADATA_FILE, Metadata, decode
from modelreg.state import Export

#: The file that seals the others; `sha256sum -c --strict` reads it.
CHECKSUM_FILE = "checksum.sha256"

#: All files of one version together, in bytes.
DEFAULT_MAX_BYTES = 2 << 30

#: The most files that a version may have.
MAX_FILES = 1000

_LINE = re.compile(r"([0-9a-f]{64}) [ *]([^/\\\x00-\x1f\x7f]+)")
_MAX_CHECKSUM_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Sealed:
    """The verified bytes of a version. ``files`` has every file but checksum.sha256."""

    digest: str
    files: Mapping[str, bytes]
    metadata: Metadata


def checksum_bytes(files: Mapping[str, bytes]) -> bytes:
    """The content of checksum.sha256 for these files."""
    return "".join(
        f"{hashlib.sha256(data).hexdigest()}  {name}\n" for name, data in sorted(files.items())
    ).encode()


def digest_of(checksum: bytes) -> str:
    """A version's digest, from the bytes of its checksum.sha256."""
    return "sha256:" + hashlib.sha256(checksum).hexdigest()


def read_sealed(
    directory: str | Path,
    *,
    expect_digest: str | None = None,
    max_bytes: int = DEFAULT_MAX_BYTES,
    disk: Disk = DISK,
) -> Sealed:
    """Read and verify a sealed directory; ``max_bytes`` limits all its files together.

    Raises:
        IntegrityError: a file differs, is missing, is one too many, isn't a regular file, or the digest isn't
            ``expect_digest``; names the file.
        NotFoundError: there is no such directory.
        StoreUnavailableError: it can't be read.

    Thread-safe: it keeps no state.
    """
    directory = Path(directory)
    try:
        with disk.open_dir(directory) as fd:
            sums, digest = _read_sums(directory, fd, expect_digest, disk)
            present = set(disk.listdir(fd)) - {CHECKSUM_FILE}
            for name in sorted(present - sums.keys()):
                raise IntegrityError(
                    f"{directory / name}: not listed in {CHECKSUM_FILE}; it doesn't belong there"
                )
            for name in sorted(sums.keys() - present):
                raise IntegrityError(f"{directory / name}: missing, though {CHECKSUM_FILE} lists it")
            files: dict[str, bytes] = {}
            left = max_bytes
            for name, expected in sums.items():
                files[name] = _read_checked(directory, name, expected, fd, left, disk)
                left -= len(files[name])
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _not_a_directory(directory, error) from error
    except OSError as error:
        raise _unreadable(directory, error) from error
    if METADATA_FILE not in files:
        raise IntegrityError(f"{directory / METADATA_FILE}: missing; this isn't a sealed version")
    return Sealed(digest, files, decode(files[METADATA_FILE], where=str(directory / METADATA_FILE)))


def read_metadata(directory: str | Path, *, expect_digest: str | None = None, disk: Disk = DISK) -> Metadata:
    """Read and verify metadata.json alone, against the version's digest; raises as ``read_sealed``."""
    data = read_file(directory, METADATA_FILE, expect_digest=expect_digest, disk=disk)
    return decode(data, where=str(Path(directory) / METADATA_FILE))


def read_file(
    directory: str | Path,
    name: str,
    *,
    expect_digest: str | None = None,
    max_bytes: int = MAX_METADATA_BYTES,
    disk: Disk = DISK,
) -> bytes:
    """Read and verify one sealed file, against the version's digest; raises as ``read_sealed``."""
    directory = Path(directory)
    try:
        with disk.open_dir(directory) as fd:
            sums, _ = _read_sums(directory, fd, expect_digest, disk)
            if name not in sums:
                raise IntegrityError(f"{directory / CHECKSUM_FILE}: doesn't list {name}")
            return _read_checked(directory, name, sums[name], fd, max_bytes, disk)
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _not_a_directory(directory, error) from error
    except OSError as error:
        raise _unreadable(directory, error) from error


def read_export(directory: Path, export: Export, *, max_bytes: int, disk: Disk = DISK) -> bytes:
    """Read and verify what was added in another format; ``directory``: of the model.

    Raises:
        IntegrityError: its bytes aren't those added, or it is missing. StoreUnavailableError: it can't be read.
    """
    path = directory / export.file
    try:
        data = disk.read(path, max_bytes=max_bytes)
    except FileNotFoundError as error:
        raise IntegrityError(f"{path}: missing, though it was added; restore it from a backup") from error
    except OSError as error:
        raise _unreadable(path, error) from error
    if f"sha256:{hashlib.sha256(data).hexdigest()}" != export.digest:
        raise IntegrityError(f"{path}: its bytes aren't those added")
    return data


def read_sums(
    directory: str | Path, *, expect_digest: str | None = None, disk: Disk = DISK
) -> dict[str, str]:
    """The sealed files and their SHA-256 (hexadecimal), by checksum.sha256 alone; raises as ``read_sealed``."""
    directory = Path(directory)
    try:
        with disk.open_dir(directory) as fd:
            return _read_sums(directory, fd, expect_digest, disk)[0]
    except (FileNotFoundError, NotADirectoryError) as error:
        raise _not_a_directory(directory, error) from error
    except OSError as error:
        raise _unreadable(directory, error) from error


def _read_sums(directory: Path, fd: int, expect_digest: str | None, disk: Disk) -> tuple[dict[str, str], str]:
    where = directory / CHECKSUM_FILE
    try:
        data = disk.read(CHECKSUM_FILE, max_bytes=_MAX_CHECKSUM_BYTES, dir_fd=fd)
    except FileNotFoundError as error:
        raise IntegrityError(f"{where}: missing; this isn't a sealed version") from error
    except IntegrityError as error:
        raise IntegrityError(f"{directory}/{error}") from error
    digest = digest_of(data)
    if expect_digest is not None and digest != expect_digest:
        raise IntegrityError(f"{where}: its digest is {digest}, but {expect_digest} was registered")
    sums: dict[str, str] = {}
    try:
        lines = data.decode().splitlines()
    except UnicodeDecodeError as error:
        raise IntegrityError(f"{where}: not UTF-8") from error
    for line in lines:
        match = _LINE.fullmatch(line)
        if match is None or match[2] in (".", "..", CHECKSUM_FILE) or match[2] in sums:
            raise IntegrityError(f"{where}: the line {line!r} isn't one of a sealed version")
        sums[match[2]] = match[1]
    if len(sums) > MAX_FILES:
        raise IntegrityError(f"{where}: lists more than {MAX_FILES} files")
    return sums, digest


def _read_checked(directory: Path, name: str, expected: str, fd: int, max_bytes: int, disk: Disk) -> bytes:
    try:
        data = disk.read(name, max_bytes=max_bytes, dir_fd=fd)
    except IntegrityError as error:
        raise IntegrityError(f"{directory}/{error}") from error
    except FileNotFoundError as error:
        raise IntegrityError(f"{directory / name}: missing, though {CHECKSUM_FILE} lists it") from error
    if hashlib.sha256(data).hexdigest() != expected:
        raise IntegrityError(f"{directory / name}: its bytes aren't those that were sealed")
    return data


def _not_a_directory(directory: Path, error: OSError) -> NotFoundError | IntegrityError:
    if isinstance(error, NotADirectoryError):
        return IntegrityError(f"{directory}: not a directory of its own (a symlink or a file)")
    return NotFoundError(f"{directory}: no such version directory")


def _unreadable(directory: Path, error: OSError) -> IntegrityError | StoreUnavailableError:
    if error.errno == 40:  # ELOOP: a symlink where a sealed file should be
        return IntegrityError(f"{directory / str(error.filename)}: a symlink; sealed files are regular files")
    return StoreUnavailableError(f"{directory}: can't be read: {error.strerror or error}")
