"""The events that a daemon publishes, for a client that wants to know of a swap without asking.

Events can be lost: a slow subscriber, a connection that broke, a daemon that was down. What each reply says of its
version and generation is the truth; an event is only the sooner news.
"""

from __future__ import annotations

import inspect
import logging
import threading
from collections.abc import Callable, Sequence

import msgspec
import zmq

from modeld.client.curve import Curve
from modeld.client.errors import ProtocolError
from modeld.client.sockets import subscribe

_log = logging.getLogger("modeld.client")


class Event(msgspec.Struct, frozen=True, rename={"from_version": "from", "to_version": "to"}):
    """What changed.

    A `swap` or a `rollback` names what serves since. A `rollback` is also published when a candidate was rejected and
    the registry points back: what served goes on, `generation` is the one that it had.

    Attributes:
        kind: `swap`, `rollback`, `rejected`, `hold` or `state`.
        model_name: the model.
        at: when, RFC 3339 UTC.
        from_version, to_version: the versions; None where the kind has none.
        generation: what serves now; it only grows.
        digest: of `to_version`.
        reason, actor: why and who, as the registry's log has them.
    """

    kind: str
    model_name: str
    at: str
    from_version: str | None = None
    to_version: str | None = None
    generation: int | None = None
    digest: str | None = None
    reason: str | None = None
    actor: str | None = None


def read_event(frames: Sequence[bytes]) -> Event:
    """Topic and body as an `Event`. Raises ProtocolError for anything else."""
    if len(frames) != 2:
        raise ProtocolError(f"an event of {len(frames)} frames; topic and body are needed")
    try:
        return _decode(frames[1])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProtocolError(f"an event that can't be read: {error}") from error


class EventThread:
    """A daemon thread with a SUB socket of its own that calls `on_swap` for each swap and rollback, in their order.

    What the callback raises is logged (logger `modeld.client`) and the thread goes on.
    """

    def __init__(
        self,
        context: zmq.Context[zmq.Socket[bytes]],
        endpoints: str | Sequence[str],
        on_swap: Callable[[Event], object],
        curve: Curve | None = None,
    ) -> None:
        self._on_swap = on_swap
        self._socket: zmq.Socket[bytes] = context.socket(zmq.SUB)
        self._stop: zmq.Socket[bytes] = context.socket(zmq.PAIR)
        self._stopped: zmq.Socket[bytes] = context.socket(zmq.PAIR)
        try:
            subscribe(self._socket, endpoints, curve=curve)
        except zmq.ZMQError:
            self._close_sockets()
            raise
        name = f"inproc://modeld-events-{id(self)}"
        self._stopped.bind(name)
        self._stop.connect(name)
        self._thread = threading.Thread(target=self._run, name="modeld-events", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop and wait for a callback that runs; from within a callback, stop when it returns."""
        if self._stop.closed:
            return
        self._stop.send(b"")
        self._stop.close()
        if threading.current_thread() is not self._thread:
            self._thread.join()

    def _run(self) -> None:
        poller = zmq.Poller()
        poller.register(self._socket, zmq.POLLIN)
        poller.register(self._stopped, zmq.POLLIN)
        while True:
            ready = dict(poller.poll())
            if self._stopped in ready:
                break
            call(self._on_swap, self._socket.recv_multipart())
        self._socket.close()
        self._stopped.close()

    def _close_sockets(self) -> None:
        for socket in (self._socket, self._stop, self._stopped):
            socket.close()


def call(on_swap: Callable[[Event], object], frames: Sequence[bytes]) -> None:
    """Call back with an event. What is raised is logged: the next event comes all the same."""
    try:
        on_swap(read_event(frames))
    except Exception:  # noqa: BLE001 (the caller's code: whatever it raises)
        _log.exception("the swap event %r wasn't handled", frames[:1])


async def call_async(on_swap: Callable[[Event], object], frames: Sequence[bytes]) -> None:
    """The same, and where the callback returned an awaitable, wait for it."""
    try:
        returned = on_swap(read_event(frames))
        if inspect.isawaitable(returned):
            await returned
    except Exception:  # noqa: BLE001 (the caller's code: whatever it raises)
        _log.exception("the swap event %r wasn't handled", frames[:1])


_decode = msgspec.json.Decoder(Event).decode
