"""Rows on which a plan is likeliest to differ from LightGBM, and the comparison, bit for bit."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from modeld.forest.format import BLOCK, CATEGORY, Checked
from modeld.forest.scorer import Scorer

Matrix = NDArray[np.float64]

#: Rows drawn from the features' ranges; the most rows of thresholds; rows of odd values.
DRAWN_ROWS, MOST_EDGE_ROWS, ODD_ROWS = 2000, 4096, 64
#: The share of odd values, half of them NaN, in every second drawn row: where deep nodes' default directions show.
_HOLES = 0.06
#: Rows that are also scored the way that few rows are, and so many at a time: fewer than any version's batch.
_FEW_ROWS, _AT_A_TIME = 512, 7
_HUGE = 1.7e308
_ZERO = float(np.float32(1e-35))
#: LightGBM treats several of these in its own way: NaN, zeros, all up to 1e-35, what no int holds.
ODD = (
    np.nan, 0.0, -0.0, 5e-324, -5e-324, 1e-310, _ZERO, -_ZERO, np.nextafter(_ZERO, 1), -np.nextafter(_ZERO, 1), 1e-34,
    -0.5, -1.0, 0.5, 1.0, 31.0, 32.0, 33.7, 2147483647.0, 2147483648.0, -2147483649.0, 1e300, -1e300, _HUGE,
    np.inf, -np.inf,
)  # fmt: skip


def rows_for(plan: Checked, seed: int = 0) -> Matrix:
    """Rows over each feature's range, every threshold with its two neighbours, and odd values; seeded."""
    random = np.random.default_rng(seed)
    values, categorical = _values(plan)
    low, high = np.array([known[[0, -1]] for known in values]).T
    with np.errstate(over="ignore"):
        margin = (high - low) * 0.1
    margin = np.where(margin > 0, margin, np.where(high != 0, np.abs(high) * 0.1, 0.5))
    low, high = np.clip(low - margin, -1e300, 1e300), np.clip(high + margin, -1e300, 1e300)
    drawn = random.random((DRAWN_ROWS, len(values)))
    drawn *= high - low
    drawn += low
    whole = drawn[: DRAWN_ROWS // 2, categorical]
    drawn[: DRAWN_ROWS // 2, categorical] = np.floor(whole)
    holed = drawn[::2]
    holes = random.random(holed.shape) < _HOLES
    fill = random.choice(np.array(ODD), int(holes.sum()))
    fill[: len(fill) // 2] = np.nan
    holed[holes] = random.permutation(fill)
    edges = np.empty((min(3 * max(map(len, values)), MOST_EDGE_ROWS), len(values)), order="F")
    for column, known in enumerate(values):
        with np.errstate(over="ignore"):
            near = np.concatenate([known, np.nextafter(known, np.inf), np.nextafter(known, -np.inf)])
        # In an order of its own for each feature, so that they meet in many combinations.
        edges[:, column] = np.resize(random.permutation(near), len(edges))
    odd = random.choice(np.array(ODD), (ODD_ROWS, len(values)))
    odd[: len(ODD)] = np.array(ODD)[:, None]
    rows = np.concatenate([drawn, edges, odd])
    if plan.header.scaled:
        odd = rows[-ODD_ROWS:]
        with np.errstate(over="ignore"):
            odd[1::2] = odd[1::2] * plan.sections["scales"] + plan.sections["means"]
        # scikit-learn takes no infinities, and neither does the front.
        np.clip(rows, -_HUGE, _HUGE, out=rows)
    return rows


def first_difference(scorer: Scorer, predict: Callable[[Matrix], Matrix], *, seed: int = 0) -> str | None:
    """Where `scorer` and `predict` first differ by a bit, on `rows_for` the plan; None: nowhere.

    `predict` is asked once, with all rows: it is what takes the time.
    """
    rows = rows_for(scorer.checked, seed)
    wanted = np.ascontiguousarray(predict(rows), np.float64).reshape(len(rows), -1)
    if wanted.shape[1] != scorer.n_outputs:
        return f"the plan has {scorer.n_outputs} outputs, LightGBM {wanted.shape[1]}"
    got = np.empty_like(wanted)
    scorer.score(rows.ctypes.data, len(rows), got.ctypes.data)
    picked = np.linspace(0, len(rows) - 1, _FEW_ROWS).astype(np.int64)
    few, alone = np.ascontiguousarray(rows[picked]), np.empty((_FEW_ROWS, scorer.n_outputs))
    for at in range(0, _FEW_ROWS, _AT_A_TIME):
        n = min(_AT_A_TIME, _FEW_ROWS - at)
        scorer.score(few[at:].ctypes.data, n, alone[at:].ctypes.data)
    for name, ours, theirs in (("", got, wanted), (", among few", alone, wanted[picked])):
        equal = _same_bits(ours, theirs).all(axis=1)
        if not equal.all():
            at = int(np.argmin(equal))
            return f"test row {at}{name}: the plan makes {ours[at].tolist()} of it, LightGBM {theirs[at].tolist()}"
    return None


def _same_bits(a: Matrix, b: Matrix) -> NDArray[np.bool_]:
    """NaN equals NaN whatever its bits: neither is ever an answer."""
    same: NDArray[np.bool_] = (a.view(np.uint64) == b.view(np.uint64)) | (np.isnan(a) & np.isnan(b))
    return same


def _values(plan: Checked) -> tuple[list[Matrix], NDArray[np.bool_]]:
    """For each feature the thresholds and categories that the plan has for it, finite, sorted, never empty; and which
    features have categories. In a scaled plan: what the scaling turns into them, as far as rounding lets it."""
    found: list[list[Matrix]] = [[] for _ in range(plan.header.n_features)]
    categorical = np.zeros(len(found), np.bool_)
    for feature, kind, first, count, _, _ in plan.sections["columns"].tolist():
        if kind == CATEGORY:
            categorical[feature] = True
            found[feature].append(np.arange(-1.0, 32 * count + 2))
        else:
            found[feature].append(plan.sections["thresholds"][first * BLOCK : (first + count) * BLOCK])
    values = []
    for feature, parts in enumerate(found):
        known = np.unique(np.concatenate(parts)) if parts else np.zeros(1)
        if plan.header.scaled:
            with np.errstate(over="ignore", invalid="ignore"):
                known = np.unique(known * plan.sections["scales"][feature] + plan.sections["means"][feature])
        known = known[np.isfinite(known)]
        values.append(known if len(known) else np.zeros(1))
    return values, categorical
