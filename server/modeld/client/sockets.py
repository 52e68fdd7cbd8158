"""The options of a client's sockets, blocking or asyncio alike."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import zmq

from modeld.client.curve import Curve

#: Milliseconds before a lost connection is tried again: the first time, and at most.
RECONNECT_MS, RECONNECT_MAX_MS = 20, 1000
#: Servers that vanished without a word are noticed by heartbeats. Milliseconds.
HEARTBEAT_MS, HEARTBEAT_TIMEOUT_MS = 5000, 15000
#: The topics that `on_swap` is called for begin with one of these.
SWAPS = (b"swap.", b"rollback.")


def connect(socket: zmq.Socket[Any], endpoint: str, curve: Curve | None = None) -> None:
    """Set up a DEALER and connect it. Raises zmq.ZMQError for an endpoint that can't be parsed."""
    _set_options(socket)
    # Nothing is queued for a server that isn't there: a rollback given up must not run an hour later.
    socket.setsockopt(zmq.IMMEDIATE, 1)
    _connect(socket, endpoint, curve)


def subscribe(
    socket: zmq.Socket[Any],
    endpoints: str | Sequence[str],
    *,
    topics: Sequence[bytes] = SWAPS,
    curve: Curve | None = None,
) -> None:
    """Set up a SUB socket for these topics at these endpoints. Raises as `connect`."""
    _set_options(socket)
    for topic in topics:
        socket.setsockopt(zmq.SUBSCRIBE, topic)
    # What is set holds for what is connected later, and keys can't be taken back: ipc first.
    names = [endpoints] if isinstance(endpoints, str) else endpoints
    for endpoint in sorted(names, key=lambda name: not name.startswith("ipc://")):
        _connect(socket, endpoint, curve)


def _connect(socket: zmq.Socket[Any], endpoint: str, curve: Curve | None) -> None:
    if curve is not None and not endpoint.startswith("ipc://"):
        curve.apply(socket)
    socket.connect(endpoint)


def _set_options(socket: zmq.Socket[Any]) -> None:
    socket.setsockopt(zmq.LINGER, 0)
    socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
    socket.setsockopt(zmq.RECONNECT_IVL_MAX, RECONNECT_MAX_MS)
    # libzmq 4.3.5 aborts where a peer goes whose input had stopped at a mark and a heartbeat is due.
    socket.setsockopt(zmq.RCVHWM, 0)
    socket.setsockopt(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
    socket.setsockopt(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS)
