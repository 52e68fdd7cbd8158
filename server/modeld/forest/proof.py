"""Rows on which a plan is likeliest to differ from LightGBM, and the comparison, bit for bit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from modeld.forest.format import BLOCK, CATEGORY, Checked
from modeld.forest.scorer import Scorer

Matrix = NDArray[np.float64]

#: Rows drawn from the features' ranges; rows of odd values; the most rows of thresholds; rows predicted one by one.
DRAWN_ROWS, ODD_ROWS, MOST_EDGE_ROWS, SINGLE_ROWS = 2048, 256, 4096, 64
_ZERO = float(np.float32(1e-35))
#: LightGBM treats several of these in its own way: NaN, zeros, all up to 1e-35, what no int holds.
ODD = (
    np.nan, 0.0, -0.0, 5e-324, -5e-324, 1e-310, _ZERO, -_ZERO, np.nextafter(_ZERO, 1), -np.nextafter(_ZERO, 1), 1e-34,
    -0.5, -1.0, 0.5, 1.0, 31.0, 32.0, 33.7, 2147483647.0, 2147483648.0, -2147483649.0, 1e300, -1e300, 1.7e308,
    np.inf, -np.inf,
)  # fmt: skip


def rows_for(plan: Checked, seed: int = 0) -> Matrix:
    """Rows over each feature's range, every threshold with its two neighbours, and odd values; seeded."""
    random = np.random.default_rng(seed)
    values = [_values(plan, feature) for feature in range(plan.header.n_features)]
    drawn = np.empty((DRAWN_ROWS, len(values)))
    edge_rows = min(3 * max(map(len, values)), MOST_EDGE_ROWS)
    edges = np.empty((edge_rows, len(values)))
    for column, known in enumerate(values):
        low, high = known[0], known[-1]
        margin = (high - low) * 0.1 + 0.5
        drawn[:, column] = random.uniform(max(low - margin, -1e300), min(high + margin, 1e300), DRAWN_ROWS)
        whole = random.random(DRAWN_ROWS) < (0.5 if _categorical(plan, column) else 0.02)
        drawn[whole, column] = np.floor(drawn[whole, column])
        with np.errstate(over="ignore"):
            near = np.concatenate([known, np.nextafter(known, np.inf), np.nextafter(known, -np.inf)])
        # In an order of its own for each feature, so that they meet in many combinations.
        edges[:, column] = np.resize(random.permutation(near), edge_rows)
    odd = random.choice(np.array(ODD), (ODD_ROWS, len(values)))
    odd[: len(ODD)] = np.array(ODD)[:, None]
    mixed = np.where(random.random(odd.shape) < 0.2, odd, drawn[:ODD_ROWS])
    return np.concatenate([drawn, edges, odd, mixed])


def first_difference(
    scorer: Scorer, predict: Callable[[Matrix], Matrix], *more: Matrix, seed: int = 0
) -> str | None:
    """Where `scorer` and `predict` first differ by a bit, on `rows_for` the plan and on `more`; None: nowhere."""
    rows = np.ascontiguousarray(np.concatenate([*more, rows_for(scorer.checked, seed)]))
    wanted = np.ascontiguousarray(predict(rows), np.float64).reshape(len(rows), -1)
    if wanted.shape[1] != scorer.n_outputs:
        return f"the plan has {scorer.n_outputs} outputs, LightGBM {wanted.shape[1]}"
    got = np.empty_like(wanted)
    scorer.score(rows.ctypes.data, len(rows), got.ctypes.data)
    one_by_one = np.empty((SINGLE_ROWS, scorer.n_outputs))
    picked = np.linspace(0, len(rows) - 1, SINGLE_ROWS).astype(np.int64)
    alone = np.ascontiguousarray(rows[picked])
    for at in range(SINGLE_ROWS):
        scorer.score(alone[at:].ctypes.data, 1, one_by_one[at:].ctypes.data)
    for name, ours, theirs in (("", got, wanted), (", alone", one_by_one, wanted[picked])):
        equal = _same_bits(ours, theirs).all(axis=1)
        if not equal.all():
            at = int(np.argmin(equal))
            return f"test row {at}{name}: the plan makes {ours[at].tolist()} of it, LightGBM {theirs[at].tolist()}"
    return None


def _same_bits(a: Matrix, b: Matrix) -> NDArray[np.bool_]:
    """NaN equals NaN whatever its bits: neither is ever an answer."""
    same: NDArray[np.bool_] = (a.view(np.uint64) == b.view(np.uint64)) | (np.isnan(a) & np.isnan(b))
    return same


def _columns(plan: Checked, feature: int) -> NDArray[np.void]:
    columns = plan.sections["columns"]
    found: NDArray[np.void] = columns[columns["feature"] == feature]
    return found


def _categorical(plan: Checked, feature: int) -> bool:
    return bool((_columns(plan, feature)["kind"] == CATEGORY).any())


def _values(plan: Checked, feature: int) -> Matrix:
    """The thresholds and categories that the plan has for a feature, finite and sorted; never empty."""
    found: list[float] = []
    for column in _columns(plan, feature):
        first, count = int(column["first"]), int(column["count"])
        if column["kind"] == CATEGORY:
            found += range(-1, 32 * count + 2)
        else:
            found += plan.sections["thresholds"][first * BLOCK : (first + count) * BLOCK].tolist()
    known = np.unique(np.array(found, np.float64))
    known = known[np.isfinite(known)]
    return known if len(known) else np.zeros(1)
