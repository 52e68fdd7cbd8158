"""Inputs to one float64 matrix: the contract's order, row-major, little-endian bytes.

The common case, one raw FP64 tensor of the right shape, is a length check and a finiteness check on the bytes as they
came. Everything else is decoded by a typed decoder, so that a wrong element is named by its place.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from modeld.errors import RequestError
from modeld.wire.contract import Contract
from modeld.wire.header import ABSENT, MAX_RAW_FRAMES, UNREADABLE, Request, Tensor

Matrix = NDArray[np.float64]
#: A large frame is a view of the message that it came in.
Frame = bytes | memoryview

_DTYPES: dict[str, np.dtype[Any]] = {
    "FP64": np.dtype("<f8"),
    "FP32": np.dtype("<f4"),
    "INT64": np.dtype("<i8"),
    "INT32": np.dtype("<i4"),
}
#: What a field says that is there and says nothing, in JSON and in MessagePack.
_NULLS = (b"null", b"\xc0")
_NUMBERS = list[float]
_WITH_NULLS = list[float | None]
_ROWS = list[list[float | None]]
_NAMED = dict[str, float | None]

if sys.byteorder != "little":
    raise ImportError("modeld's wire is little-endian float64 and so is its host: this machine isn't")


class Decoders:
    """Typed decoders of one encoding (JSON or MessagePack) for a tensor's `data` and for the short form."""

    def __init__(
        self, decoder: Callable[[Any], Any], count_names: Callable[[bytes, bool, list[int]], list[int]]
    ) -> None:
        self.numbers = decoder(_NUMBERS).decode
        self.with_nulls = decoder(_WITH_NULLS).decode
        self.rows = decoder(_ROWS).decode
        self.named = decoder(_NAMED).decode
        self.named_rows = decoder(list[_NAMED]).decode
        #: How many names each object has, repeated ones counted: a decoder to dict, whose lengths it is given, forgets
        #: that. The bool says whether there is a list of objects.
        self.count_names = count_names


def _count_json_names(data: bytes, many: bool, lengths: list[int]) -> list[int]:
    if data.count(b":") == sum(lengths):
        return lengths  # each name has a colon behind it, whatever else has one: none is repeated
    counts = json.loads(data, object_pairs_hook=len, parse_int=str, parse_float=str)
    return counts if many else [counts]


_decode_raws = msgspec.msgpack.Decoder(list[msgspec.Raw]).decode


def _count_msgpack_names(data: bytes, many: bool, _lengths: list[int]) -> list[int]:
    return [_map_length(bytes(raw)) for raw in _decode_raws(data)] if many else [_map_length(data)]


def _map_length(data: bytes) -> int:
    """What a MessagePack map says of its length: in its first byte, or in the two or four behind it."""
    first = data[0]
    return first & 0x0F if first < 0x90 else int.from_bytes(data[1:3] if first == 0xDE else data[1:5], "big")


JSON = Decoders(msgspec.json.Decoder, _count_json_names)
MSGPACK = Decoders(msgspec.msgpack.Decoder, _count_msgpack_names)


def plain_matrix(
    request: Request,
    raw: Sequence[Frame],
    contract: Contract,
    max_rows: int,
    checked_rows: int = sys.maxsize,
) -> tuple[Frame, int] | None:
    """As `parse_matrix`, for one raw FP64 tensor of the right shape; None for everything else.

    Raises:
        RequestError: NON_FINITE.
    """
    inputs = request.inputs
    if inputs is None or len(inputs) != 1 or len(raw) != 1 or request.features:
        return None
    tensor = inputs[0]
    shape = tensor.shape
    if (
        tensor.datatype == "FP64"
        and len(shape) == 2
        and shape[1] == contract.n_features
        and 0 < shape[0] <= max_rows
        and not tensor.data
        and tensor.parameters is not None
        and tensor.parameters.get("binary_data_size") == len(raw[0]) == shape[0] * shape[1] * 8
    ):
        return settled(raw[0], shape[0], contract, checked_rows)
    return None


def parse_matrix(
    request: Request,
    raw: Sequence[Frame],
    contract: Contract,
    max_rows: int,
    decoders: Decoders,
    checked_rows: int = sys.maxsize,
) -> tuple[Frame, int]:
    """The request's rows as (float64 bytes in the contract's order, number of rows).

    A matrix of more than `checked_rows` rows may be a view, and isn't looked through for what isn't finite: its worker
    does that.

    Raises:
        RequestError: MALFORMED, SHAPE_MISMATCH, DATATYPE_UNSUPPORTED, MISSING_FEATURE, UNKNOWN_FEATURE, NON_FINITE
            or TOO_LARGE; the message names the model, the version, and the row and the feature where there is one.
    """
    if (plain := plain_matrix(request, raw, contract, max_rows, checked_rows)) is not None:
        return plain
    matrix = _matrix(request, raw, contract, max_rows, decoders)
    if len(matrix) > max_rows:
        raise _too_large(contract, len(matrix), max_rows)
    if not len(matrix):
        raise RequestError("SHAPE_MISMATCH", f"{contract.label}: no rows; send at least one")
    return settled(np.ascontiguousarray(matrix).data.cast("B"), len(matrix), contract, checked_rows)


def settled(data: Frame, rows: int, contract: Contract, checked_rows: int) -> tuple[Frame, int]:
    """Rows as they are, or where they are `checked_rows` at most, looked through and a copy. Raises RequestError."""
    if rows > checked_rows:
        return data, rows
    check_finite(np.frombuffer(data), contract)
    return bytes(data), rows


def check_finite(values: Matrix, contract: Contract) -> None:
    """Raises RequestError NON_FINITE for an infinity, and for a NaN unless the contract lets NaN mean missing."""
    if np.isfinite(values).all():
        return
    bad = np.isinf(values) if contract.nan_allowed else ~np.isfinite(values)
    if not bad.any():
        return
    at = int(np.argmax(bad))
    refusal = non_finite(float(values[at]), *divmod(at, contract.n_features), contract)
    assert refusal is not None
    raise refusal


def non_finite(value: float, row: int, column: int, contract: Contract) -> RequestError | None:
    """Why `value` can't be taken there; None where it can."""
    if math.isfinite(value) or (math.isnan(value) and contract.nan_allowed):
        return None
    what = "NaN, which this model doesn't take" if math.isnan(value) else "an infinity"
    return RequestError(
        "NON_FINITE",
        f"{contract.label}: row {row}, feature {contract.features[column]!r} is {what}",
        row=row,
        feature=contract.features[column],
    )


def _matrix(
    request: Request, raw: Sequence[Frame], contract: Contract, max_rows: int, decoders: Decoders
) -> Matrix:
    if _is_null(request.features):
        request.features = ABSENT
    for tensor in request.inputs or ():
        if _is_null(tensor.data):
            tensor.data = ABSENT
    if (request.inputs is None) == (not request.features):
        raise RequestError("MALFORMED", "predict takes either 'inputs' or 'features'")
    if request.features:
        if raw:
            raise RequestError("MALFORMED", f"'features' takes no raw frames; {len(raw)} came with it")
        return _short_form(bytes(request.features), contract, decoders)
    assert request.inputs is not None
    if not request.inputs:
        raise RequestError("MALFORMED", "'inputs' is empty")
    frames = iter(_check_frames(request.inputs, raw))
    if len(request.inputs) == 1 and not _is_named(request.inputs[0], contract):
        return _rows_tensor(request.inputs[0], frames, contract, max_rows, decoders)
    return _named_tensors(request.inputs, frames, contract, max_rows, decoders)


def _is_null(value: msgspec.Raw) -> bool:
    return len(memoryview(value)) <= 4 and bytes(value) in _NULLS


def _check_frames(inputs: list[Tensor], raw: Sequence[Frame]) -> Sequence[Frame]:
    wanted = sum(not tensor.data for tensor in inputs)
    if len(raw) > MAX_RAW_FRAMES:
        raise RequestError("MALFORMED", f"{len(raw)} raw frames; at most {MAX_RAW_FRAMES}")
    if wanted != len(raw):
        raise RequestError(
            "MALFORMED", f"{wanted} inputs have no 'data' and need a raw frame each; {len(raw)} came"
        )
    return raw


def _is_named(tensor: Tensor, contract: Contract) -> bool:
    """One tensor alone is the matrix, except a column that bears the name of a feature."""
    return tensor.name in contract.index and (
        len(tensor.shape) == 1 or (contract.n_features > 1 and tensor.shape[-1:] == [1])
    )


def _rows_tensor(
    tensor: Tensor, frames: Any, contract: Contract, max_rows: int, decoders: Decoders
) -> Matrix:
    shape = tensor.shape
    if len(shape) != 2 or shape[0] < 0 or shape[1] != contract.n_features:
        raise RequestError(
            "SHAPE_MISMATCH",
            f"{contract.label} takes {contract.n_features} features: shape [rows, {contract.n_features}]; "
            f"input {tensor.name!r} has {shape}",
        )
    if shape[0] > max_rows:
        raise _too_large(contract, shape[0], max_rows)
    return _values(tensor, frames, shape[0] * shape[1], contract, decoders).reshape(shape)


def _named_tensors(
    inputs: list[Tensor], frames: Any, contract: Contract, max_rows: int, decoders: Decoders
) -> Matrix:
    first = inputs[0]
    rows = first.shape[0] if first.shape else -1
    if not 0 <= rows <= max_rows:
        raise _too_large(contract, rows, max_rows) if rows > max_rows else _bad_column(contract, first)
    _check_names([tensor.name for tensor in inputs], contract, 0)
    matrix = np.empty((rows, contract.n_features))
    for tensor in inputs:
        if tensor.shape not in ([rows], [rows, 1]):
            raise _bad_column(contract, tensor)
        matrix[:, contract.index[tensor.name]] = _values(tensor, frames, rows, contract, decoders)
    return matrix


def _bad_column(contract: Contract, tensor: Tensor) -> RequestError:
    return RequestError(
        "SHAPE_MISMATCH",
        f"{contract.label}: input {tensor.name!r} has shape {tensor.shape}; with one tensor a feature, each is [rows] "
        "or [rows, 1], all of the same number of rows",
        feature=tensor.name,
    )


def _check_names(names: list[str], contract: Contract, row: int) -> None:
    if len(names) == contract.n_features and set(names) == contract.index.keys():
        return
    given = set(names)
    if unknown := [name for name in names if name not in contract.index]:
        raise RequestError(
            "UNKNOWN_FEATURE",
            f"{contract.label} has no feature {unknown[0]!r} (row {row})",
            row=row,
            feature=unknown[0],
        )
    if missing := [name for name in contract.features if name not in given]:
        raise RequestError(
            "MISSING_FEATURE",
            f"{contract.label}: row {row} lacks feature {missing[0]!r} ({len(missing)} missing)",
            row=row,
            feature=missing[0],
        )
    raise RequestError("MALFORMED", f"{contract.label}: a feature is given twice")


def _values(tensor: Tensor, frames: Any, count: int, contract: Contract, decoders: Decoders) -> Matrix:
    """The tensor's elements, flat, as float64."""
    dtype = _DTYPES.get(tensor.datatype)
    if dtype is None:
        raise RequestError(
            "DATATYPE_UNSUPPORTED",
            f"{contract.label}: input {tensor.name!r} is {tensor.datatype!r}; send one of {', '.join(_DTYPES)}",
        )
    if tensor.data:
        values = _numbers(bytes(tensor.data), f"input {tensor.name!r}", decoders)
        if values.size != count:
            raise RequestError(
                "SHAPE_MISMATCH",
                f"{contract.label}: input {tensor.name!r} says shape {tensor.shape}, {count} elements; "
                f"'data' has {values.size}",
            )
        return values
    frame = next(frames)
    said = (tensor.parameters or {}).get("binary_data_size")
    if type(said) is not int:
        raise RequestError(
            "MALFORMED",
            f"input {tensor.name!r}: neither data nor parameters.binary_data_size, a whole number, came",
        )
    if said != len(frame) or len(frame) != count * dtype.itemsize:
        raise RequestError(
            "MALFORMED",
            f"input {tensor.name!r}: shape {tensor.shape} of {tensor.datatype} is {count * dtype.itemsize} bytes; "
            f"binary_data_size is {said}, the raw frame has {len(frame)}",
        )
    return np.frombuffer(frame, dtype).astype(np.float64)


def _numbers(data: bytes, what: str, decoders: Decoders) -> Matrix:
    """Flat or nested numbers, null for NaN, as a flat float64 array."""
    try:
        return np.array(decoders.numbers(data), np.float64)
    except UNREADABLE:
        pass  # not plain numbers: nulls or rows, told apart below
    try:
        return np.array(decoders.with_nulls(data), np.float64)
    except UNREADABLE as flat:
        try:
            rows = decoders.rows(data)
        except UNREADABLE as nested:
            # Both readings failed: the deeper path is the one that the client meant.
            error = nested if str(nested).count("[") > str(flat).count("[") else flat
            raise RequestError("MALFORMED", f"{what}: {error}") from None
    if len({len(row) for row in rows}) > 1:
        raise RequestError("SHAPE_MISMATCH", f"{what}: the rows have different lengths")
    return np.array(rows, np.float64).reshape(-1)


def _short_form(data: bytes, contract: Contract, decoders: Decoders) -> Matrix:
    named: list[dict[str, float | None]]
    if (flat := _try(decoders.numbers, data)) is not None or (
        flat := _try(decoders.with_nulls, data)
    ) is not None:
        _check_width(len(flat), 0, contract)
        return np.array([flat], np.float64)
    if (rows := _try(decoders.rows, data)) is not None:
        for at, row in enumerate(rows):
            _check_width(len(row), at, contract)
        return np.array(rows, np.float64).reshape(-1, contract.n_features)
    if (one := _try(decoders.named, data)) is not None:
        named = [one]
    elif (many := _try(decoders.named_rows, data)) is not None:
        named = many
    else:
        raise RequestError(
            "MALFORMED",
            "'features' is a list of numbers, a list of such rows, an object of numbers by feature name, or a list of "
            "such objects; null is NaN",
        )
    counts = decoders.count_names(data, one is None, [len(entry) for entry in named])
    for at, entry in enumerate(named):
        _check_names(list(entry), contract, at)
        if counts[at] != len(entry):
            raise RequestError("MALFORMED", f"{contract.label}: row {at} gives a feature twice", row=at)
    return np.array([[entry[name] for name in contract.features] for entry in named], np.float64)


def _try(decode: Callable[[bytes], Any], data: bytes) -> Any:
    try:
        return decode(data)
    except UNREADABLE:
        return None


def _check_width(width: int, row: int, contract: Contract) -> None:
    if width != contract.n_features:
        raise RequestError(
            "SHAPE_MISMATCH",
            f"{contract.label} takes {contract.n_features} features; row {row} has {width}",
            row=row,
        )


def _too_large(contract: Contract, rows: int, max_rows: int) -> RequestError:
    return RequestError(
        "TOO_LARGE",
        f"{contract.label}: {rows} rows; at most {max_rows} in one request: send several",
        max_rows=max_rows,
    )
