"""The asyncio client: sockets and tasks around `modeld.client.core`."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import zmq
import zmq.asyncio

from modeld.client import core, events
from modeld.client.codec import Prediction, Reply, read_reply
from modeld.client.core import Core, Options
from modeld.client.curve import Curve
from modeld.client.errors import ClientClosed
from modeld.client.events import Event
from modeld.client.exchange import Exchange, Health
from modeld.client.features import Features
from modeld.client.sockets import connect, subscribe

T = TypeVar("T")


class AsyncClient(Core):
    """Predictions, metadata and health for asyncio, over the data socket.

    Any number of tasks of one event loop may have requests under way at the same time; replies find theirs by id.
    Belongs to the loop of its first request, and no other thread may touch it. Cancelling a request forgets it.

    Arguments, failover and exceptions are those of `modeld.client.Client`, except:

    Args:
        on_swap: called in a task of the event loop; where it returns an awaitable, that is awaited before the next
            event is taken. Listening begins with `async with`, else with the first request.
        context: a `zmq.asyncio.Context` of your own; else one of this client's own, ended by `close`.
    """

    def __init__(
        self,
        endpoint: str | Sequence[str],
        *,
        events: str | Sequence[str] | None = None,
        on_swap: Callable[[Event], object] | None = None,
        curve: Curve | None = None,
        context: zmq.asyncio.Context | None = None,
        **options: Unpack[Options],
    ) -> None:
        core.check_events(events, on_swap)
        super().__init__(endpoint, **options)
        self._own_context = zmq.asyncio.Context() if context is None else None
        self._context = context or self._own_context
        self._event_endpoints = events
        self._on_swap = on_swap
        self._curve = curve
        self._sockets: list[zmq.asyncio.Socket] = []
        self._tasks: list[asyncio.Task[None]] = []
        self._flights: dict[int, _Flight] = {}
        self._closed = False

    async def call(self, op: str, *, timeout_s: float | None = None, **fields: Any) -> dict[str, Any]:
        """Send any operation and return the reply's header as it came. Fields that are None are left out."""
        return await self._run(self._request(op, fields, core.whole, timeout_s))

    async def predict(
        self,
        features: Features,
        *,
        model: str | None = None,
        version: str | None = None,
        timeout_us: int | None = None,
        min_generation: int | None = None,
        schema: str | None = None,
    ) -> Prediction:
        """Predict one row or many; everything as for `Client.predict`."""
        options = {
            "model": model,
            "version": version,
            "timeout_us": timeout_us,
            "min_generation": min_generation,
            "schema": schema,
        }
        return await self._run(self._prediction(features, options))

    async def live(self) -> bool:
        """Whether the server's loop answers. Raises RequestTimeout when nobody does."""
        return await self._run(self._request("live", {}, core.is_live))

    async def ready(self, model: str | None = None) -> bool:
        """Whether the model (left out: every model) can be served now, of the server that answers."""
        return await self._run(self._request("ready", {"model_name": model}, core.is_ready))

    async def health(self, model: str | None = None, *, timeout_s: float | None = None) -> list[Health]:
        """Ask every endpoint at once whether it is ready; as `Client.health`."""
        return await self._run(self._survey(model, timeout_s))

    async def server(self) -> dict[str, Any]:
        """The server's name, version and extensions."""
        return await self._run(self._request("server", {}, core.whole))

    async def metadata(self, model: str | None = None) -> dict[str, Any]:
        """The model's metadata: versions, inputs, outputs, and `parameters`."""
        return await self._run(self._request("metadata", {"model_name": model}, core.whole))

    async def models(self) -> list[dict[str, Any]]:
        """The models served, each with version, generation and state."""
        return await self._run(self._request("models", {}, core.model_list))

    async def close(self) -> None:
        """End the tasks and close the sockets; requests under way raise ClientClosed. Closing twice is harmless."""
        self._closed = True
        for flight in self._flights.values():
            flight.exchange.fail(ClientClosed("this client was closed"))
            flight.wake.set()
        current = asyncio.current_task()
        tasks = [task for task in self._tasks if task is not current]
        self._tasks.clear()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for socket in self._sockets:
            socket.close()
        self._sockets.clear()
        if self._own_context is not None:
            self._own_context.term()
            self._own_context = None

    async def __aenter__(self) -> Self:
        self._open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def _open(self) -> None:
        """Connect and start the tasks, once; needs the running loop, which the constructor may not have."""
        if self._closed:
            raise ClientClosed("this client is closed")
        if self._sockets:
            return
        assert self._context is not None
        try:
            for name in self._endpoints.names:
                socket = self._socket(self._context, zmq.DEALER)
                connect(socket, name, self._curve)
            readers = list(self._sockets)
            if self._event_endpoints is not None:
                subscribe(self._socket(self._context, zmq.SUB), self._event_endpoints, curve=self._curve)
        except zmq.ZMQError:
            for socket in self._sockets:
                socket.close()
            self._sockets.clear()
            raise
        for at, socket in enumerate(readers):
            self._start(self._read(at, socket))
        if self._event_endpoints is not None:
            self._start(self._listen(self._sockets[-1]))

    def _socket(self, context: zmq.asyncio.Context, kind: int) -> zmq.asyncio.Socket:
        self._sockets.append(context.socket(kind))
        return self._sockets[-1]

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        self._tasks.append(asyncio.get_running_loop().create_task(work, name="modeld-client"))

    async def _run(self, exchange: Exchange[T]) -> T:
        self._open()
        flight = _Flight(exchange, self._sockets)
        self._flights[exchange.id] = flight
        try:
            exchange.start(time.monotonic())
            while not exchange.over:
                flight.send()
                await flight.rest()
                exchange.time(time.monotonic())
            return exchange.result()
        finally:
            del self._flights[exchange.id]
            flight.drop_unsent()

    async def _read(self, at: int, socket: zmq.asyncio.Socket) -> None:
        """Hand each reply of one endpoint to the request that it answers."""
        while True:
            reply = read_reply(await socket.recv_multipart())
            flight = (
                self._flights.get(reply.id) if isinstance(reply.id, int) else self._only_flight(at, reply)
            )
            if flight is not None:
                flight.exchange.reply(at, reply, time.monotonic())
                flight.wake.set()

    def _only_flight(self, at: int, reply: Reply) -> _Flight | None:
        """Whose an error without an id is: known only where a single request waits there. Others time out."""
        waiting = [flight for flight in self._flights.values() if flight.exchange.awaits(at)]
        return waiting[0] if reply.id is None and len(waiting) == 1 else None

    async def _listen(self, socket: zmq.asyncio.Socket) -> None:
        assert self._on_swap is not None
        while True:
            await events.call_async(self._on_swap, await socket.recv_multipart())


class _Flight:
    """An exchange under way: what wakes its task, and the sends that wait for a connection."""

    def __init__(self, exchange: Exchange[Any], sockets: list[zmq.asyncio.Socket]) -> None:
        self.exchange = exchange
        self.wake = asyncio.Event()
        self._sockets = sockets
        self._sending: dict[int, asyncio.Future[Any]] = {}

    def send(self) -> None:
        """Begin the sends that are wanted, and give up those that no longer are."""
        for at in [at for at in self._sending if at not in self.exchange.unsent]:
            self._sending.pop(at).cancel()
        for at in list(self.exchange.unsent - self._sending.keys()):
            future = asyncio.ensure_future(self._sockets[at].send_multipart(self.exchange.frames))
            if future.done():
                self._sent(at, future)
            else:
                self._sending[at] = future
                future.add_done_callback(partial(self._sent, at))

    async def rest(self) -> None:
        """Until something happened or `wake_at` has come."""
        if self.exchange.over:
            return
        timer = asyncio.get_running_loop().call_later(
            max(0.0, self.exchange.wake_at - time.monotonic()), self.wake.set
        )
        try:
            await self.wake.wait()
        finally:
            timer.cancel()
        self.wake.clear()

    def drop_unsent(self) -> None:
        for future in self._sending.values():
            future.cancel()
        self._sending.clear()

    def _sent(self, at: int, future: asyncio.Future[Any]) -> None:
        self._sending.pop(at, None)
        if future.cancelled():
            return
        error = future.exception()
        if error is not None:
            self.exchange.fail(error)
        elif at in self.exchange.unsent:
            self.exchange.sent(at, time.monotonic())
        self.wake.set()
