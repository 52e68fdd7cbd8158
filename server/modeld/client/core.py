"""What the blocking and the asyncio client share: what each operation sends and how its answer is read.

No socket and no clock: a method here makes an `Exchange`, and the client that has the sockets carries it out.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any, TypedDict, TypeVar

from modeld.client.codec import (
    Encoding,
    Frame,
    Prediction,
    Reply,
    decode_prediction,
    encode_call,
    encode_predict,
)
from modeld.client.exchange import Endpoints, Exchange, Survey
from modeld.client.features import Features

T = TypeVar("T")

#: Seconds that a request may take, unless the constructor says otherwise.
DEFAULT_TIMEOUT_S = 1.0


class Options(TypedDict, total=False):
    """What every client may be given by name; `modeld.client.Client` says what each means."""

    timeout_s: float
    try_timeout_s: float | None
    retries: int | None
    encoding: Encoding


def check_events(events: object, on_swap: object) -> None:
    """Raises ValueError where one of the two is given alone."""
    if (events is None) != (on_swap is None):
        raise ValueError("events and on_swap go together: where to listen, and what to call")


class Core:
    """Endpoints, ids, encoding and timeouts of one client, and its requests.

    Attributes:
        timeout_s: seconds that one request may take in all; may be changed between requests.
        try_timeout_s: seconds after which the next try is made; None: an equal part of `timeout_s`.
        tries: how many times one request may be sent.
        encoding: of the headers.
    """

    def __init__(
        self,
        endpoint: str | Sequence[str],
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        try_timeout_s: float | None = None,
        retries: int | None = None,
        encoding: Encoding = "json",
    ) -> None:
        names = [endpoint] if isinstance(endpoint, str) else list(endpoint)
        if not names:
            raise ValueError("no endpoint: at least one is needed")
        if encoding not in ("json", "msgpack"):
            raise ValueError(f"encoding {encoding!r}: json or msgpack is needed")
        if retries is not None and retries < 0:
            raise ValueError(f"retries {retries}: 0 or more is needed")
        self.timeout_s = timeout_s
        self.try_timeout_s = try_timeout_s
        self.tries = len(names) if retries is None else retries + 1
        self.encoding: Encoding = encoding
        self._endpoints = Endpoints(names)
        self._ids = itertools.count(1)

    @property
    def endpoint(self) -> str:
        """The endpoint that is asked first now: the last that answered."""
        return self._endpoints.names[self._endpoints.preferred]

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The endpoints as they were given."""
        return self._endpoints.names

    def _request(
        self,
        op: str,
        fields: dict[str, Any],
        read: Callable[[dict[str, Any]], T],
        timeout_s: float | None = None,
    ) -> Exchange[T]:
        """Any operation but predict; `read` gets the answer's header."""
        request_id = next(self._ids)
        frames = encode_call({"op": op, "id": request_id, **fields}, self.encoding)
        return self._exchange(request_id, frames, lambda reply, _: read(reply.header), timeout_s)

    def _prediction(self, features: Features, options: dict[str, Any]) -> Exchange[Prediction]:
        request_id = next(self._ids)
        frames = encode_predict(request_id, features, encoding=self.encoding, **options)
        return self._exchange(
            request_id, frames, lambda reply, name: decode_prediction(reply.header, reply.raw, name)
        )

    def _survey(self, model: str | None, timeout_s: float | None) -> Survey:
        request_id = next(self._ids)
        frames = encode_call({"op": "ready", "id": request_id, "model_name": model}, self.encoding)
        wait_s = self.timeout_s if timeout_s is None else timeout_s
        return Survey(request_id, frames, self._endpoints, timeout_s=wait_s)

    def _exchange(
        self,
        request_id: int,
        frames: list[Frame],
        read: Callable[[Reply, str], T],
        timeout_s: float | None = None,
    ) -> Exchange[T]:
        wait_s = self.timeout_s if timeout_s is None else timeout_s
        try_s = wait_s / self.tries if self.try_timeout_s is None else self.try_timeout_s
        return Exchange(
            request_id, frames, read, self._endpoints, timeout_s=wait_s, try_timeout_s=try_s, tries=self.tries
        )


# How the small operations' answers are read.


def whole(header: dict[str, Any]) -> dict[str, Any]:
    return header


def is_live(header: dict[str, Any]) -> bool:
    return header.get("live") is True


def is_ready(header: dict[str, Any]) -> bool:
    return header.get("ready") is True


def model_list(header: dict[str, Any]) -> list[dict[str, Any]]:
    return list(header.get("models", []))
