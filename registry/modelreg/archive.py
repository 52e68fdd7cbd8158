"""Tar archives of a registry, or of one version; read back member by member, nothing outside of the target."""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path, PurePosixPath

from modelreg.disk import Disk
from modelreg.errors import ConflictError, IntegrityError, StoreUnavailableError

#: The most bytes that an archive may unpack to.
MAX_UNPACKED_BYTES = 1 << 40

Progress = Callable[[str], None]


def write_tar(target: Path, members: Iterable[tuple[str, Path | bytes]], disk: Disk) -> int:
    """Write (name, file or bytes) into a new tar, whole or not at all; returns the number of members.

    ``.tar.gz`` and ``.tgz`` are compressed. Owners and modes aren't kept, moments are.

    Raises:
        ConflictError: the target exists. StoreUnavailableError: something can't be read or written.
    """
    temporary = target.with_name(f".tmp-{os.getpid()}-{target.name}")
    count = 0
    packed = target.name.endswith((".gz", ".tgz"))
    try:
        if disk.exists(target):
            raise FileExistsError
        with (
            disk.writer(temporary) as stream,
            tarfile.open(fileobj=stream, mode="w:gz" if packed else "w") as archive,
        ):
            for name, content in members:
                _add(archive, name, content, disk)
                count += 1
        disk.link(temporary, target)
        disk.fsync_dir(target.absolute().parent)
    except FileExistsError as error:
        raise ConflictError(f"{target} exists; choose another name") from error
    except OSError as error:
        raise StoreUnavailableError(f"{target}: can't be written: {error.strerror or error}") from error
    finally:
        disk.discard(temporary)
    return count


def _add(archive: tarfile.TarFile, name: str, content: Path | bytes, disk: Disk) -> None:
    import io

    data = disk.read(content, max_bytes=MAX_UNPACKED_BYTES) if isinstance(content, Path) else content
    info = tarfile.TarInfo(name)
    info.size = len(data)
    info.mode = 0o644
    if isinstance(content, Path):
        info.mtime = disk.modified_s(content)
    archive.addfile(info, io.BytesIO(data))


def unpack_tar(source: Path, target: Path, disk: Disk) -> int:
    """Unpack regular files into a directory; returns how many. Links, devices and odd names are refused.

    Raises:
        IntegrityError: not an archive of ours. StoreUnavailableError: something can't be read or written.
    """
    count = unpacked = 0
    made: set[Path] = set()
    try:
        with disk.reader(source) as packed, tarfile.open(fileobj=packed, mode="r:*") as archive:
            for member in archive:
                path = PurePosixPath(member.name)
                if not member.isreg() or path.is_absolute() or ".." in path.parts or not path.parts:
                    raise IntegrityError(f"{source}: {member.name!r} isn't a plain file within the archive")
                unpacked += member.size
                stream = archive.extractfile(member)
                if stream is None or unpacked > MAX_UNPACKED_BYTES:
                    raise IntegrityError(f"{source}: {member.name!r} can't be unpacked")
                file = target.joinpath(*path.parts)
                disk.make_dirs(file.parent)
                mode = 0o444 if "versions" in path.parts or "log" in path.parts else 0o644
                disk.write_new(file, stream.read(), mode=mode)
                made.add(file.parent)
                count += 1
        for directory in made:
            disk.fsync_dir(directory)
    except (tarfile.TarError, EOFError) as error:
        raise IntegrityError(f"{source}: not a readable archive: {error}") from error
    except OSError as error:
        raise StoreUnavailableError(f"{source}: can't be unpacked: {error.strerror or error}") from error
    return count
