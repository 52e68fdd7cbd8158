"""A small client for modeld.

    with Client("ipc:///run/modeld/data/predict.sock") as client:
        prediction = client.predict(numpy_row)
        prediction.values, prediction.version, prediction.generation

One DEALER socket, one request at a time. A request that times out is forgotten: should its reply come later,
it is known by its id and dropped, so a reply is never taken for another request's. What a message looks like
is in `modeld.client_codec`; here are only the socket, the ids and the clock.
"""

from __future__ import annotations

import itertools
import time
from types import TracebackType
from typing import Any, Self

import zmq

from modeld.client_codec import (
    Encoding,
    Features,
    Frame,
    Prediction,
    decode_header,
    decode_prediction,
    encode_call,
    encode_predict,
    error_of,
)
from modeld.client_errors import RequestTimeout

__all__ = ["AdminClient", "Client", "Prediction"]

#: Seconds that a request may take, unless the constructor says otherwise.
DEFAULT_TIMEOUT_S = 1.0
#: Milliseconds before a lost connection is tried again: the first time, and at most.
RECONNECT_MS, RECONNECT_MAX_MS = 20, 1000


class _Connection:
    """What both clients share: the socket, request ids, and the wait for the one reply that is ours."""

    def __init__(
        self,
        endpoint: str,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        encoding: Encoding = "json",
        context: zmq.Context[zmq.Socket[bytes]] | None = None,
    ) -> None:
        if encoding not in ("json", "msgpack"):
            raise ValueError(f"encoding {encoding!r}: json or msgpack is needed")
        self.endpoint = endpoint
        self.timeout_s = timeout_s
        self.encoding: Encoding = encoding
        self._ids = itertools.count(1)
        self._socket: zmq.Socket[bytes] = (context or zmq.Context.instance()).socket(zmq.DEALER)
        self._socket.linger = 0
        # Nothing is queued for a server that isn't there: a rollback given up must not run an hour later.
        self._socket.setsockopt(zmq.IMMEDIATE, 1)
        self._socket.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
        self._socket.setsockopt(zmq.RECONNECT_IVL_MAX, RECONNECT_MAX_MS)
        try:
            self._socket.connect(endpoint)
        except zmq.ZMQError:
            self._socket.close()
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
        """
        request_id = next(self._ids)
        frames = encode_call({"op": op, "id": request_id, **fields}, self.encoding)
        return self._exchange(request_id, frames, timeout_s)[0]

    def close(self) -> None:
        """Close the socket; what is still on its way is dropped. Closing twice is harmless."""
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def _exchange(
        self, request_id: int, frames: list[Frame], timeout_s: float | None = None
    ) -> tuple[dict[str, Any], list[bytes]]:
        wait_s = self.timeout_s if timeout_s is None else timeout_s
        deadline = time.monotonic() + wait_s
        socket = self._socket
        try:
            socket.sndtimeo = _milliseconds(wait_s)
            socket.send_multipart(frames)
        except zmq.Again:
            raise RequestTimeout(
                f"nothing took the request at {self.endpoint} within {wait_s:g} s: is modeld running there?",
                sent=False,
            ) from None
        while True:
            try:
                socket.rcvtimeo = _milliseconds(deadline - time.monotonic())
                reply = socket.recv_multipart()
            except zmq.Again:
                raise RequestTimeout(
                    f"no reply from {self.endpoint} within {wait_s:g} s", sent=True
                ) from None
            header = decode_header(reply)
            reply_id = header.get("id")
            error = error_of(header)
            # An error without an id is about a message that couldn't be read: better said than dropped.
            if error is not None and (reply_id == request_id or reply_id is None):
                raise error
            if reply_id == request_id:
                return header, reply[1:]


class Client(_Connection):
    """Predictions, metadata and health, over the data socket.

    Not thread-safe: one client per thread, and none across a fork. Clients are cheap.

    Args:
        endpoint: the data socket, `ipc://…` or `tcp://host:port`. Connecting never waits; requests do.
        timeout_s: seconds that one request may take in all.
        encoding: the header's encoding, `"json"` or `"msgpack"`. Arrays are raw frames with either.
        context: a ZeroMQ context of your own; the process's shared one otherwise.

    Raises:
        ValueError: an encoding that the protocol doesn't know.
        zmq.ZMQError: an endpoint that ZeroMQ can't parse.
    """

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
                as float64); or one row as a list, rows as a list of lists, one row by name as a dict, or a
                list of such dicts. NaN (in lists and dicts also None) is a missing value.
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
            ValueError, TypeError: features that can't be sent; nothing was.
        """
        request_id = next(self._ids)
        frames = encode_predict(
            request_id,
            features,
            model=model,
            version=version,
            timeout_us=timeout_us,
            min_generation=min_generation,
            schema=schema,
            encoding=self.encoding,
        )
        return decode_prediction(*self._exchange(request_id, frames))

    def live(self) -> bool:
        """Whether the server's loop answers. Raises RequestTimeout when nobody does."""
        return self.call("live").get("live") is True

    def ready(self, model: str | None = None) -> bool:
        """Whether the model (left out: every model) can be served now. Raises as `call` does."""
        return self.call("ready", model_name=model).get("ready") is True

    def server(self) -> dict[str, Any]:
        """The server's name, version and extensions. Raises as `call` does."""
        return self.call("server")

    def metadata(self, model: str | None = None) -> dict[str, Any]:
        """The model's metadata: versions, inputs, outputs, and in `parameters` features, schema, generation,
        digest. Raises as `call` does."""
        return self.call("metadata", model_name=model)

    def models(self) -> list[dict[str, Any]]:
        """The models served, each with version, generation and state. Raises as `call` does."""
        return list(self.call("models").get("models", []))


class AdminClient(_Connection):
    """An operator's client, over the admin socket. Not thread-safe; arguments as for `Client`."""

    def status(self) -> dict[str, Any]:
        """What is served, since when, how well: one object per model in `["models"]`. Raises as `call`."""
        return self.call("status")

    def reload(
        self, model: str | None = None, *, wait: bool = True, timeout_s: float = 60.0
    ) -> dict[str, Any]:
        """Look at the registry now, and swap where it names something new.

        Args:
            model: that model only.
            wait: answer after the trial and the swap rather than at once.
            timeout_s: seconds to wait for that answer.

        Raises:
            Rejected: the candidate failed its trial; what was served is still served.
            RequestTimeout: no answer yet; the reload may still be under way.
            ServerError, ProtocolError: as for `call`.
        """
        return self.call("reload", timeout_s=timeout_s, model_name=model, wait=wait)

    def rollback(
        self,
        model: str | None = None,
        *,
        to: str | None = None,
        reason: str,
        expect_generation: int | None = None,
        mark_failed: bool = True,
    ) -> dict[str, Any]:
        """Go back to the version before, or to `to`, and say so in the registry's log.

        Args:
            model: may be left out where one model is served.
            to: a version; the previous distinct production version otherwise.
            reason: why, for the log.
            expect_generation: only while this is the current generation: a repeated message does nothing.
            mark_failed: the version that is left can't be promoted again.

        Returns:
            The reply: `rolled_back`, `from`, `to`, `generation`.

        Raises:
            Conflict: the generation is another one; nothing was changed.
            ServerError, RequestTimeout, ProtocolError: as for `call`.
        """
        return self.call(
            "rollback",
            model_name=model,
            to=to,
            reason=reason,
            expect_generation=expect_generation,
            mark_failed=mark_failed,
        )


def _milliseconds(seconds: float) -> int:
    """At least one: zero would poll, and a negative number would wait for ever."""
    return max(1, round(seconds * 1000))
