"""Inference over HTTP, answered before the framework sees it: routing, request and response objects, and what else a
framework does for every request cost as much as the daemon's whole answer to one row.

The checks are those of every other request: `Guard` comes before it, tokens, limits, codings and errors are the same
functions.
"""

from __future__ import annotations

import re

from starlette.requests import Request
from starlette.types import ASGIApp, Receive, Scope, Send

from modeld.http import bodies, tensors
from modeld.http.gateway import Gateway
from modeld.http.problems import ApiError, handle

_PATH = re.compile(r"/v2/models/([^/]+)(?:/versions/([^/]+))?/infer")

_JSON = (b"content-type", b"application/json")
_BYTES = (b"content-type", b"application/octet-stream")

Headers = list[tuple[bytes, bytes]]


class Inference:
    """ASGI middleware for one event loop: answers `/v2/models/M[/versions/V]/infer`, hands on whatever else comes."""

    def __init__(self, app: ASGIApp, gateway: Gateway) -> None:
        self._app = app
        self._gateway = gateway
        self._max_body = gateway.config.limits.max_message_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        found = _PATH.fullmatch(scope["path"]) if scope["type"] == "http" else None
        if found is None:
            await self._app(scope, receive, send)
            return
        scope["endpoint"] = self.infer  # its name in the metrics
        try:
            if scope["method"] != "POST":
                raise ApiError(405, "METHOD_NOT_ALLOWED", "inference is a POST", {"Allow": "POST"})
            body, headers = await self.infer(scope, receive, *found.groups())
        except Exception as error:  # noqa: BLE001 (every error has an answer, and ours go to the log)
            response = await handle(Request(scope), error)
            await response(scope, receive, send)
            return
        headers.append((b"content-length", b"%d" % len(body)))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": body})

    async def infer(
        self, scope: Scope, receive: Receive, model: str, version: str | None
    ) -> tuple[bytes, Headers]:
        """The answer's body and headers.

        Raises:
            ApiError, ModeldError, ClientDisconnect: as `modeld.http.problems` has their answers.
        """
        given = dict(scope["headers"])

        def header(name: bytes) -> str | None:
            value = given.get(name)
            return None if value is None else value.decode("latin-1")

        self._gateway.keeper.open_to_all(header(b"authorization"))
        body = await bodies.read(scope, receive, self._max_body)
        asked, raw = tensors.read_request(body, header(b"inference-header-content-length"))
        reply = await self._gateway.data.call("predict", tensors.fields(asked, model, version), raw)
        body, json_length = tensors.write_reply(asked, reply)
        body, coded = bodies.compressed(body, header(b"accept-encoding"))
        headers: Headers = [
            (name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in coded.items()
        ]
        if json_length is None:
            headers.append(_JSON)
        else:
            headers += [_BYTES, (b"inference-header-content-length", b"%d" % json_length)]
        return body, headers
