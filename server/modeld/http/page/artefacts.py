"""The tables that a trainer sealed with a version, as numbers for charts: importance of features, predictions."""

from __future__ import annotations

import csv
import io
import math

from modelreg import NotFoundError, Registry
from modelreg.sealed import read_file

#: A larger table isn't drawn. Bytes.
_MAX_BYTES = 32 << 20
#: More points than these are thinned out evenly.
_MAX_POINTS = 2000

#: How the columns may be called, the likeliest first.
_TRUTH = ("y", "y_true", "truth", "target", "label", "actual")
_PREDICTION = ("p", "y_pred", "pred", "prediction", "predictions", "yhat", "y_hat")

Pairs = list[tuple[float, float]]


def importance(registry: Registry, ref: str) -> dict[str, float] | None:
    """Feature → importance, the most important first; None where none was sealed."""
    rows = _table(registry, ref, "feature_importance.csv")
    if rows is None:
        return None
    found = {row.get("feature", ""): _number(row.get("importance")) for row in rows}
    known = {name: value for name, value in found.items() if name and value is not None}
    return dict(sorted(known.items(), key=lambda item: -item[1]))


def predictions(registry: Registry, ref: str) -> Pairs | None:
    """Truth and prediction of the validation rows; None where none were sealed.

    Raises:
        NotFoundError: there is a table, but which column is which can't be told.
    """
    rows = _table(registry, ref, "validation_predictions.csv")
    if not rows:
        return None
    truth = next((name for name in _TRUTH if name in rows[0]), None)
    prediction = next((name for name in _PREDICTION if name in rows[0]), None)
    if truth is None or prediction is None:
        raise NotFoundError(
            f"{ref}: validation_predictions.csv has the columns {', '.join(rows[0])}; one of {', '.join(_TRUTH)} and "
            f"one of {', '.join(_PREDICTION)} are drawn"
        )
    pairs = [
        (x, y)
        for row in rows
        if (x := _number(row[truth])) is not None and (y := _number(row[prediction])) is not None
    ]
    return pairs[:: math.ceil(len(pairs) / _MAX_POINTS)] if pairs else None


def _table(registry: Registry, ref: str, file: str) -> list[dict[str, str]] | None:
    name, found = registry.resolve(ref)
    if file not in registry.metadata(name, found.version).files:
        return None
    directory = registry.version_dir(name, found.version)
    data = read_file(directory, file, expect_digest=found.digest, max_bytes=_MAX_BYTES)
    return list(csv.DictReader(io.StringIO(data.decode(errors="replace"))))


def _number(cell: str | None) -> float | None:
    try:
        value = float(cell or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None
