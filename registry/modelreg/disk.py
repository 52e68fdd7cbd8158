"""The one seam between the registry and the file system.

Every local file operation on a registry goes through a ``Disk``, which calls an ``os``-like object. A fault
harness hands in its own to stop, fail or reorder any single call; everything else uses ``DISK``, which is the
real thing.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, cast

from modelreg.errors import IntegrityError

#: How much one read call asks for, in bytes.
READ_CHUNK_BYTES = 1 << 20

_READ_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


class Stream:
    """As much of a binary file as ``tarfile`` asks for, through the seam; whoever gave it closes it."""

    def __init__(self, os_like: Any, fd: int) -> None:
        self._os = os_like
        self._fd = fd

    def read(self, size: int = -1) -> bytes:
        chunks = []
        while size and (chunk := self._os.read(self._fd, READ_CHUNK_BYTES if size < 0 else size)):
            chunks.append(chunk)
            size -= len(chunk) if size > 0 else 0
        return b"".join(chunks)

    def write(self, data: bytes) -> int:
        view = memoryview(data)
        while view:
            view = view[self._os.write(self._fd, view) :]
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return int(self._os.lseek(self._fd, offset, whence))

    def tell(self) -> int:
        return self.seek(0, os.SEEK_CUR)

    def seekable(self) -> bool:
        return True

    def flush(self) -> None:
        """Nothing is kept back."""


class Disk:
    """File operations with the exact durability that the registry needs. Stateless, so thread-safe.

    Methods raise plain ``OSError``; callers decide what it means. ``read`` raises ``IntegrityError`` for what
    isn't a regular file or is too large.
    """

    def __init__(self, os_like: Any = os) -> None:
        self._os = os_like

    # -- reading ---------------------------------------------------------------------------------------------

    def read(self, path: str | Path, *, max_bytes: int, dir_fd: int | None = None) -> bytes:
        """The bytes of a regular file, read once; never follows a symlink, never blocks on a FIFO."""
        return self.read_marked(path, max_bytes=max_bytes, dir_fd=dir_fd)[0]

    def read_marked(
        self, path: str | Path, *, max_bytes: int, dir_fd: int | None = None
    ) -> tuple[bytes, str]:
        """As ``read``, with the ``mark`` of the very file that was read."""
        try:
            fd = self._os.open(path, _READ_FLAGS, dir_fd=dir_fd)
        except OSError as error:
            if error.errno == errno.ENXIO:  # a socket's name
                raise IntegrityError(f"{path}: not a regular file") from error
            raise
        try:
            info = self._os.fstat(fd)
            if not stat.S_ISREG(info.st_mode):
                raise IntegrityError(f"{path}: not a regular file")
            chunks: list[bytes] = []
            left = max_bytes
            while chunk := self._os.read(fd, min(READ_CHUNK_BYTES, left + 1)):
                left -= len(chunk)
                if left < 0:
                    raise IntegrityError(f"{path}: larger than the limit of {max_bytes} bytes")
                chunks.append(chunk)
            return b"".join(chunks), _mark(info)
        finally:
            self._os.close(fd)

    @contextlib.contextmanager
    def open_dir(self, path: str | Path) -> Iterator[int]:
        """A descriptor of a directory that isn't itself a symlink."""
        fd = self._os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            yield fd
        finally:
            self._os.close(fd)

    def listdir(self, path: str | Path | int) -> list[str]:
        return sorted(self._os.listdir(path))

    def modified_s(self, path: str | Path) -> int:
        """When a file was last written, in seconds since 1970."""
        return int(self._os.stat(path).st_mtime)

    @contextlib.contextmanager
    def reader(self, path: str | Path) -> Iterator[IO[bytes]]:
        """A file to be read piece by piece; it may be a symlink."""
        fd = self._os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            yield cast("IO[bytes]", Stream(self._os, fd))
        finally:
            self._os.close(fd)

    def identity(self, path: str | Path) -> tuple[int, int]:
        """(device, inode) of what ``path`` leads to now."""
        info = self._os.stat(path)
        return info.st_dev, info.st_ino

    def mark(self, path: str | Path) -> str | None:
        """A text that another file at ``path`` wouldn't have: inode, size and moment; None where there is none."""
        try:
            return _mark(self._os.lstat(path))
        except (FileNotFoundError, NotADirectoryError):
            return None

    def exists(self, path: str | Path) -> bool:
        """Whether there is anything at ``path`` itself, a dangling symlink included."""
        try:
            self._os.lstat(path)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return True

    def readlink(self, path: str | Path) -> str | None:
        """Where a symlink points, or None if it isn't one."""
        try:
            return str(self._os.readlink(path))
        except OSError:
            return None

    # -- writing ---------------------------------------------------------------------------------------------

    def make_dirs(self, path: Path) -> None:
        """Make a directory and its parents, and make the new names durable."""
        missing = []
        while not self.exists(path):
            missing.append(path)
            path = path.parent
        for new in reversed(missing):
            with contextlib.suppress(FileExistsError):
                self._os.mkdir(new, 0o777)  # the umask decides, or a shared registry's default ACL
            self.fsync_dir(new.parent)

    def write_new(self, path: Path, data: bytes, *, mode: int = 0o644) -> None:
        """Create a file that must not exist yet, its bytes durable; its name isn't until the directory is."""
        fd = self._os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
        try:
            view = memoryview(data)
            while view:
                view = view[self._os.write(fd, view) :]
            self._os.fsync(fd)
        finally:
            self._os.close(fd)

    @contextlib.contextmanager
    def writer(self, path: Path) -> Iterator[IO[bytes]]:
        """A new file to be written piece by piece; as durable as by ``write_new`` when this ends without an error."""
        fd = self._os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
        try:
            yield cast("IO[bytes]", Stream(self._os, fd))
            self._os.fsync(fd)
        finally:
            self._os.close(fd)

    def write_replace(self, path: Path, data: bytes, *, mode: int = 0o644) -> None:
        """Replace a file as a whole: readers see the old bytes or the new ones."""
        temporary = self.temporary(path.parent)
        try:
            self.write_new(temporary, data, mode=mode)
            self._os.replace(temporary, path)
        except BaseException:
            self.discard(temporary)
            raise

    def symlink_replace(self, target: str, path: Path) -> None:
        """Point a symlink somewhere else in one step."""
        temporary = self.temporary(path.parent)
        try:
            self._os.symlink(target, temporary)
            self._os.replace(temporary, path)
        except BaseException:
            self.discard(temporary)
            raise

    def link(self, source: Path, target: Path) -> None:
        """Give a file a second name, failing with ``FileExistsError`` if that name is taken."""
        self._os.link(source, target, follow_symlinks=False)

    def rename(self, source: Path, target: Path) -> None:
        self._os.rename(source, target)

    def unlink(self, path: Path) -> None:
        self._os.unlink(path)

    def discard(self, path: Path) -> None:
        """Remove a file whose presence does no harm."""
        with contextlib.suppress(OSError):
            self._os.unlink(path)

    def remove_flat_dir(self, path: Path) -> None:
        """Remove a directory of files; what can't be removed stays for ``doctor``."""
        with contextlib.suppress(OSError):
            for name in self._os.listdir(path):
                self.discard(path / name)
            self._os.rmdir(path)

    def fsync_dir(self, path: Path) -> None:
        fd = self._os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self._os.fsync(fd)
        finally:
            self._os.close(fd)

    @staticmethod
    def temporary(directory: Path) -> Path:
        """A fresh name in ``directory`` that no reader takes for content."""
        return directory / f".tmp-{uuid.uuid4().hex}"

    @contextlib.contextmanager
    def courtesy_lock(self, path: Path) -> Iterator[None]:
        """Hold a lock file, if that is possible at all. Saves work; correctness must never rest on it."""
        fd = None
        try:
            with contextlib.suppress(OSError):
                fd = self._os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
                fcntl.flock(fd, fcntl.LOCK_EX)
            yield
        finally:
            if fd is not None:
                self._os.close(fd)


def _mark(info: os.stat_result) -> str:
    return f"{info.st_ino}:{info.st_size}:{info.st_mtime_ns}"


#: The real file system.
DISK = Disk()
