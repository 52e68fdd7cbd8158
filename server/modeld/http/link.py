"""The gateway's end of one of the daemon's sockets: requests out, replies to whoever waits for them, by id.

`modeld.client.AsyncClient` does the same with failover over several endpoints and with `zmq.asyncio`; the gateway has
one daemon, and this costs a third less for one row. libzmq's descriptor is edge-triggered: whoever sends has to read
whatever has come as well, or its edge is lost.
"""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import zmq

from modeld.client.codec import Reply, read_reply
from modeld.client.errors import ProtocolError, RequestTimeout
from modeld.client.sockets import connect

#: A request waits so long for a connection that isn't there (yet). Seconds.
_CONNECT_S = 0.5
#: Between two tries to send. Seconds.
_AGAIN_S = 0.01

#: pyzmq's constants as plain integers: an operator of its enumerations costs as much as a call.
_EVENTS, _POLLIN = int(zmq.EVENTS), int(zmq.POLLIN)
_NOBLOCK, _SNDMORE = int(zmq.NOBLOCK), int(zmq.SNDMORE)

_encode = msgspec.json.Encoder().encode


class Link:
    """Requests to one endpoint, any number at a time. Belongs to the event loop that runs when it is made."""

    def __init__(self, endpoint: str, timeout_s: float) -> None:
        self.endpoint = endpoint
        self.timeout_s = timeout_s
        self._loop = asyncio.get_running_loop()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._socket = self._context.socket(zmq.DEALER)
        connect(self._socket, endpoint)
        self._descriptor = int(self._socket.getsockopt(zmq.FD))
        self._loop.add_reader(self._descriptor, self._read)
        self._waiting: dict[int, asyncio.Future[Reply]] = {}
        self._ids = itertools.count(1)

    async def call(
        self,
        op: str,
        fields: Mapping[str, Any] | None = None,
        raw: Sequence[bytes | memoryview] = (),
        *,
        timeout_s: float | None = None,
    ) -> Reply:
        """Send an operation and return its reply. Fields that are None are left out.

        Raises:
            RequestTimeout: no daemon there (`sent` False), or no reply in time.
            ServerError: the daemon refused it. ProtocolError: a reply that can't be read.
        """
        request_id = next(self._ids)
        header = {"op": op, "id": request_id}
        if fields is not None:
            header.update((name, value) for name, value in fields.items() if value is not None)
        limit_s = self.timeout_s if timeout_s is None else timeout_s
        future: asyncio.Future[Reply] = self._loop.create_future()
        self._waiting[request_id] = future
        try:
            await self._send([_encode(header), *raw])
            timer = self._loop.call_later(limit_s, self._late, future, limit_s)
            try:
                reply = await future
            finally:
                timer.cancel()
        finally:
            del self._waiting[request_id]
        if reply.error is not None:
            raise reply.error
        return reply

    def close(self) -> None:
        """Close the socket. Nothing may be under way any more."""
        self._loop.remove_reader(self._descriptor)
        self._socket.close()
        self._context.term()

    async def _send(self, frames: list[bytes | memoryview]) -> None:
        deadline = self._loop.time() + _CONNECT_S
        while True:
            try:
                for frame in frames[:-1]:
                    self._socket.send(frame, _NOBLOCK | _SNDMORE)  # the first is taken, or none
                self._socket.send(frames[-1], _NOBLOCK)
            except zmq.Again:
                if self._loop.time() > deadline:
                    raise RequestTimeout(
                        f"no daemon takes requests at {self.endpoint}: is modeld running?", sent=False
                    ) from None
                self._read()
                await asyncio.sleep(_AGAIN_S)
                continue
            self._read()
            return

    def _read(self) -> None:
        """Take everything that has come. Asking first is cheaper than the exception of an empty socket."""
        while int(self._socket.getsockopt(_EVENTS)) & _POLLIN:
            reply = read_reply(self._socket.recv_multipart(_NOBLOCK))
            future = self._waiting.get(reply.id) if isinstance(reply.id, int) else None
            if future is not None and not future.done():
                future.set_result(reply)
            elif reply.id is None and len(self._waiting) == 1:
                # Which request an error without an id answers is known only where there is one.
                (future,) = self._waiting.values()
                if not future.done():
                    future.set_exception(reply.error or ProtocolError("a reply without an id"))

    def _late(self, future: asyncio.Future[Reply], limit_s: float) -> None:
        if not future.done():
            future.set_exception(
                RequestTimeout(f"no reply within {limit_s:g} s from {self.endpoint}", sent=True)
            )
