"""What every request passes first: is it meant for this host, does it come from a page that may ask, is its body of a
size that somebody would read; and counting it.

A page anywhere can send requests to loopback (DNS rebinding, cross-site posts), so loopback alone is no protection:
the Host header has to be a name of ours or an address, and an Origin has to be the same or an allowed one.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
import time
from collections.abc import Callable
from functools import lru_cache
from urllib.parse import urlsplit

from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from modeld.config import HttpSettings
from modeld.http.problems import Problem, render

#: Called with the handler's name, the method, the status and the seconds that an answer took.
Count = Callable[[str, str, int, float], None]

#: Methods that have a label of their own in the metrics; others share one.
_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})

#: The largest body. Bytes.
_MAX_BODY = 1 << 20
#: POST to one of these: inference and uploads, whose handlers count up to limits of their own.
_LARGE = re.compile(r"/v2/models/.+/infer|/api/v1/models/[^/]+")

#: Host headers whose verdict is remembered.
_REMEMBERED = 64

_TOO_LARGE = f"the body is larger than {_MAX_BODY} bytes"

#: Sent with every answer: nothing here is a document that another site may embed or guess the type of.
_ALWAYS = [
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"same-origin"),
]


class Guard:
    """ASGI middleware; holds no state of a request."""

    def __init__(self, app: ASGIApp, settings: HttpSettings, count: Count) -> None:
        self._app = app
        self._hosts = {"localhost", settings.host.lower(), *(name.lower() for name in settings.allowed_hosts)}
        self._origins = {origin.rstrip("/").lower() for origin in settings.allowed_origins}
        self._count = count
        #: Nearly every request has the same Host header.
        self._is_ours = lru_cache(_REMEMBERED)(self._may_be_called)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        refusal = self._refusal(scope)
        if scope["type"] == "websocket":
            if refusal is None:
                await self._app(scope, receive, send)
            else:
                await send({"type": "websocket.close", "code": 1008, "reason": refusal.detail[:120]})
            return
        started = time.perf_counter()
        status = 500

        async def counted(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message.get("headers", ()), *_ALWAYS]
            await send(message)

        try:
            if refusal is None:
                await self._app(scope, _bounded(scope, receive), counted)
            else:
                await render(refusal, oip=scope["path"].startswith("/v2"))(scope, receive, counted)
        finally:
            handler = getattr(scope.get("endpoint"), "__name__", "none")
            method = scope["method"] if scope["method"] in _METHODS else "other"
            # Once the answer is written, for which the loop waits until we are done here.
            asyncio.get_running_loop().call_soon(
                self._count, handler, method, status, time.perf_counter() - started
            )

    def _refusal(self, scope: Scope) -> Problem | None:
        host = origin = None
        size = b""
        for name, value in scope["headers"]:
            if name == b"host":
                host = value.decode("latin-1").lower()
            elif name == b"origin":
                origin = value.decode("latin-1").lower()
            elif name == b"content-length":
                size = value
        if host is None or not self._is_ours(host):
            return Problem(
                421, "host", f"the Host header {host!r} isn't a name of this gateway (http.allowed_hosts)"
            )
        if origin is not None and origin not in self._origins and _authority(origin) != host:
            return Problem(
                403, "origin", f"pages of {origin!r} may not ask this gateway (http.allowed_origins)"
            )
        if size.isdigit() and int(size) > _MAX_BODY and not _is_large(scope):
            return Problem(413, "TOO_LARGE", _TOO_LARGE)
        return None

    def _may_be_called(self, host: str) -> bool:
        try:
            name = urlsplit(f"//{host}").hostname or ""
        except ValueError:
            return False
        if name in self._hosts:
            return True
        try:  # an address can't be rebound
            ipaddress.ip_address(name)
        except ValueError:
            return False
        return True


def _authority(origin: str) -> str | None:
    try:
        return urlsplit(origin).netloc
    except ValueError:
        return None


def _is_large(scope: Scope) -> bool:
    return (
        scope["type"] == "http" and scope["method"] == "POST" and _LARGE.fullmatch(scope["path"]) is not None
    )


def _bounded(scope: Scope, receive: Receive) -> Receive:
    """`receive`, which ends a body that grows too large in chunks."""
    if _is_large(scope):
        return receive
    size = 0

    async def bounded() -> Message:
        nonlocal size
        message = await receive()
        size += len(message.get("body", b""))
        if size > _MAX_BODY:
            # Of the framework's own kind: others that reading a body raises it answers with 400.
            raise HTTPException(413, _TOO_LARGE)
        return message

    return bounded
