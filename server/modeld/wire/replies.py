"""Results and refusals to reply frames, in the encoding of the request."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import msgspec

from modeld.errors import RequestError
from modeld.wire.contract import Contract
from modeld.wire.header import RequestId

Encode = Callable[[Any], bytes]

_ONE = struct.Struct("<d")


class _Values(msgspec.Struct, gc=False):
    name: str
    shape: list[int]
    datatype: str
    data: list[float]


class _Raw(msgspec.Struct, gc=False):
    name: str
    shape: list[int]
    datatype: str
    parameters: dict[str, int]


class _About(msgspec.Struct, gc=False):
    generation: int
    digest: str
    queue_us: int
    predict_us: int
    path: str


class _Reply(msgspec.Struct, gc=False):
    id: RequestId
    model_name: str
    model_version: str
    outputs: list[_Values | _Raw]
    parameters: _About


def prediction(
    encode: Encode,
    request_id: RequestId,
    contract: Contract,
    generation: int,
    digest: str,
    tensors: list[bytes],
    rows: int,
    *,
    raw: bool,
    queue_us: int,
    predict_us: int,
    path: str,
) -> list[bytes]:
    """The reply's frames. `tensors` are float64 bytes, row-major, one for each output of the contract."""
    outputs: list[_Values | _Raw] = []
    for (name, width), data in zip(contract.outputs, tensors, strict=True):
        shape = [rows, width] if width else [rows]
        if raw:
            outputs.append(_Raw(name, shape, "FP64", {"binary_data_size": len(data)}))
        elif len(data) == 8:
            outputs.append(_Values(name, shape, "FP64", list(_ONE.unpack(data))))
        else:
            outputs.append(_Values(name, shape, "FP64", list(struct.unpack(f"<{len(data) // 8}d", data))))
    about = _About(generation, digest, queue_us, predict_us, path)
    header = encode(_Reply(request_id, contract.model, contract.version, outputs, about))
    return [header, *tensors] if raw else [header]


def error(encode: Encode, request_id: RequestId, refusal: RequestError) -> list[bytes]:
    body = {"id": request_id, "error": str(refusal), "code": refusal.code, "parameters": refusal.parameters}
    return [encode(body)]
