"""Golden rows: inputs with the answers that the sealed model gave for them, replayed wherever it is loaded.

The file is an .npz without pickles: ``rows`` (float64 [n, f]), ``outputs/<name>`` (float64 [n] or [n, k], in
the order of the outputs) and ``libraries`` (JSON as bytes: which library versions gave the answers).
"""

from __future__ import annotations

import io
import json
import math
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelreg.errors import IntegrityError

Float64 = NDArray[np.float64]

#: The file's name within a version.
GOLDEN_FILE = "golden.npz"

#: All arrays of a golden file together, in bytes.
MAX_GOLDEN_BYTES = 256 << 20

#: How far an answer may be off, relatively, where the library version differs from the one that made it.
RELATIVE_TOLERANCE = 1e-9

_OUTPUT_PREFIX = "outputs/"


@dataclass(frozen=True, slots=True)
class Golden:
    """``rows`` float64 [n, f]; ``outputs`` by name, float64 [n] or [n, k]; ``libraries`` name → version."""

    rows: Float64
    outputs: Mapping[str, Float64]
    libraries: Mapping[str, str] = field(default_factory=dict)


def dump(golden: Golden) -> bytes:
    """The bytes of a golden file; the same golden always gives the same bytes."""
    arrays: dict[str, NDArray[Any]] = {"rows": golden.rows}
    arrays.update({_OUTPUT_PREFIX + name: array for name, array in golden.outputs.items()})
    libraries = json.dumps(dict(golden.libraries), sort_keys=True).encode()
    arrays["libraries"] = np.frombuffer(libraries, dtype=np.uint8)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, np.ascontiguousarray(array), version=(1, 0), allow_pickle=False)
            archive.writestr(
                zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0)), member.getvalue()
            )
    return buffer.getvalue()


def load(data: bytes) -> Golden:
    """Read a golden file; nothing in it is ever unpickled.

    Raises:
        IntegrityError: it isn't one, or its shapes don't fit together.
    """
    arrays = read_npz(data)
    if "rows" not in arrays:
        raise IntegrityError(f"{GOLDEN_FILE}: has no array 'rows'")
    rows = as_rows(arrays["rows"])
    outputs = {}
    for name, array in arrays.items():
        if name.startswith(_OUTPUT_PREFIX):
            if array.dtype != np.float64 or array.ndim not in (1, 2) or len(array) != len(rows):
                raise IntegrityError(
                    f"{GOLDEN_FILE}: {name}: {array.dtype}{[*array.shape]}, not float64 of {len(rows)} rows"
                )
            outputs[name.removeprefix(_OUTPUT_PREFIX)] = array
    libraries: dict[str, str] = {}
    if "libraries" in arrays:
        try:
            found = json.loads(arrays["libraries"].astype(np.uint8).tobytes())
            libraries = {str(key): str(value) for key, value in found.items()}
        except (ValueError, AttributeError, RecursionError) as error:
            raise IntegrityError(f"{GOLDEN_FILE}: 'libraries' isn't a JSON object: {error}") from error
    return Golden(rows, outputs, libraries)


def as_rows(array: NDArray[Any]) -> Float64:
    """Check and convert to float64 [n, f].

    Raises:
        IntegrityError: it isn't a non-empty matrix of numbers.
    """
    if array.ndim != 2 or 0 in array.shape or array.dtype.kind not in "fiub":
        raise IntegrityError(
            f"golden rows are {array.dtype}{list(array.shape)}: expected a matrix of numbers [n, f]"
        )
    return np.ascontiguousarray(array, dtype=np.float64)


def read_npz(data: bytes) -> dict[str, NDArray[Any]]:
    """The arrays of an .npz file in their order, sizes checked before anything is allocated.

    Raises:
        IntegrityError: it isn't an .npz file, is too large, or has arrays of objects.
    """
    arrays: dict[str, NDArray[Any]] = {}
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = archive.infolist()
            if sum(member.file_size for member in members) > MAX_GOLDEN_BYTES:
                raise IntegrityError(f"{GOLDEN_FILE}: larger than {MAX_GOLDEN_BYTES} bytes unpacked")
            for member in members:
                arrays[member.filename.removesuffix(".npy")] = _read_npy(archive.read(member))
    except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError, OSError, RuntimeError) as error:
        raise IntegrityError(f"{GOLDEN_FILE}: not a readable .npz file: {error}") from error
    return arrays


def _read_npy(data: bytes) -> NDArray[Any]:
    stream = io.BytesIO(data)
    version = np.lib.format.read_magic(stream)
    read_header = (
        np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    )
    shape, fortran_order, dtype = read_header(stream)
    if dtype.hasobject:
        raise ValueError("arrays of objects would need pickle")
    if math.prod(shape) * dtype.itemsize != len(data) - stream.tell():
        raise ValueError("an array's shape doesn't fit its size")
    flat = np.frombuffer(data, dtype=dtype, offset=stream.tell())
    return flat.reshape(shape[::-1]).transpose() if fortran_order else flat.reshape(shape)


def first_difference(
    golden: Golden,
    outputs: Mapping[str, Float64],
    libraries: Mapping[str, str],
    rtol: float = RELATIVE_TOLERANCE,
) -> str | None:
    """Compare replayed answers with the golden ones; what differs first, or None.

    Exact where the library versions are the same, else within ``rtol``, relatively. Non-finite answers
    differ.
    """
    exact = dict(golden.libraries) == dict(libraries)
    if list(golden.outputs) != list(outputs):
        return f"the outputs are {list(outputs)}, the golden ones {list(golden.outputs)}"
    for name, expected in golden.outputs.items():
        actual = outputs[name]
        if actual.shape != expected.shape:
            return (
                f"output {name!r} has the shape {list(actual.shape)}, the golden one {list(expected.shape)}"
            )
        tolerance = 0.0 if exact else rtol * np.maximum(np.abs(actual), np.abs(expected))
        wrong = ~(np.abs(actual - expected) <= tolerance)
        if wrong.any():
            at = tuple(int(index) for index in np.argwhere(wrong)[0])
            return f"output {name!r} gives {actual[at]!r} for golden row {at[0]}, sealed was {expected[at]!r}"
    return None
