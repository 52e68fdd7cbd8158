"""Limits that a process of ours puts on itself before it reads the first byte of what others made."""

from __future__ import annotations

import os
import resource

from modeld.work import prctl, seccomp


def confine(name: str, *, memory_limit_mb: int, file_bytes: int = 0) -> None:
    """No new privileges, no network, no programs, no output, `memory_limit_mb` of address space. Can't be undone.

    `file_bytes`: how large a file it may make, memory that is a file (memfd) included.
    """
    prctl.set_name(name[:15])
    prctl.no_new_privileges()
    # What native libraries print on their way down says no more than the signal that ends them.
    with open(os.devnull, "wb") as null:
        os.dup2(null.fileno(), 1)
        os.dup2(null.fileno(), 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _lower(resource.RLIMIT_NOFILE, 64)
    _lower(resource.RLIMIT_FSIZE, file_bytes)
    _lower(resource.RLIMIT_AS, memory_limit_mb << 20)
    seccomp.restrict()


def at_most(hard: int, value: int) -> int:
    """`value`, or the hard limit where that is lower."""
    return value if hard == resource.RLIM_INFINITY else min(value, hard)


def _lower(limit: int, value: int) -> None:
    value = at_most(resource.getrlimit(limit)[1], value)
    resource.setrlimit(limit, (value, value))
