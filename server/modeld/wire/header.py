"""Envelopes and headers: which frames are the route, which the header, which raw tensors.

A body is one header frame, then raw tensor frames. The header is JSON if its first byte is `{`, else MessagePack; the
reply uses the encoding of the request. Everything that a client may have got wrong ends as a `RequestError`.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import msgspec

from modeld.errors import RequestError

#: Raw tensor frames in one message at most.
MAX_RAW_FRAMES = 64

#: The longest id that is echoed. Characters.
MAX_ID_CHARACTERS = 256
#: The largest envelope that is echoed: frames, and bytes in all.
MAX_ENVELOPE_FRAMES, MAX_ENVELOPE_BYTES = 16, 4096
#: What `early_id` looks at: of JSON the beginning, of MessagePack all of a header that isn't larger (below 1 ms).
_EARLY_BYTES, _EARLY_MSGPACK_BYTES = 4096, 256 * 1024
#: Where msgspec says a value of the wrong type is.
_AT_PATH = re.compile(r"at `([^`]+)`")
#: The longest reason that an operator may give. Characters.
MAX_REASON_CHARACTERS = 2000

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
    """What a predict request may ask for. Unknown parameters are ignored, as in the Open Inference Protocol; those that
    are typed `None` are known, and belong elsewhere (see MISPLACED)."""

    timeout_us: int | None = None
    schema: str | None = None
    min_generation: int | None = None
    binary_data_output: bool = False
    model_name: None = None
    model_version: None = None


class Request(msgspec.Struct, gc=False):
    """The header of any data-socket message. Unknown fields are ignored, but for those in MISPLACED."""

    op: str = "predict"
    id: RequestId = None
    model_name: str | None = None
    model_version: str | None = None
    parameters: Parameters | None = None
    inputs: list[Tensor] | None = None
    features: msgspec.Raw = ABSENT
    timeout_us: None = None
    schema: None = None
    min_generation: None = None
    binary_data_output: None = None
    model: None = None
    version: None = None


#: What a client may write in the wrong place, and would be answered as if it hadn't: path → where it belongs.
MISPLACED = {
    "$.timeout_us": "'parameters'",
    "$.schema": "'parameters'",
    "$.min_generation": "'parameters'",
    "$.binary_data_output": "'parameters'",
    "$.parameters.model_name": "the header itself, beside 'parameters'",
    "$.parameters.model_version": "the header itself, beside 'parameters'",
    "$.model": "'model_name'",
    "$.version": "'model_version'",
}


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


#: What a decoder of untrusted bytes may raise. ValueError: names that aren't UTF-8, numbers with too many digits.
UNREADABLE = (msgspec.DecodeError, RecursionError, MemoryError, ValueError, OverflowError)

_decode_json = msgspec.json.Decoder(Request).decode
_decode_msgpack = msgspec.msgpack.Decoder(Request).decode
encode_json: Callable[[Any], bytes] = msgspec.json.Encoder().encode
encode_msgpack: Callable[[Any], bytes] = msgspec.msgpack.Encoder().encode


def split(frames: list[bytes]) -> tuple[list[bytes], list[bytes]]:
    """Frames as received on a ROUTER into (envelope to echo, body).

    The envelope is everything up to and including the empty delimiter if there is one, else the identity alone. An
    empty frame at the very end delimits nothing. An empty body means that there is nothing to answer.
    """
    if len(frames) > 1:
        if not frames[1]:
            return frames[:2], frames[2:]
        if len(frames) > 3 and b"" in frames[2:-1]:
            at = frames.index(b"", 2) + 1
            return frames[:at], frames[at:]
    return frames[:1], frames[1:]


def is_json(header: bytes | memoryview) -> bool:
    return header[:1] == b"{"


def decode(header: bytes) -> Request:
    """The request in `header`. Raises RequestError MALFORMED."""
    try:
        request = _decode_json(header) if header[:1] == b"{" else _decode_msgpack(header)
    except UNREADABLE as e:
        raise _malformed(header, e) from None
    if request.id is not None:
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
    if request.id is not None:
        _check_id(request.id)
    if len(request.reason) > MAX_REASON_CHARACTERS:
        raise RequestError("MALFORMED", f"'reason' has at most {MAX_REASON_CHARACTERS} characters")
    return request


def _check_id(given: int | str) -> None:
    """What is echoed has a bound. An integer of more than 64 bits could be read in JSON, and not be written."""
    if not _can_echo(given):
        raise RequestError(
            "MALFORMED",
            f"'id' is an integer of 64 bits or a string of at most {MAX_ID_CHARACTERS} characters",
        )


def _can_echo(given: int | str) -> bool:
    return len(given) <= MAX_ID_CHARACTERS if isinstance(given, str) else -(1 << 63) <= given < 1 << 64


def peek_id(header: bytes | memoryview) -> RequestId:
    """The id of a header whose message is refused unread; None where there is none that could be echoed."""
    found = _peek(header, _OnlyId)
    if isinstance(found, _OnlyId) and found.id is not None and _can_echo(found.id):
        return found.id
    return None


#: The beginning of a JSON object: fields of one word or number each, the id among them.
_EARLY_ID = re.compile(
    rb'\{\s*(?:"(?!id")\w*"\s*:\s*(?:"[^"\\]{0,256}"|[-+.\w]{1,30})\s*,\s*){0,8}'
    rb'"id"\s*:\s*("[^"\\]*"|-?\d+)\s*[,}]'
)


def early_id(header: bytes | memoryview) -> RequestId:
    """As `peek_id`, and quick for a header of any size: of JSON it looks at the beginning alone, and large MessagePack,
    of which each element has to be passed over one by one, has none."""
    if header[:1] != b"{":
        return peek_id(header) if len(header) <= _EARLY_MSGPACK_BYTES else None
    found = _EARLY_ID.match(bytes(header[:_EARLY_BYTES]))
    return peek_id(b'{"id":%b}' % found[1]) if found is not None else None


def _malformed(header: bytes, error: BaseException) -> RequestError:
    why = f"the header can't be read: {error}"
    path = _AT_PATH.search(str(error))
    if path is not None and path[1] in MISPLACED:
        why = f"{path[1].rpartition('.')[2]!r} is not to be there: put it into {MISPLACED[path[1]]}"
    refusal = RequestError("MALFORMED", why)
    refusal.request_id = peek_id(header)
    return refusal


def _peek(header: bytes | memoryview, kind: type[msgspec.Struct]) -> msgspec.Struct | None:
    try:
        if is_json(header):
            return msgspec.json.decode(header, type=kind)
        return msgspec.msgpack.decode(header, type=kind)
    except UNREADABLE:
        return None
