"""The few Linux calls on a process's own state that the standard library lacks, by ctypes. Thread-safe."""

from __future__ import annotations

import ctypes
import os
import platform
import signal
import struct

_PR_SET_NAME, _PR_SET_NO_NEW_PRIVS, _PR_SET_CHILD_SUBREAPER, _PR_SET_DUMPABLE = 15, 38, 36, 4
_PR_SET_PDEATHSIG = 1
_SCHED_SETATTR, _SCHED_OTHER = {"x86_64": 314, "aarch64": 274}, 0
_MCL_CURRENT, _MCL_FUTURE = 1, 2
#: The longest slice that the kernel takes: for what computes, and may be interrupted by whoever wakes up. Nanoseconds.
LONG_SLICE_NS = 100_000_000
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


def die_with_parent() -> None:
    """SIGKILL for this process when the thread that made it ends; also after an exec, but not for its children."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def set_slice(ns: int) -> None:
    """How long this thread, and those that it starts, may have a core before others get their turn; 0: the default.

    A thread with a short slice gets its turn sooner when it wakes up. sched_setattr(2); Linux before 6.12 takes it and
    does nothing, and where a filter forbids it nothing changes either.
    """
    number = _SCHED_SETATTR.get(platform.machine())
    if number is not None:
        attributes = struct.pack("=IIQiIQQQ", 48, _SCHED_OTHER, 0, 0, 0, ns, 0, 0)
        _libc.syscall(number, 0, attributes, 0)


def lock_memory() -> None:
    """Keep this process's pages, now and later, out of swap; children don't inherit it. Raises OSError."""
    if _libc.mlockall(_MCL_CURRENT | _MCL_FUTURE):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
