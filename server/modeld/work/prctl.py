"""The few Linux calls that the standard library lacks, by ctypes. Thread-safe."""

from __future__ import annotations

import ctypes
import os

_PR_SET_NAME, _PR_SET_NO_NEW_PRIVS, _PR_SET_CHILD_SUBREAPER, _PR_SET_DUMPABLE = 15, 38, 36, 4
_MCL_CURRENT, _MCL_FUTURE = 1, 2
_libc = ctypes.CDLL(None, use_errno=True)


def set_name(name: str) -> None:
    """The name that ps and top show for this thread: at most 15 bytes."""
    _libc.prctl(_PR_SET_NAME, name.encode()[:15], 0, 0, 0)


def no_new_privileges() -> None:
    """No exec below this process gains privileges. Can't be undone."""
    _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)


def child_subreaper() -> None:
    """Orphans below this process become its children, so that none is left behind."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def lock_memory() -> None:
    """Keep this process's pages, now and later, out of swap; children don't inherit it. Raises OSError."""
    if _libc.mlockall(_MCL_CURRENT | _MCL_FUTURE):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
