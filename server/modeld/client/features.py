"""Features as a caller has them, and as they travel: the one place that knows arrays, frames, lists and dicts.

An array is one raw tensor. A pandas or polars frame is one tensor for each column, matched by name. Lists and dicts
go in the short form. Neither frame library is imported: a frame can only come from one that the caller has imported.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

#: Raw frames in one message at most. A frame with more columns sends its values in the header.
MAX_RAW_FRAMES = 64

#: The wire's datatype of everything that a client sends as a tensor.
_WIRE = np.dtype("<f8")


class DataFrame(Protocol):
    """A pandas or polars DataFrame."""

    @property
    def columns(self) -> Any: ...


Row = Sequence[float | None] | Mapping[str, float | None]
Features = NDArray[Any] | DataFrame | Row | Sequence[Row]


@dataclass(frozen=True, slots=True)
class Payload:
    """What a predict request carries: the fields of its header, its raw frames, and what it asks of the reply.

    Attributes:
        fields: `inputs` or `features`.
        raw: the raw tensor frames.
        binary_output: the reply's outputs shall be raw frames as well.
        needs_msgpack: the values are in the header and too many for decimal digits.
    """

    fields: dict[str, Any]
    raw: list[bytes] = field(default_factory=list)
    binary_output: bool = False
    needs_msgpack: bool = False


def payload(features: Features) -> Payload:
    """How `features` travel.

    Raises:
        ValueError: an array that isn't `[f]` or `[n, f]`, a frame that names a column twice, or an infinity in the
            short form (JSON has none, and it must not turn into a missing value on the way).
        TypeError: an array, or a column, that doesn't hold real numbers; a polars LazyFrame.
    """
    if isinstance(features, np.ma.MaskedArray):
        features = _unmasked(features)
    if isinstance(features, np.ndarray):
        matrix = _as_matrix(features)
        tensor = {"name": "features", "shape": matrix.shape, "datatype": "FP64"}
        raw = {"parameters": {"binary_data_size": matrix.nbytes}}
        return Payload({"inputs": [tensor | raw]}, [matrix.tobytes()], binary_output=True)
    columns = _columns(features)
    if columns is not None:
        return _named(columns)
    _refuse_infinities(features)
    return Payload({"features": features})


def _unmasked(features: np.ma.MaskedArray[Any, Any]) -> NDArray[Any]:
    """NaN for what is masked: numpy itself would send the values behind the mask."""
    if features.dtype.kind not in "fiub":
        return features.data  # refused as any such array
    return np.ma.filled(np.ma.asarray(features, np.float64), np.nan)


def _as_matrix(features: NDArray[Any]) -> NDArray[np.float64]:
    if features.dtype.kind not in "fiub":
        raise TypeError(f"features of dtype {features.dtype}: real numbers are needed")
    if features.ndim not in (1, 2):
        raise ValueError(f"features of shape {features.shape}: [f] or [n, f] is needed")
    return np.ascontiguousarray(np.atleast_2d(features), dtype=_WIRE)


def _named(columns: list[tuple[str, NDArray[Any]]]) -> Payload:
    names = [name for name, _ in columns]
    if len(set(names)) != len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"the frame has column {twice!r} more than once")
    tensors: list[dict[str, Any]] = [
        {"name": name, "shape": values.shape, "datatype": "FP64"} for name, values in columns
    ]
    if len(columns) > MAX_RAW_FRAMES:
        for tensor, (_, values) in zip(tensors, columns, strict=True):
            tensor["data"] = values.tolist()
        return Payload({"inputs": tensors}, binary_output=True, needs_msgpack=True)
    for tensor, (_, values) in zip(tensors, columns, strict=True):
        tensor["parameters"] = {"binary_data_size": values.nbytes}
    return Payload({"inputs": tensors}, [values.tobytes() for _, values in columns], binary_output=True)


def _columns(features: Any) -> list[tuple[str, NDArray[Any]]] | None:
    """A frame's columns by name, as float64 with NaN for what is missing; None for anything but a frame."""
    pandas, polars = sys.modules.get("pandas"), sys.modules.get("polars")
    if pandas is not None and isinstance(features, pandas.DataFrame):
        return list(_pandas_columns(features))
    if polars is not None and isinstance(features, polars.DataFrame):
        return list(_polars_columns(features, polars))
    if polars is not None and isinstance(features, polars.LazyFrame):
        raise TypeError("a LazyFrame has no values yet: collect() it first")
    return None


def _pandas_columns(frame: Any) -> Iterable[tuple[str, NDArray[Any]]]:
    for name, column in frame.items():
        # The kind of nullable and Arrow types too; 'O' for text, categories and objects.
        if getattr(column.dtype, "kind", "O") not in "fiub":
            raise _not_numbers(name, column.dtype)
        yield str(name), np.ascontiguousarray(column.to_numpy(dtype=_WIRE, na_value=np.nan))


def _polars_columns(frame: Any, polars: Any) -> Iterable[tuple[str, NDArray[Any]]]:
    for column in frame.iter_columns():
        if not (column.dtype.is_numeric() or column.dtype == polars.Boolean):
            raise _not_numbers(column.name, column.dtype)
        yield (
            column.name,
            np.ascontiguousarray(column.cast(polars.Float64).fill_null(np.nan).to_numpy(), _WIRE),
        )


def _not_numbers(name: object, dtype: object) -> TypeError:
    return TypeError(f"column {name!r} is {dtype}: real numbers are needed")


def _refuse_infinities(features: Any, where: str = "features") -> None:
    """The JSON encoder writes `null` for an infinity: the answer would be to another question."""
    if isinstance(features, Mapping):
        for name, value in features.items():
            _refuse_infinities(value, f"{where}[{name!r}]")
    elif isinstance(features, (list, tuple)):
        for index, value in enumerate(features):
            _refuse_infinities(value, f"{where}[{index}]")
    elif isinstance(features, np.ndarray):
        if np.isinf(features).any():
            raise ValueError(f"{where} holds an infinity")
    elif isinstance(features, (float, np.floating)) and math.isinf(features):
        raise ValueError(f"{where} is {features}")
