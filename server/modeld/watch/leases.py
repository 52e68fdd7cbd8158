"""Leases on the versions that the daemon has in use, so that `modelreg gc` and `delete` spare them.

Renewed long before they end, given back at the end; those of a daemon that dies end by themselves.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Callable, Iterable

from modelreg import Registry
from modelreg.leases import DEFAULT_TTL_S, Lease

#: Two renewals may be late before a lease ends. Seconds.
_RENEW_S = DEFAULT_TTL_S / 3


class HeldLeases:
    """What one daemon has leased. Used by the watcher alone; `clock` counts seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._leases: dict[tuple[str, str], tuple[Lease, float]] = {}
        self._registry: Registry | None = None
        #: Who gc and delete name: the front, which is this process's parent.
        self._holder = f"modeld {socket.gethostname()}:{os.getppid()}"

    def hold(self, registry: Registry, wanted: Iterable[tuple[str, str]]) -> None:
        """Lease exactly these (model, version), and renew what is due.

        Raises:
            RegistryError: one can't be written, as in a registry that this process may only read.
        """
        if registry is not self._registry:
            self._leases, self._registry = {}, registry  # the files of before went with their registry
        wanted = set(wanted)
        for key in self._leases.keys() - wanted:
            self._leases.pop(key)[0].release()
        now = self._clock()
        for key in sorted(wanted):
            held = self._leases.get(key)
            if held is None:
                self._leases[key] = registry.lease(*key, self._holder), now + _RENEW_S
            elif now >= held[1]:
                held[0].renew()
                self._leases[key] = held[0], now + _RENEW_S

    def release(self) -> None:
        """Give all of them back."""
        for lease, _ in self._leases.values():
            lease.release()
        self._leases.clear()
