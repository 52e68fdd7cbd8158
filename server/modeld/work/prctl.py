"""The few Linux calls of prctl(2) that the standard library lacks, by ctypes. Thread-safe."""

from __future__ import annotations

import ctypes

_PR_SET_NAME, _PR_SET_NO_NEW_PRIVS, _PR_SET_CHILD_SUBREAPER, _PR_SET_DUMPABLE = 15, 38, 36, 4
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
