"""A ZeroMQ socket for a loop that never blocks: whole messages in and out, and when to look for more.

The calls go to pyzmq's backend directly, with plain integers for flags: its wrappers cost as much again as the calls,
several times a message.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import zmq
from zmq.backend import Socket as _Backend

#: A frame up to this size is copied when it is received; copying a larger one takes longer than one row does. Bytes.
VIEW_BYTES = 64 * 1024
_EVENTS, _POLLIN = int(zmq.EVENTS), int(zmq.POLLIN)
_NOBLOCK, _NOBLOCK_MORE = int(zmq.NOBLOCK), int(zmq.NOBLOCK | zmq.SNDMORE)


class ZSocket:
    """One socket. `active` tells that it has to be asked for its events before the loop may sleep.

    ZeroMQ shows one edge-triggered descriptor for both directions, and a send may swallow the edge of a receive. After
    the socket was asked and had nothing, the descriptor tells of the next message; after any send or receive it
    mustn't be trusted until the socket was asked again. Not thread-safe.
    """

    __slots__ = ("_get", "_recv", "_send", "active", "fd", "first", "raw")

    def __init__(self, raw: zmq.Socket[bytes]) -> None:
        self.raw = raw
        #: The first frame of the message that was received last; libzmq's properties of its sender are on it.
        self.first: zmq.Frame
        fd = raw.get(zmq.FD)
        assert isinstance(fd, int)
        self.fd = fd
        self.active = True
        self._get: Any = partial(_Backend.get, raw)
        self._recv: Any = partial(_Backend.recv, raw)
        self._send: Any = partial(_Backend.send, raw)

    def wake(self) -> None:
        """The descriptor says that something may have happened."""
        self.active = True

    def readable(self) -> bool:
        """Whether a message waits; if none does, the descriptor can be trusted again."""
        self.active = bool(self._get(_EVENTS) & _POLLIN)
        return self.active

    def recv(self) -> list[Any]:
        """One message, each frame bytes; one above VIEW_BYTES is a view of ZeroMQ's own memory, which it keeps alive.

        Raises zmq.Again where none waits.
        """
        recv = self._recv
        self.first = part = recv(_NOBLOCK, False, False)
        frames = [part.bytes if len(part) <= VIEW_BYTES else part.buffer]
        while part.more:
            part = recv(_NOBLOCK, False, False)
            frames.append(part.bytes if len(part) <= VIEW_BYTES else part.buffer)
        self.active = True
        return frames

    def send(self, frames: list[bytes]) -> None:
        """One message. Raises zmq.ZMQError where its peer is gone or reads too slowly."""
        self.active = True
        send = self._send
        last = len(frames) - 1
        for at in range(last):
            send(frames[at], _NOBLOCK_MORE)
        send(frames[last], _NOBLOCK)
