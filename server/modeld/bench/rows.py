"""Rows to ask for. No LightGBM here: the benchmark's own process never imports it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SEED = 8
#: Rows that a run has at hand, unless a case wants more.
ROWS = 4096
#: Different requests that a case sends in turn. One row over and over is answered by a branch predictor that knows
#: the way: Booster.predict takes 33 µs for it and 66 for one row in turn out of 16 or 4,096 (the reference model).
REQUESTS = 512


def normal_rows(rows: int, features: int) -> NDArray[np.float64]:
    """`[rows, features]` of standard normal float64; the first n rows are the same for every n."""
    return np.random.default_rng(SEED).standard_normal((rows, features))


def starts(available: int, rows: int) -> range:
    """Where each request's rows begin: up to REQUESTS different requests out of the rows there are."""
    return range(0, available - rows + 1, rows)[:REQUESTS]
