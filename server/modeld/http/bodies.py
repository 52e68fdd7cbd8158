"""Bodies as they come and go: read up to a limit, inflated up to that limit, deflated where the client asks for it."""

from __future__ import annotations

import zlib

from starlette.requests import ClientDisconnect
from starlette.types import Receive, Scope

from modeld.http.problems import ApiError

#: A shorter answer isn't worth compressing. Bytes.
_COMPRESS_FROM = 1024
#: zlib's window size for each coding: with gzip's frame, and with zlib's (which HTTP calls deflate).
_WINDOW = {"gzip": 31, "deflate": 15}


async def read(scope: Scope, receive: Receive, limit: int) -> bytes:
    """The body, inflated where Content-Encoding says so.

    Raises:
        ApiError: 413, more than `limit` bytes before or after inflating; 415, another coding; 400, damaged.
        ClientDisconnect: it ended before it was whole.
    """
    headers = dict(scope["headers"])
    said = headers.get(b"content-length", b"")
    if said.isdigit() and int(said) > limit:
        raise _too_large(limit)
    parts: list[bytes] = []
    size, more = 0, True
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientDisconnect
        more = message.get("more_body", False)
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > limit:
            raise _too_large(limit)
    body = parts[0] if len(parts) == 1 else b"".join(parts)
    coding = headers.get(b"content-encoding", b"").decode("latin-1").strip().lower()
    return body if coding in ("", "identity") else _inflated(body, coding, limit)


def compressed(body: bytes, accepted: str | None) -> tuple[bytes, dict[str, str]]:
    """The body in the first coding of `accepted` (Accept-Encoding) that is known here, and the headers that say so."""
    if accepted is None or len(body) < _COMPRESS_FROM:
        return body, {}
    for item in accepted.lower().split(","):
        coding, _, weight = item.partition(";")
        window = _WINDOW.get(coding.strip())
        if window is not None and weight.replace(" ", "").rstrip("0.") != "q=":
            deflater = zlib.compressobj(1, zlib.DEFLATED, window)
            headers = {"Content-Encoding": coding.strip(), "Vary": "Accept-Encoding"}
            return deflater.compress(body) + deflater.flush(), headers
    return body, {}


def _inflated(body: bytes, coding: str, limit: int) -> bytes:
    window = _WINDOW.get(coding)
    if window is None:
        raise ApiError(
            415,
            "usage",
            f"Content-Encoding {coding!r}: send gzip, deflate or none",
            {"Accept-Encoding": "gzip, deflate"},
        )
    inflater = zlib.decompressobj(window)
    try:
        data = inflater.decompress(body, limit + 1)
    except zlib.error as error:
        raise ApiError(400, "usage", f"the body isn't {coding}: {error}") from None
    if len(data) > limit:
        raise _too_large(limit)
    if not inflater.eof or inflater.unused_data:
        raise ApiError(400, "usage", f"the body isn't one whole {coding} stream")
    return data


def _too_large(limit: int) -> ApiError:
    return ApiError(413, "TOO_LARGE", f"the body is larger than {limit} bytes")
