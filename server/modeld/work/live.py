"""A candidate beside the version that serves: what both make of the rows that were answered last."""

from __future__ import annotations

import os

import numpy as np
from numpy.typing import NDArray

from modeld.work import ipc

Matrix = NDArray[np.float64]


def read(live: ipc.Live, fd: int) -> tuple[Matrix, dict[str, Matrix]]:
    """The rows, [rows, features], and the serving version's answers by output, [rows] or [rows, k]; closes `fd`."""
    widths = [width or 1 for _, width in live.outputs]
    per_row = live.n_features + sum(widths)
    try:
        data = os.pread(fd, live.rows * per_row * 8, 0)
    finally:
        os.close(fd)
    values = np.frombuffer(data, np.float64)
    at = live.rows * live.n_features
    rows = values[:at].reshape(live.rows, -1)
    answers = {}
    for (name, width), columns in zip(live.outputs, widths, strict=True):
        part = values[at : at + live.rows * columns]
        answers[name] = part.reshape(live.rows, width) if width else part
        at += live.rows * columns
    return rows, answers


def compare(old: dict[str, Matrix], new: dict[str, Matrix]) -> list[ipc.LiveDifference]:
    """The difference in each output that both have in the same shape, [rows] or [rows, k]: means over all columns."""
    found = []
    for name, theirs in old.items():
        ours = new.get(name)
        if ours is None or ours.shape != theirs.shape:
            continue
        columns = zip(theirs.reshape(len(theirs), -1).T, ours.reshape(len(ours), -1).T, strict=True)
        correlations = [rank_correlation(a, b) for a, b in columns]
        known = [one for one in correlations if one is not None]
        found.append(
            ipc.LiveDifference(
                name,
                len(theirs),
                float(np.abs(ours - theirs).mean()),
                sum(known) / len(known) if len(known) == len(correlations) else None,
            )
        )
    return found


def objection(live: ipc.Live, differences: list[ipc.LiveDifference]) -> str | None:
    """Which limit a candidate breaks, in a sentence; None: none."""
    for one in differences:
        what = f"output {one.output!r} on the last {one.rows} rows that {live.version} answered"
        if live.max_mean_abs_diff is not None and one.mean_abs_diff > live.max_mean_abs_diff:
            return (
                f"{what}: the mean absolute difference is {one.mean_abs_diff:.6g}, "
                f"trial.max_mean_abs_diff is {live.max_mean_abs_diff:g}"
            )
        least, correlation = live.min_rank_correlation, one.rank_correlation
        if least is not None and correlation is not None and correlation < least:
            return (
                f"{what}: the rank correlation is {correlation:.4f}, trial.min_rank_correlation is {least:g}"
            )
    return None


def rank_correlation(a: Matrix, b: Matrix) -> float | None:
    """Spearman's, of [n] and [n]: Pearson's of the ranks, ties at their mean rank. None where `a` is constant."""
    left, right = _ranks(a), _ranks(b)
    left, right = left - left.mean(), right - right.mean()
    if not left.any():
        return None
    norm = float(np.sqrt((left @ left) * (right @ right)))
    return float(left @ right) / norm if norm else 0.0


def _ranks(values: Matrix) -> Matrix:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    last = np.cumsum(counts)
    ranks: Matrix = (last - (counts - 1) / 2.0)[inverse]
    return ranks
