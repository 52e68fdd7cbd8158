"""The blocking client: sockets, a clock and a lock around `modeld.client.core`."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self, TypeVar, Unpack

import zmq

from modeld.client import core
from modeld.client.codec import Prediction, read_reply
from modeld.client.core import Core, Options
from modeld.client.curve import Curve
from modeld.client.errors import ClientClosed, RequestTimeout
from modeld.client.events import Event, EventThread
from modeld.client.exchange import Exchange, Health
from modeld.client.features import Features
from modeld.client.sockets import connect

T = TypeVar("T")


class Connection(Core):
    """One DEALER for each endpoint, used by one thread at a time."""

    def __init__(
        self,
        endpoint: str | Sequence[str],
        *,
        curve: Curve | None = None,
        context: zmq.Context[zmq.Socket[bytes]] | None = None,
        **options: Unpack[Options],
    ) -> None:
        super().__init__(endpoint, **options)
        self._context = context or zmq.Context.instance()
        self._lock = threading.Lock()
        self._sockets: list[zmq.Socket[bytes]] = []
        try:
            for name in self._endpoints.names:
                socket = self._context.socket(zmq.DEALER)
                self._sockets.append(socket)
                connect(socket, name, curve)
        except zmq.ZMQError:
            self._close_sockets()
            raise

    def call(self, op: str, *, timeout_s: float | None = None, **fields: Any) -> dict[str, Any]:
        """Send any operation and return the reply's header as it came. Fields that are None are left out.

        Args:
            op: the operation's name in the protocol.
            timeout_s: seconds to wait, instead of the client's own.
            **fields: the header's other fields.

        Raises:
            ServerError: the server answered with an error; the class says which.
            RequestTimeout: no reply in time.
            ProtocolError: a reply that can't be read.
            ClientClosed: after `close`.
        """
        return self._run(self._request(op, fields, core.whole, timeout_s))

    def close(self) -> None:
        """Close the sockets; what is still on its way is dropped. Closing twice is harmless.

        Waits for a request that another thread has under way.
        """
        with self._lock:
            self._close_sockets()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _close_sockets(self) -> None:
        for socket in self._sockets:
            socket.close()

    def _run(self, exchange: Exchange[T]) -> T:
        clock, sockets = time.monotonic, self._sockets
        if not self._lock.acquire(timeout=exchange.timeout_s):
            raise RequestTimeout(
                f"another thread has used this client for {exchange.timeout_s:g} s: give each its own",
                sent=False,
            )
        try:
            if sockets[0].closed:
                raise ClientClosed("this client is closed")
            exchange.start(clock())
            while not exchange.over:
                for at in list(exchange.unsent):
                    try:
                        sockets[at].send_multipart(exchange.frames, zmq.NOBLOCK)
                    except zmq.Again:
                        continue
                    exchange.sent(at, clock())
                self._wait(exchange)
                exchange.time(clock())
            return exchange.result()
        finally:
            self._lock.release()

    def _wait(self, exchange: Exchange[T]) -> None:
        """Until something can be sent or received or `wake_at` has come; hand in what came."""
        sockets = self._sockets
        wanted = [(sockets[at], zmq.POLLIN) for at in exchange.waiting_on]
        wanted += [(sockets[at], zmq.POLLOUT) for at in exchange.unsent]
        # Rounded up, and never negative: that would wait for ever.
        wait_ms = max(0, math.ceil((exchange.wake_at - time.monotonic()) * 1000))
        for polled, event in zmq.zmq_poll(wanted, wait_ms):
            if not event & zmq.POLLIN:
                continue
            at = next(at for at, socket in enumerate(sockets) if socket is polled)
            while exchange.awaits(at):
                try:
                    frames = sockets[at].recv_multipart(zmq.NOBLOCK)
                except zmq.Again:
                    break
                exchange.reply(at, read_reply(frames), time.monotonic())
                if time.monotonic() >= exchange.wake_at:
                    break  # a flood of other replies doesn't stretch the timeout


class Client(Connection):
    """Predictions, metadata and health, over the data socket.

    May be shared by threads: their requests take turns, and the wait for the turn counts as part of `timeout_s`. For
    requests at the same time give each thread its own; clients are cheap. Not to be used across a fork.

    With several endpoints the request goes to the one that answered last; after `try_timeout_s` without a reply, or a
    retryable error, to the next. Each try has the same id, and the first reply to any of them is taken.

    Args:
        endpoint: the data socket, `ipc://…` or `tcp://host:port`, or several. Connecting never waits; requests do.
        timeout_s: seconds that one request may take in all, whatever the number of tries.
        try_timeout_s: seconds that one try waits before the next is made; left out: `timeout_s` in equal parts.
        retries: tries after the first; left out: one for each further endpoint.
        encoding: the header's encoding, `"json"` or `"msgpack"`. Arrays are raw frames with either.
        events: the events socket, or several; needed for `on_swap`.
        on_swap: called with an `Event` for each swap and rollback, in a daemon thread of this client's own, one at a
            time. It may use this client. What it raises is logged.
        curve: keys for tcp endpoints that speak CURVE. A wrong or unlisted key gets no answer: requests time out.
        context: a ZeroMQ context of your own; the process's shared one otherwise.

    Raises:
        ValueError: no endpoint, an encoding that the protocol doesn't know, or only one of `events` and `on_swap`.
        zmq.ZMQError: an endpoint that ZeroMQ can't parse.
    """

    def __init__(
        self,
        endpoint: str | Sequence[str],
        *,
        events: str | Sequence[str] | None = None,
        on_swap: Callable[[Event], object] | None = None,
        curve: Curve | None = None,
        context: zmq.Context[zmq.Socket[bytes]] | None = None,
        **options: Unpack[Options],
    ) -> None:
        core.check_events(events, on_swap)
        super().__init__(endpoint, curve=curve, context=context, **options)
        self._events: EventThread | None = None
        if events is not None and on_swap is not None:
            try:
                self._events = EventThread(self._context, events, on_swap, curve)
            except zmq.ZMQError:
                self._close_sockets()
                raise

    def close(self) -> None:
        """Close the sockets and end the events' thread; what is still on its way is dropped. Closing twice is harmless.

        Waits for a request that another thread has under way, and for a callback that runs.
        """
        super().close()
        if self._events is not None:
            self._events.close()

    def predict(
        self,
        features: Features,
        *,
        model: str | None = None,
        version: str | None = None,
        timeout_us: int | None = None,
        min_generation: int | None = None,
        schema: str | None = None,
    ) -> Prediction:
        """Predict one row or many. All rows of one reply are computed by one version.

        Args:
            features: an array `[f]` or `[n, f]` of any real dtype, in the model's feature order (sent raw,
                as float64); a pandas or polars DataFrame, its columns named as the features, in any order; or one row
                as a list, rows as a list of lists, one row by name as a dict, or a list of such dicts. NaN (in
                lists, dicts and frames also None) is a missing value.
            model: may be left out where one model is served.
            version: that version instead of production's; served only while it is resident.
            timeout_us: microseconds from admission after which the server needn't compute it any more.
            min_generation: never answer from an older generation.
            schema: the fingerprint of the feature list that these features follow.

        Returns:
            The reply's `Prediction`; its arrays are float64 and read-only.

        Raises:
            ServerError: the server answered with an error; the class says which.
            RequestTimeout: no reply in time.
            ProtocolError: a reply that can't be read.
            ClientClosed: after `close`.
            ValueError, TypeError: features that can't be sent; nothing was.
        """
        options = {
            "model": model,
            "version": version,
            "timeout_us": timeout_us,
            "min_generation": min_generation,
            "schema": schema,
        }
        return self._run(self._prediction(features, options))

    def live(self) -> bool:
        """Whether the server's loop answers. Raises RequestTimeout when nobody does."""
        return self._run(self._request("live", {}, core.is_live))

    def ready(self, model: str | None = None) -> bool:
        """Whether the model (left out: every model) can be served now. Raises as `call` does.

        Of several servers, the one that answers is asked; `health` asks each.
        """
        return self._run(self._request("ready", {"model_name": model}, core.is_ready))

    def health(self, model: str | None = None, *, timeout_s: float | None = None) -> list[Health]:
        """Ask every endpoint at once whether it is ready; the first in the given order that is gets the next request.

        Returns:
            One `Health` for each endpoint, in their order; a server that doesn't answer isn't ready. Waits for all of
            them, `timeout_s` at most.

        Raises:
            ClientClosed: after `close`.
        """
        return self._run(self._survey(model, timeout_s))

    def server(self) -> dict[str, Any]:
        """The server's name, version and extensions. Raises as `call` does."""
        return self._run(self._request("server", {}, core.whole))

    def metadata(self, model: str | None = None) -> dict[str, Any]:
        """The model's metadata: versions, inputs, outputs, and in `parameters` features, schema, generation,
        digest. Raises as `call` does."""
        return self._run(self._request("metadata", {"model_name": model}, core.whole))

    def models(self) -> list[dict[str, Any]]:
        """The models served, each with version, generation and state. Raises as `call` does."""
        return self._run(self._request("models", {}, core.model_list))
