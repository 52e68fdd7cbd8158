"""The client's half of the wire: a request to frames, frames to a reply. Pure functions, no sockets.

Every client is this module and `modeld.client.core` plus sockets. A message is one header frame, JSON
or MessagePack, then raw tensor frames; the request's encoding decides the reply's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from modeld.client.errors import ProtocolError, ServerError, server_error
from modeld.client.features import Features, payload

Encoding = Literal["json", "msgpack"]
Frame = bytes | memoryview

#: The wire's datatypes, little-endian and row-major.
DTYPES: dict[str, np.dtype[Any]] = {
    "FP64": np.dtype("<f8"),
    "FP32": np.dtype("<f4"),
    "INT64": np.dtype("<i8"),
    "INT32": np.dtype("<i4"),
}


@dataclass(frozen=True, slots=True, eq=False)
class Prediction:
    """One reply: what was computed, and by what.

    Attributes:
        outputs: one read-only array per output of the version, by name; `[n]`, or `[n, k]` for k classes.
        model: the model's name.
        version: the version that computed every row of this reply.
        generation: the number of the decision that put this version into production; it only grows.
        digest: the version's digest, `sha256:…`.
        queue_us: microseconds between the request's admission and its computation.
        predict_us: microseconds of computation.
        endpoint: the endpoint whose server answered.
    """

    outputs: dict[str, NDArray[Any]]
    model: str
    version: str
    generation: int
    digest: str
    queue_us: float
    predict_us: float
    endpoint: str = ""

    @property
    def values(self) -> NDArray[Any]:
        """The only output's array.

        Raises:
            ValueError: the version has several outputs; take them from `outputs` by name.
        """
        if len(self.outputs) != 1:
            raise ValueError(
                f"{self.model} {self.version} has {len(self.outputs)} outputs: {', '.join(self.outputs)}"
            )
        return next(iter(self.outputs.values()))


def encode_call(fields: Mapping[str, Any], encoding: Encoding) -> list[Frame]:
    """One header frame. Fields that are None are left out: the protocol's default for each is absence."""
    header = {name: value for name, value in fields.items() if value is not None}
    return [_ENCODERS[encoding].encode(header)]


def encode_predict(
    request_id: int,
    features: Features,
    *,
    model: str | None = None,
    version: str | None = None,
    timeout_us: int | None = None,
    min_generation: int | None = None,
    schema: str | None = None,
    encoding: Encoding = "json",
) -> list[Frame]:
    """A predict request's frames; how the features travel is in `modeld.client.features`.

    Raises:
        ValueError, TypeError: features that can't be sent, as for `modeld.client.features.payload`.
    """
    sent = payload(features)
    header: dict[str, Any] = {"op": "predict", "id": request_id}
    if model is not None:
        header["model_name"] = model
    if version is not None:
        header["model_version"] = version
    parameters: dict[str, Any] = {}
    if timeout_us is not None:
        parameters["timeout_us"] = timeout_us
    if min_generation is not None:
        parameters["min_generation"] = min_generation
    if schema is not None:
        parameters["schema"] = schema
    if sent.binary_output:
        parameters["binary_data_output"] = True
    if parameters:
        header["parameters"] = parameters
    header |= sent.fields
    return [_ENCODERS["msgpack" if sent.needs_msgpack else encoding].encode(header), *sent.raw]


@dataclass(frozen=True, slots=True)
class Reply:
    """One message of the server.

    Attributes:
        id: the request's id; None where the server couldn't read one, or the reply itself can't be read.
        header: the header as it came; empty where it can't be read.
        raw: the raw tensor frames.
        error: what the message stands for as an exception; None for an answer.
    """

    id: Any
    header: dict[str, Any]
    raw: Sequence[bytes]
    error: ServerError | ProtocolError | None


def read_reply(frames: Sequence[bytes]) -> Reply:
    """A message's frames as a `Reply`. What can't be read is one too, with a `ProtocolError`."""
    try:
        header = decode_header(frames)
    except ProtocolError as error:
        return Reply(None, {}, (), error)
    return Reply(header.get("id"), header, frames[1:], error_of(header))


def decode_header(frames: Sequence[bytes]) -> dict[str, Any]:
    """The header of a reply, an error reply's as well.

    Raises:
        ProtocolError: no header, or one that is neither a JSON nor a MessagePack object.
    """
    if not frames:
        raise ProtocolError("a reply without a header frame")
    head = frames[0]
    try:
        header = (_JSON_DECODER if head[:1] == b"{" else _MSGPACK_DECODER).decode(head)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ProtocolError(f"a reply whose header can't be read: {error}") from error
    if not isinstance(header, dict):
        raise ProtocolError(f"a reply whose header is {type(header).__name__}, not an object")
    return header


def error_of(header: Mapping[str, Any]) -> ServerError | None:
    """The exception that an error reply stands for; None for any other reply."""
    if "error" not in header and "code" not in header:
        return None
    parameters = header.get("parameters")
    return server_error(
        str(header.get("code", "INTERNAL")),
        str(header.get("error", "")),
        parameters if isinstance(parameters, dict) else None,
    )


def decode_prediction(header: Mapping[str, Any], raw: Sequence[bytes], endpoint: str = "") -> Prediction:
    """A predict reply's header and raw frames as a `Prediction`.

    Raises:
        ProtocolError: a field is missing or of the wrong type, or a tensor doesn't fit its shape.
    """
    try:
        parameters = header["parameters"]
        frames = iter(raw)
        outputs = {str(tensor["name"]): _decode_tensor(tensor, frames) for tensor in header["outputs"]}
        if next(frames, None) is not None:
            raise ProtocolError("a reply with more raw frames than outputs that need one")
        return Prediction(
            outputs=outputs,
            model=str(header["model_name"]),
            version=str(header["model_version"]),
            generation=int(parameters["generation"]),
            digest=str(parameters["digest"]),
            queue_us=float(parameters.get("queue_us", 0)),
            predict_us=float(parameters.get("predict_us", 0)),
            endpoint=endpoint,
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise ProtocolError(f"a predict reply that can't be read: {error!r}") from error


def _decode_tensor(tensor: Mapping[str, Any], frames: Any) -> NDArray[Any]:
    """One output tensor, from its `data` or from the next raw frame; read-only either way."""
    name, shape, dtype = tensor["name"], tensor["shape"], DTYPES[tensor["datatype"]]
    values: NDArray[Any]
    if "data" in tensor:
        # A null is NaN; numpy makes NaN of None only where it is told a float dtype.
        values = np.array(tensor["data"], dtype=dtype).ravel()
    else:
        frame = next(frames, None)
        if frame is None:
            raise ProtocolError(f"output {name} has neither data nor a raw frame")
        declared = tensor.get("parameters", {}).get("binary_data_size", len(frame))
        if declared != len(frame):
            raise ProtocolError(f"output {name} declares {declared} bytes; its frame has {len(frame)}")
        values = np.frombuffer(frame, dtype=dtype)
    if values.size != math.prod(shape):
        raise ProtocolError(f"output {name} of shape {shape} has {values.size} values")
    values = values.reshape(shape)
    values.flags.writeable = False
    return values


def _plain(value: Any) -> Any:
    """numpy inside the short form, as plain numbers."""
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Sequence):
        return list(value)
    raise TypeError(f"{type(value).__name__} can't be sent as features")


_ENCODERS: dict[str, msgspec.json.Encoder | msgspec.msgpack.Encoder] = {
    "json": msgspec.json.Encoder(enc_hook=_plain),
    "msgpack": msgspec.msgpack.Encoder(enc_hook=_plain),
}
_JSON_DECODER: msgspec.json.Decoder[Any] = msgspec.json.Decoder()
_MSGPACK_DECODER: msgspec.msgpack.Decoder[Any] = msgspec.msgpack.Decoder()
