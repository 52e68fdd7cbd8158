"""Where golden rows come from: a trainer's file, or the ranges that the model saw in training."""

from __future__ import annotations

import csv
import hashlib
import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from modelreg.errors import IntegrityError, UsageError
from modelreg.golden import Float64, Golden, as_rows, load
from modelreg.lgbtext import value_range

#: Half the width of the range around 0 for a feature whose range isn't known.
UNKNOWN_RANGE = 1.0


def synthesise(infos: Sequence[Sequence[str]], *, rows: int, nan_fraction: float, seed: bytes) -> Float64:
    """Rows [rows, f] spread over each feature's range in training; the same arguments give the same rows.

    ``infos`` has, for each feature, what each estimator says about it (LightGBM's ``feature_infos``). Row 0
    is all minima, row 1 all maxima, and one row is all NaN: edges are where models differ first.
    """
    generator = np.random.default_rng(int.from_bytes(hashlib.sha256(seed).digest()[:16], "little"))
    matrix = np.empty((rows, len(infos)), dtype=np.float64)
    for column, candidates in enumerate(infos):
        ranges = [found for found in map(value_range, candidates) if found is not None]
        choices = [value for found in ranges if len(found) != 2 for value in found]
        if choices:
            matrix[:, column] = generator.choice(np.array(choices), size=rows)
        else:
            low = min((found[0] for found in ranges), default=-UNKNOWN_RANGE)
            high = max((found[1] for found in ranges), default=UNKNOWN_RANGE)
            share = generator.random(rows)
            share[0] = 0.0
            if rows > 1:
                share[1] = 1.0
            matrix[:, column] = low * (1.0 - share) + high * share
    holes = generator.random(matrix.shape) < nan_fraction
    holes[:2] = False
    matrix[holes] = np.nan
    if rows > 2 and nan_fraction > 0:
        matrix[2] = np.nan
    return matrix


def from_file(path: Path, data: bytes, features: Sequence[str]) -> Golden:
    """Golden rows from a trainer's file: CSV with a header of feature names (in any order), or .npz.

    An .npz has ``rows``, and may have ``outputs/<name>``, which are then checked against the model. A CSV's
    empty cells are NaN.

    Raises:
        UsageError: the file doesn't fit the features.
    """
    if path.suffix == ".npz":
        try:
            golden = load(data)
        except IntegrityError as error:
            raise UsageError(f"{path}: {error}") from error
        # Which library gave a trainer's outputs isn't known to us unless the file says so.
        return Golden(check_width(golden.rows, features, str(path)), golden.outputs, golden.libraries)
    try:
        reader = csv.reader(io.StringIO(data.decode("utf-8-sig"), newline=""))
        header = [name.strip() for name in next(reader, [])]
        lines = [line for line in reader if line]
    except (UnicodeDecodeError, csv.Error) as error:
        raise UsageError(f"{path}: not a CSV file in UTF-8: {error}") from error
    missing = [name for name in features if name not in header]
    if missing or len(set(header)) != len(header):
        raise UsageError(
            f"{path}: the header lacks {missing[:5]}" if missing else f"{path}: a column is there twice"
        )
    order = [header.index(name) for name in features]
    values = []
    for number, line in enumerate(lines, start=2):
        try:
            values.append([float(line[index]) if line[index].strip() else float("nan") for index in order])
        except (ValueError, IndexError) as error:
            raise UsageError(f"{path}: row {number}: {error}") from error
    if not values:
        raise UsageError(f"{path}: has no rows")
    return Golden(np.array(values, dtype=np.float64), {})


def from_array(array: Float64, features: Sequence[str]) -> Golden:
    """Golden rows from an array [n, f].

    Raises:
        UsageError: it doesn't fit the features.
    """
    try:
        return Golden(check_width(as_rows(np.asarray(array)), features, "golden"), {})
    except IntegrityError as error:
        raise UsageError(str(error)) from error


def check_width(rows: Float64, features: Sequence[str], where: str) -> Float64:
    if rows.shape[1] != len(features):
        raise UsageError(
            f"{where}: rows of {rows.shape[1]} values, but the model has {len(features)} features"
        )
    return rows
