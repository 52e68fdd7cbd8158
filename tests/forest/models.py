"""Small LightGBM models with every way of splitting and finishing, trained on seeded data, and the comparison."""

from __future__ import annotations

from typing import Any

import lightgbm
import numpy as np
from numpy.typing import NDArray

from modeld.forest import Forest, PlanUnsupported
from modeld.forest import kernel as kernels
from modeld.forest.proof import rows_for

Matrix = NDArray[np.float64]

#: Objective → what its labels have to be, and what else it needs.
OBJECTIVES: dict[str, tuple[str, dict[str, Any]]] = {
    "regression": ("real", {}),
    "regression sqrt": ("real", {"objective": "regression", "reg_sqrt": True}),
    "regression_l1": ("real", {}),
    "regression_l1 sqrt": ("real", {"objective": "regression_l1", "reg_sqrt": True}),
    "huber": ("real", {}),
    "fair": ("real", {}),
    "quantile": ("real", {"alpha": 0.7}),
    "mape": ("positive", {}),
    "poisson": ("positive", {}),
    "gamma": ("positive", {}),
    "tweedie": ("positive", {"tweedie_variance_power": 1.3}),
    "binary": ("binary", {"sigmoid": 0.7}),
    "cross_entropy": ("share", {}),
    "cross_entropy_lambda": ("share", {}),
    "multiclass": ("class", {"num_class": 3}),
    "multiclassova": ("class", {"num_class": 4, "sigmoid": 1.5}),
    "lambdarank": ("rank", {}),
    "rank_xendcg": ("rank", {}),
}


def data(
    seed: int = 0,
    rows: int = 400,
    features: int = 6,
    *,
    missing: float = 0.0,
    zeros: float = 0.0,
    categories: int = 0,
) -> Matrix:
    """Normal numbers; the last `categories` columns are whole numbers up to 40."""
    random = np.random.default_rng(seed)
    matrix = random.standard_normal((rows, features))
    for column in range(features - categories, features):
        matrix[:, column] = random.integers(0, 40, rows)
    matrix[random.random(matrix.shape) < zeros] = 0.0
    matrix[random.random(matrix.shape) < missing] = np.nan
    return matrix


def labels(matrix: Matrix, kind: str, seed: int = 0) -> Matrix:
    random = np.random.default_rng(seed + 1)
    filled = np.nan_to_num(matrix)
    score = filled[:, 0] + np.sin(2 * filled[:, -1]) + 0.3 * random.standard_normal(len(filled))
    match kind:
        case "positive":
            return np.exp(score / 2) + 0.1
        case "binary":
            return (score > 0).astype(np.float64)
        case "share":
            return 1 / (1 + np.exp(-score))
        case "class" | "rank":
            return np.digitize(score, [-0.5, 0.5]).astype(np.float64)
    return score


def train(
    matrix: Matrix,
    kind: str = "real",
    trees: int = 12,
    categories: int = 0,
    target: Matrix | None = None,
    **parameters: Any,
) -> lightgbm.Booster:
    settings = {
        "objective": "regression", "num_leaves": 15, "min_data_in_leaf": 3, "min_data_per_group": 2, "cat_smooth": 1.0,
        "max_cat_to_onehot": 2, "verbosity": -1, "num_threads": 1, "deterministic": True, "force_col_wise": True,
    } | parameters  # fmt: skip
    group = [len(matrix) // 4] * 4 if kind == "rank" else None
    columns = matrix.shape[1]
    target = labels(matrix, kind) if target is None else target
    dataset = lightgbm.Dataset(
        matrix[: sum(group)] if group else matrix,
        target[: sum(group)] if group else target,
        group=group,
        categorical_feature=list(range(columns - categories, columns)),
    )
    return lightgbm.train(settings, dataset, trees)


def assert_equal(booster: lightgbm.Booster, *more: Matrix, **iterations: int) -> set[str]:
    """Every layout that takes the model, in every version of the kernel, gives LightGBM's bits; returns the layouts."""
    used = set()
    for layout in ("lanes", "walk"):
        try:
            plan = Forest.from_booster(booster, layout=layout, **iterations).plan
        except PlanUnsupported as error:
            if "lanes layout" in str(error):
                continue
            raise
        used.add(layout)
        for version in range(kernels.load().version + 1):
            forest = Forest(plan, version=version)
            for rows in (rows_for(forest.scorer.checked, 1)[:700], *more):
                wanted = booster.predict(rows, num_threads=1, **iterations)
                got = forest.predict(rows)
                np.testing.assert_array_equal(got, wanted)
                finite = np.isfinite(wanted)
                assert got[finite].tobytes() == wanted[finite].tobytes()
                for at in (0, len(rows) // 2, len(rows) - 1):
                    np.testing.assert_array_equal(forest.predict(rows[at : at + 1])[0], wanted[at])
    return used
