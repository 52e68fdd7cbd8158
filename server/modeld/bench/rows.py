"""Rows to ask for. No LightGBM here: the benchmark's own process never imports it."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SEED = 8
#: Rows that a run has at hand, unless a case wants more.
ROWS = 4096


def normal_rows(rows: int, features: int) -> NDArray[np.float64]:
    """`[rows, features]` of standard normal float64; the first n rows are the same for every n."""
    return np.random.default_rng(SEED).standard_normal((rows, features))
