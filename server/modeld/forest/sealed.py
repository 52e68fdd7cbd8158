"""Plans in a sealed memfd: how a worker hands them to the front, one behind the other, one for each output.

The seals are what makes the check worth anything: once F_SEAL_WRITE, SHRINK and GROW are set, and SEAL so that none is
taken back, nobody can change what was checked, and no page of it can vanish under the kernel.
"""

from __future__ import annotations

import fcntl
import mmap
import os
from collections.abc import Sequence

from modeld.forest.errors import PlanRefused
from modeld.forest.format import total_bytes
from modeld.forest.scorer import Scorer

_SEALS = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


def reserve(max_bytes: int) -> int:
    """A descriptor for plans of at most `max_bytes` together. It takes no memory yet.

    Made before a process gives up making files (RLIMIT_FSIZE 0): shrinking and writing to pages need no leave.
    """
    fd = os.memfd_create("modeld-plan", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    os.ftruncate(fd, max_bytes)
    return fd


def seal(fd: int, plans: Sequence[bytes | bytearray]) -> None:
    """Write `plans` to a reserved descriptor and seal it. Raises PlanRefused where it is too small."""
    total = sum(map(len, plans))
    if not 0 < total <= os.fstat(fd).st_size:
        raise PlanRefused(f"plans of {total} bytes; there is room for {os.fstat(fd).st_size}")
    with mmap.mmap(fd, total) as memory:
        for plan in plans:
            memory.write(plan)
    os.ftruncate(fd, total)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)


def open_plans(fd: int, max_bytes: int) -> list[Scorer]:
    """The checked plans of a sealed memfd, whoever made it. The descriptor may be closed afterwards.

    Raises:
        PlanRefused: it isn't sealed, is too large, or holds something that isn't plans from end to end.
        KernelMissing: there is no kernel here.
    """
    try:
        seals = fcntl.fcntl(fd, fcntl.F_GET_SEALS)
        size = os.fstat(fd).st_size
        if seals & _SEALS != _SEALS:
            raise PlanRefused("the plan's memory isn't sealed")
        if not 0 < size <= max_bytes:
            raise PlanRefused(f"plans of {size} bytes; at most {max_bytes}")
        # Private, as older kernels map a write-sealed file in no other way. Nothing is copied unless it is written to.
        memory = memoryview(mmap.mmap(fd, size, mmap.MAP_PRIVATE, mmap.PROT_READ))
    except OSError as error:
        raise PlanRefused(f"no sealed memory: {error}") from error
    found = []
    at = 0
    while at < size:
        length = total_bytes(memory[at:])
        found.append(Scorer(memory[at : at + length]))
        at += length
    return found
