"""Inference bodies of the Open Inference Protocol, with its binary tensor extension, to and from the daemon's messages.

The daemon's protocol is the same schema, so an input goes through as it came: what is decoded here is the header's
frame, never the numbers. Outputs come from the daemon as raw float64 and leave as bytes or as JSON, as was asked.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Sequence
from typing import Any

import msgspec
import numpy as np

from modeld.client.codec import Reply
from modeld.client.errors import ProtocolError
from modeld.http.problems import ApiError

_ONE = struct.Struct("<d")

#: Parameters of a request that the daemon knows, by the names that clients use: Triton's `timeout` is in µs too.
_PASSED_ON = {
    "timeout_us": "timeout_us",
    "timeout": "timeout_us",
    "schema": "schema",
    "min_generation": "min_generation",
}


class Tensor(msgspec.Struct, omit_defaults=True, gc=False):
    """An input, in and out."""

    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, Any] | None = None
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class WantedOutput(msgspec.Struct, gc=False):
    name: str
    parameters: dict[str, Any] | None = None


class InferRequest(msgspec.Struct, gc=False):
    """The header of an inference request. Unknown fields are ignored, as the protocol says."""

    inputs: list[Tensor]
    id: str | int | None = None
    parameters: dict[str, Any] | None = None
    outputs: list[WantedOutput] | None = None


_decode = msgspec.json.Decoder(InferRequest).decode
_encode = msgspec.json.Encoder().encode


def read_request(body: bytes, header_length: str | None) -> tuple[InferRequest, list[memoryview]]:
    """The header and the raw tensors behind it.

    Args:
        header_length: the Inference-Header-Content-Length header; None: all of it is JSON.

    Raises:
        ApiError: 400, with what is wrong.
    """
    size = len(body)
    if header_length is not None:
        if (
            not (header_length.isascii() and header_length.isdigit() and len(header_length) < 16)
            or int(header_length) > size
        ):
            raise _malformed(f"Inference-Header-Content-Length {header_length!r}: the body has {size} bytes")
        size = int(header_length)
    try:
        request = _decode(memoryview(body)[:size])
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise _malformed(f"the request can't be read: {error}") from None
    return request, list(_slices(request.inputs, memoryview(body)[size:]))


def _slices(inputs: list[Tensor], tail: memoryview) -> Iterator[memoryview]:
    at = 0
    for tensor in inputs:
        parameters = tensor.parameters or {}
        if "shared_memory_region" in parameters:
            raise _malformed(f"input {tensor.name!r}: shared memory isn't supported")
        size = parameters.get("binary_data_size")
        if size is None:
            continue
        if type(size) is not int or size < 0 or at + size > len(tail):
            raise _malformed(
                f"input {tensor.name!r}: binary_data_size is {size!r}; {len(tail) - at} bytes are left"
            )
        if tensor.data is not msgspec.UNSET:
            raise _malformed(f"input {tensor.name!r} has 'data' and binary_data_size: one of them")
        yield tail[at : at + size]
        at += size
    if at != len(tail):
        raise _malformed(f"{len(tail) - at} bytes behind the last tensor")


def fields(request: InferRequest, model: str, version: str | None) -> dict[str, Any]:
    """What the daemon is asked."""
    given = request.parameters or {}
    parameters = {ours: given[theirs] for theirs, ours in _PASSED_ON.items() if given.get(theirs) is not None}
    parameters["binary_data_output"] = True
    return {"model_name": model, "model_version": version, "inputs": request.inputs, "parameters": parameters}


def write_reply(request: InferRequest, reply: Reply) -> tuple[bytes, int | None]:
    """The body, and the length of its JSON where raw tensors follow.

    Raises:
        ApiError: 400, an output is asked for that the version doesn't have.
        ProtocolError: the daemon's reply lacks something.
    """
    header = reply.header
    try:
        computed = {
            tensor["name"]: (tensor, frame)
            for tensor, frame in zip(header["outputs"], reply.raw, strict=True)
        }
        body = {
            "model_name": header["model_name"],
            "model_version": header["model_version"],
            "outputs": [],
            "parameters": header["parameters"],
        }
    except (KeyError, TypeError, ValueError) as error:
        raise ProtocolError(f"a predict reply that can't be read: {error!r}") from error
    if request.id is not None:
        body["id"] = request.id
    binary = (request.parameters or {}).get("binary_data_output") is True
    tail: list[bytes] = []
    for name, raw in _wanted(request, computed, binary):
        tensor, frame = computed[name]
        output = {"name": name, "shape": tensor["shape"], "datatype": tensor["datatype"]}
        if raw:
            output["parameters"] = {"binary_data_size": len(frame)}
            tail.append(frame)
        else:
            output["data"] = (
                list(_ONE.unpack(frame)) if len(frame) == 8 else np.frombuffer(frame, "<f8").tolist()
            )
        body["outputs"].append(output)
    text = _encode(body)
    return (b"".join((text, *tail)), len(text)) if tail else (text, None)


def _wanted(request: InferRequest, computed: dict[str, Any], binary: bool) -> Sequence[tuple[str, bool]]:
    """The outputs to give, each with whether as bytes."""
    if not request.outputs:
        return [(name, binary) for name in computed]
    wanted = []
    for output in request.outputs:
        parameters = output.parameters or {}
        if output.name not in computed:
            raise _malformed(f"no output {output.name!r}; there is {', '.join(computed)}")
        for unsupported in ("classification", "shared_memory_region"):
            if parameters.get(unsupported):
                raise _malformed(f"output {output.name!r}: {unsupported} isn't supported")
        wanted.append((output.name, parameters.get("binary_data", binary) is True))
    return wanted


def _malformed(what: str) -> ApiError:
    return ApiError(400, "MALFORMED", what)
