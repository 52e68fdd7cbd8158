"""File systems that fail on purpose, behind the registry's one seam (``Disk(os_like)``)."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import sys
from pathlib import Path
from typing import Any


class Stopped(BaseException):
    """The process would be dead from here on."""


#: Calls that change or read the file system; ``close`` is left out, as a dead process closes everything.
CALLS = frozenset(
    {"open", "read", "write", "fsync", "fstat", "listdir", "stat", "lstat", "mkdir", "replace", "symlink"}
    | {"link", "rename", "unlink", "rmdir", "readlink"}
)


#: The calls that fail with an errno, where not all of them do.
FAILING = {
    errno.ENOSPC: frozenset({"open", "write", "fsync", "mkdir", "replace", "symlink", "link", "rename"}),
    errno.EACCES: CALLS - {"read", "write", "fsync", "fstat"},
}


#: The calls that a full disk goes on refusing.
TAKE_ROOM = frozenset({"write", "mkdir", "symlink", "link"})


class StopsAt:
    """Counts calls once armed; at call ``at`` (from 0) and ever after it is as if the process were dead."""

    calls = CALLS

    def __init__(self) -> None:
        self.count = -1
        self.at: int | None = None

    def arm(self, at: int) -> None:
        self.count, self.at = 0, at

    def __getattr__(self, name: str) -> Any:
        real = getattr(os, name)
        if name not in self.calls:
            return real

        def call(*arguments: Any, **options: Any) -> Any:
            if self.at is not None:
                if self.count >= self.at:
                    self.hit(name)
                self.count += 1
            return real(*arguments, **options)

        return call

    def hit(self, name: str) -> None:
        raise Stopped(name)


class FailsAt(StopsAt):
    """Call ``at`` fails with an errno; those after it work, or where it is ``lasting``, those that need room fail."""

    def __init__(self, code: int, *, lasting: bool = False) -> None:
        super().__init__()
        self.code = code
        self.lasting = lasting
        self.calls = FAILING.get(code, CALLS)
        self.hits = 0

    def hit(self, name: str) -> None:
        if not self.hits or (self.lasting and name in TAKE_ROOM):
            self.hits += 1
            raise OSError(self.code, os.strerror(self.code))


class Volatile:
    """A file system that forgets at a power cut whatever wasn't synced: bytes of files, and names in directories.

    It works on a real directory and remembers what was durable. ``lazy_site``: the function within which fsync does
    nothing, as if that call had been removed.
    """

    def __init__(self, lazy_site: str | None = None) -> None:
        self.lazy_site = lazy_site
        self._bytes: dict[int, bytes] = {}
        self._names: dict[int, dict[str, tuple[int, bool]]] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def open(self, path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        fd = os.open(path, flags, mode, dir_fd=dir_fd)
        if flags & os.O_EXCL:
            self._bytes.pop(os.fstat(fd).st_ino, None)
        return fd

    def mkdir(self, path: Any, mode: int = 0o777) -> None:
        os.mkdir(path, mode)
        self._names.pop(os.stat(path).st_ino, None)

    def fsync(self, fd: int) -> None:
        if self.lazy_site is not None and self._called_from(self.lazy_site):
            return
        info = os.fstat(fd)
        if stat.S_ISDIR(info.st_mode):
            self._names[info.st_ino] = {
                entry.name: (entry.inode(), entry.is_dir(follow_symlinks=False))
                for entry in os.scandir(fd)
                if not entry.is_symlink()
            }
        else:
            self._bytes[info.st_ino] = Path(f"/proc/self/fd/{fd}").read_bytes()

    def sync_dir(self, path: Path) -> None:
        """Make a directory's names durable, as somebody did long ago."""
        fd = os.open(path, os.O_RDONLY)
        try:
            self.fsync(fd)
        finally:
            os.close(fd)

    def power_cut(self, root: Path, target: Path) -> None:
        """Make ``target`` what would be left of ``root``."""
        shutil.rmtree(target, ignore_errors=True)
        self._revive(os.stat(root).st_ino, target)

    def _revive(self, inode: int, target: Path) -> None:
        target.mkdir()
        for name, (child, is_dir) in self._names.get(inode, {}).items():
            if is_dir:
                self._revive(child, target / name)
            else:
                (target / name).write_bytes(self._bytes.get(child, b""))

    @staticmethod
    def _called_from(site: str) -> bool:
        frame = sys._getframe(2)
        for _ in range(3):
            if frame.f_code.co_name == site:
                return True
            if frame.f_code.co_name not in ("fsync_dir", "write_new") or frame.f_back is None:
                return False
            frame = frame.f_back
        return False


ERRORS = (errno.ENOSPC, errno.EIO, errno.EACCES)
