"""Envelopes and headers: which frames are the route, which the header, which raw tensors.

A body is one header frame, then raw tensor frames. The header is JSON if its first byte is `{`, else MessagePack; the
reply uses the encoding of the request. Everything that a client may have got wrong ends as a `RequestError`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from modeld.errors import RequestError

#: Raw tensor frames in one message at most.
MAX_RAW_FRAMES = 64

RequestId = str | int | None


#: A field that isn't there. Field values that are decoded later, when the contract is known, are kept raw.
ABSENT = msgspec.Raw(b"")


class Tensor(msgspec.Struct, gc=False):
    """One input tensor: `data` inline, or `parameters.binary_data_size` bytes in the next raw frame."""

    name: str
    shape: list[int]
    datatype: str
    data: msgspec.Raw = ABSENT
    parameters: dict[str, Any] | None = None


class Parameters(msgspec.Struct, gc=False):
    """What a predict request may ask for. Unknown parameters are ignored, as in the Open Inference Protocol."""

    timeout_us: int | None = None
    schema: str | None = None
    min_generation: int | None = None
    binary_data_output: bool = False


class Request(msgspec.Struct, gc=False):
    """The header of any data-socket message."""

    op: str = "predict"
    id: RequestId = None
    model_name: str | None = None
    model_version: str | None = None
    parameters: Parameters | None = None
    inputs: list[Tensor] | None = None
    features: msgspec.Raw = ABSENT


class AdminRequest(msgspec.Struct):
    """The header of any admin-socket message."""

    op: str
    id: RequestId = None
    model_name: str | None = None
    wait: bool = True
    force: bool = False
    to: str | None = None
    reason: str = ""
    expect_generation: int | None = None
    mark_failed: bool = True
    limit: int = 20


class _OnlyId(msgspec.Struct):
    id: RequestId = None


class _OnlyOp(msgspec.Struct):
    op: str = "predict"


#: What a decoder of untrusted bytes may raise. ValueError: names that aren't UTF-8, numbers with too many digits.
UNREADABLE = (msgspec.DecodeError, RecursionError, MemoryError, ValueError, OverflowError)

_decode_json = msgspec.json.Decoder(Request).decode
_decode_msgpack = msgspec.msgpack.Decoder(Request).decode
encode_json: Callable[[Any], bytes] = msgspec.json.Encoder().encode
encode_msgpack: Callable[[Any], bytes] = msgspec.msgpack.Encoder().encode


def split(frames: list[bytes]) -> tuple[list[bytes], list[bytes]]:
    """Frames as received on a ROUTER into (envelope to echo, body).

    The envelope is everything up to and including the empty delimiter if there is one, else the identity alone. A
    frame behind the identity that starts like a header is one: an empty raw tensor after it is no delimiter.
    An empty body means that there is nothing to answer.
    """
    if len(frames) > 1:
        first = frames[1]
        if not first:
            return frames[:2], frames[2:]
        if not _looks_like_header(first[0]) and b"" in frames[2:]:
            at = frames.index(b"", 2) + 1
            return frames[:at], frames[at:]
    return frames[:1], frames[1:]


def _looks_like_header(byte: int) -> bool:
    return byte == 0x7B or 0x80 <= byte <= 0x8F or byte in (0xDE, 0xDF)


def is_json(header: bytes) -> bool:
    return header[:1] == b"{"


def decode(header: bytes) -> Request:
    """The request in `header`. Raises RequestError MALFORMED."""
    try:
        request = _decode_json(header) if header[:1] == b"{" else _decode_msgpack(header)
    except UNREADABLE as e:
        raise _malformed(header, e) from None
    if type(request.id) is int:
        _check_id(request.id)
    return request


def decode_admin(header: bytes) -> AdminRequest:
    """The operator's request in `header`. Raises RequestError MALFORMED."""
    try:
        if is_json(header):
            request = msgspec.json.decode(header, type=AdminRequest)
        else:
            request = msgspec.msgpack.decode(header, type=AdminRequest)
    except UNREADABLE as e:
        raise _malformed(header, e) from None
    if type(request.id) is int:
        _check_id(request.id)
    return request


def peek_op(header: bytes) -> str | None:
    """The operation that a header names even where its other fields are wrong; None where it can't be read."""
    value = _peek(header, _OnlyOp)
    return value.op if isinstance(value, _OnlyOp) else None


def peek_id(header: bytes) -> RequestId:
    """The id of a header whose message is refused unread; None where there is none that could be echoed."""
    value = _peek(header, _OnlyId)
    if not isinstance(value, _OnlyId) or (type(value.id) is int and not _can_echo(value.id)):
        return None
    return value.id


def _check_id(number: int) -> None:
    """An integer of more than 64 bits can be read, in JSON, and not be written: neither encoding could echo it."""
    if not _can_echo(number):
        raise RequestError("MALFORMED", "'id' is an integer of more than 64 bits; send it as a string")


def _can_echo(number: int) -> bool:
    return -(1 << 63) <= number < 1 << 64


def _malformed(header: bytes, error: BaseException) -> RequestError:
    refusal = RequestError("MALFORMED", f"the header can't be read: {error}")
    refusal.request_id = peek_id(header)
    return refusal


def _peek(header: bytes, kind: type[msgspec.Struct]) -> msgspec.Struct | None:
    try:
        if is_json(header):
            return msgspec.json.decode(header, type=kind)
        return msgspec.msgpack.decode(header, type=kind)
    except UNREADABLE:
        return None
