"""One daemon at a time has a state directory: an exclusive lock, held for life, that the kernel takes back."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from modeld import log
from modeld.errors import StateDirInUse

_LOCK_FILE = "daemon.lock"
#: The name of a process id fits. Bytes.
_PID_BYTES = 20


class StateDirLock:
    """Made at a daemon's start, closed at its end."""

    def __init__(self, state_dir: str) -> None:
        """Take the lock. A directory that can't be written costs what is kept there, and not the daemon.

        Raises:
            StateDirInUse: another live daemon has it.
        """
        self._fd = -1
        path = Path(state_dir) / _LOCK_FILE
        try:
            path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o640)
        except OSError as e:
            log.get().warning(log.STATE_DIR_UNLOCKED, path=str(path), error=e.strerror)
            return
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.pread(fd, _PID_BYTES, 0).decode(errors="replace").strip()
            os.close(fd)
            raise StateDirInUse(
                f"state_dir {state_dir}: another daemon uses it (pid {owner or 'unknown'}); "
                "stop that one, or set another state_dir"
            ) from None
        except OSError as e:  # a file system without locks
            os.close(fd)
            log.get().warning(log.STATE_DIR_UNLOCKED, path=str(path), error=e.strerror)
            return
        self._fd = fd
        with contextlib.suppress(OSError):  # a full disk: the lock holds, and a refusal names no pid
            os.ftruncate(fd, 0)
            os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)

    def close(self) -> None:
        """Give it back. The file stays: taking it away would let two daemons lock two files."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
