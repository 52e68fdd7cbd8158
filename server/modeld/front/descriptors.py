"""Descriptors kept back for workers: no number of connections may keep a dead worker from being replaced.

libzmq accepts until the process has no descriptor left, and takes each that becomes free. So some are held by
placeholders. When the others are gone, the TCP endpoints are unbound and the placeholders let go: workers, matrices and
files have room. libzmq closes an endpoint's connections with it; clients connect again by themselves, which is what
they wait for anyway while nobody gets in. The endpoints come back as soon as there is room for the placeholders. Unix
sockets stay bound: who may connect to them is a matter of their directory's permissions.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence

import zmq

from modeld import log
from modeld.front.sockets import Listening

#: Descriptors held back, and how many more have to be free before connections are accepted again.
RESERVE, MARGIN = 32, 32


class Descriptors:
    """The placeholders of one process, and the endpoints that give way. Owned by the loop."""

    def __init__(self, listening: Sequence[Listening]) -> None:
        """`listening` has what is bound to TCP, of every socket: whoever floods one would starve the others."""
        self._listening = list(listening)
        self._unbound: list[Listening] = []
        self._held = _take(RESERVE)

    @property
    def short(self) -> bool:
        """Whether new connections have to wait."""
        return bool(self._unbound)

    def tick(self) -> None:
        """Look whether there is room, and act."""
        if self._unbound:
            self._try_to_bind()
        elif self._listening and not _take(1, keep=False):
            log.get().error(log.NO_DESCRIPTORS, unbound=[endpoint for _, endpoint in self._listening])
            for sock, endpoint in self._listening:
                sock.unbind(endpoint)
            self._unbound = list(self._listening)
            self.close()

    def close(self) -> None:
        """Let the placeholders go."""
        while self._held:
            os.close(self._held.pop())

    def _try_to_bind(self) -> None:
        taken = _take(RESERVE + MARGIN)
        if not taken:
            return
        self._held, spare = taken[:RESERVE], taken[RESERVE:]
        for fd in spare:
            os.close(fd)
        for sock, endpoint in list(self._unbound):
            try:
                sock.bind(endpoint)
            except zmq.ZMQError:
                # The old listener isn't closed yet, or somebody has taken the port: the next tick tries again.
                self.close()
                return
            self._unbound.remove((sock, endpoint))
        log.get().info(log.DESCRIPTORS_BACK, bound=[endpoint for _, endpoint in self._listening])


def _take(count: int, *, keep: bool = True) -> list[int]:
    """So many descriptors, or none where there aren't as many; without `keep` they are closed again."""
    taken: list[int] = []
    try:
        while len(taken) < count:
            taken.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError as e:
        if e.errno not in (errno.EMFILE, errno.ENFILE):
            raise
        while taken:
            os.close(taken.pop())
    if not keep:
        for fd in taken:
            os.close(fd)
    return taken
