"""What libzmq tells of a socket's connections, as calls in the loop."""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from typing import Any

import zmq

from modeld.front.loop import Loop

#: Called with the event's value (of ACCEPTED: the descriptor) and the endpoint that it is about.
Handler = Callable[[int, str], None]

_EVENT = struct.Struct("=Hi")
#: Messages of such a socket that are handled in one go.
_TURN = 64


class Monitor:
    """The events of one socket, each with its handler. Owned by the loop; to be made before the socket is bound."""

    def __init__(self, sock: zmq.Socket[Any], loop: Loop, handlers: Mapping[int, Handler]) -> None:
        self._sock = sock
        self._handlers = dict(handlers)
        mask = 0
        for event in self._handlers:
            mask |= event
        self._events = sock.get_monitor_socket(mask)
        # libzmq's I/O thread waits where this queue is full: so it never is.
        self._events.set(zmq.RCVHWM, 0)
        serve(loop, self._events, self._handle)

    def close(self) -> None:
        self._sock.disable_monitor()
        self._events.close(linger=0)

    def _handle(self, events: zmq.Socket[bytes]) -> None:
        told, endpoint = events.recv_multipart(zmq.NOBLOCK)
        event, value = _EVENT.unpack(told)
        self._handlers[event](value, endpoint.decode(errors="replace"))


def serve(loop: Loop, sock: zmq.Socket[bytes], handle: Callable[[zmq.Socket[bytes]], None]) -> None:
    """Handle each message of a socket that nobody else touches: its descriptor can be trusted once it has none left."""
    fd = sock.get(zmq.FD)
    assert isinstance(fd, int)

    def drain() -> None:
        for _ in range(_TURN):
            if not int(sock.get(zmq.EVENTS)) & zmq.POLLIN:
                return
            handle(sock)
        loop.call_in(0, drain)  # the requests of those who are in already come first

    loop.add_reader(fd, drain)
    drain()
