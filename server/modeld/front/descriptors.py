"""Descriptors for ourselves: no number of connections may take the last ones.

libzmq accepts until the process has no descriptor left. Then there is none for a worker, a matrix or a file; and where
the connection that meets the end came over a unix socket, libzmq 4.3.5 aborts ("Too many open files",
ipc_listener.cpp). So some are kept: a connection that gets a descriptor beyond a threshold closes the endpoint that it
came by, with all of its connections. Clients connect again by themselves, which is what they wait for anyway while
nobody gets in; the endpoint comes back as soon as half of the descriptors up to the threshold are free. TCP has a lower
threshold than unix sockets have: strangers don't cost local clients their connections.

The kernel gives out the lowest descriptor that is free, so its number tells, for nothing, how many are taken. What is
kept also has to last for what libzmq accepts until the loop has its next turn.
"""

from __future__ import annotations

import os
import resource
from collections.abc import Sequence

from modeld import log
from modeld.errors import ModeldError
from modeld.front.sockets import Listening

#: What connections may have: half of the descriptors, and over TCP so much of that half. libzmq accepts some 20
#: connections in a millisecond, and the loop may be as late as the scheduler lets it: hence no more.
_HALF, _TCP = 1 / 2, 7 / 8


class Descriptors:
    """The endpoints of one process that give way. Owned by the loop."""

    def __init__(self, listening: Sequence[Listening]) -> None:
        """`listening` has endpoints of every socket: whoever floods one would starve the others."""
        self._listening = {one.endpoint: one for one in listening}
        self._unbound: list[Listening] = []
        self._ours = _lowest() or 0

    @property
    def short(self) -> list[str]:
        """Endpoints where new connections have to wait."""
        return [one.endpoint for one in self._unbound]

    def accepted(self, fd: int, endpoint: str) -> None:
        """A connection came by `endpoint` and got the descriptor `fd`."""
        came_by = self._listening.get(endpoint)
        if came_by is None or fd < self._threshold(came_by):
            return
        # Whoever floods one TCP endpoint may as well flood the next.
        closing = [
            one
            for one in self._listening.values()
            if one not in self._unbound and (one is came_by or (one.is_tcp and came_by.is_tcp))
        ]
        if not closing:
            return
        self._unbound += closing
        log.get().error(log.NO_DESCRIPTORS, unbound=[one.endpoint for one in closing])
        for one in closing:
            one.sock.unbind(one.endpoint)

    def tick(self) -> None:
        """Bind again what there is room for."""
        bound = []
        for one in list(self._unbound):
            lowest = _lowest()
            if lowest is None or 2 * (lowest - self._ours) > self._threshold(one) - self._ours:
                break
            try:
                one.bind_again()
            except ModeldError:
                continue  # not closed yet, or somebody has taken the port or the path: the next tick tries again
            self._unbound.remove(one)
            bound.append(one.endpoint)
        if bound:
            log.get().info(log.DESCRIPTORS_BACK, bound=bound)

    def _threshold(self, one: Listening) -> int:
        room = (resource.getrlimit(resource.RLIMIT_NOFILE)[0] - self._ours) * _HALF
        return self._ours + int(room * _TCP if one.is_tcp else room)


def _lowest() -> int | None:
    """The lowest descriptor that is free; None where none is."""
    try:
        fd = os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    os.close(fd)
    return fd
