"""Train the demo's two models: `python -m modeld.demo.train OUT`. Its own process, the only one that trains.

Walk-forward: each fold trains on everything before its test block and is scored on the block; the last block
is held out for the models that are registered. Between training rows and test rows lies a gap of days, so
that no training target reaches into the days that are tested.

OUT gets `<version>.txt` (the model), `<version>.metrics.json` (from the held-out rows; the folds under
`walk_forward`) for each version, and `held_out.npz` (`features`, `target`, `dates`, `shares`, `names`).
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
from numpy.typing import NDArray

from modeld.demo.features import FEATURE_NAMES, Rows, load_closes, make_rows
from modeld.demo.scores import score

#: Trading days held out at the end: two years.
HELD_OUT_DAYS = 504
#: Walk-forward folds before the held-out block.
FOLDS = 3
#: Trading days left out between training and test; the target needs one, the rest is caution.
GAP_DAYS = 5
#: Threads of the training process.
THREADS = 2


@dataclass(frozen=True, slots=True)
class Recipe:
    """What makes one version: its name, boosting rounds, and LightGBM's parameters."""

    version: str
    rounds: int
    parameters: Mapping[str, Any]


RECIPES = (
    Recipe("1.0.0", 60, {"num_leaves": 15, "learning_rate": 0.05, "min_data_in_leaf": 200}),
    Recipe(
        "1.1.0",
        120,
        {"num_leaves": 31, "learning_rate": 0.03, "min_data_in_leaf": 100, "feature_fraction": 0.6},
    ),
)
#: Common to all recipes: the same bytes come out whenever the same rows go in.
COMMON = {
    "objective": "regression",
    "deterministic": True,
    "force_col_wise": True,
    "seed": 7,
    "num_threads": THREADS,
    "verbosity": -1,
}


@dataclass(frozen=True, slots=True)
class Split:
    """Days by their number: train on `[0, train_end)`, test on `[test_start, test_end)`."""

    train_end: int
    test_start: int
    test_end: int


def walk_forward(days: int, *, folds: int, held_out: int, gap: int) -> tuple[list[Split], Split]:
    """Expanding-window folds over the days before the held-out block, and the final split itself.

    Raises:
        ValueError: too few days for that many folds.
    """
    start = days - held_out
    block = start // (folds + 1)
    if block <= gap:
        raise ValueError(f"{days} days are too few for {folds} folds and {held_out} held out")
    ends = [start - block * left for left in range(folds - 1, -1, -1)]
    splits = [Split(end - block - gap, end - block, end) for end in ends]
    return splits, Split(start - gap, start, days)


def train(rows: Rows, recipe: Recipe) -> lightgbm.Booster:
    """One model of these rows."""
    data = lightgbm.Dataset(rows.features, rows.target, feature_name=list(FEATURE_NAMES))
    return lightgbm.train(COMMON | dict(recipe.parameters), data, num_boost_round=recipe.rounds)


def train_all(rows: Rows, out: Path, *, held_out_days: int = HELD_OUT_DAYS, folds: int = FOLDS) -> None:
    """Train, score and write every recipe; print one line for each."""
    out.mkdir(parents=True, exist_ok=True)
    day = np.unique(rows.dates, return_inverse=True)[1]
    shares = int(rows.shares.max()) + 1
    splits, final = walk_forward(int(day.max()) + 1, folds=folds, held_out=held_out_days, gap=GAP_DAYS)
    for recipe in RECIPES:
        by_fold = {
            f"fold_{number}": _fit_and_score(rows, day, split, recipe, shares)[1]
            for number, split in enumerate(splits, 1)
        }
        booster, metrics = _fit_and_score(rows, day, final, recipe, shares)
        booster.save_model(out / f"{recipe.version}.txt")
        document = {**metrics, "walk_forward": by_fold}
        (out / f"{recipe.version}.metrics.json").write_text(json.dumps(document, indent=1))
        print(
            f"trained {recipe.version}: "
            + ", ".join(f"{name} {value:.4g}" for name, value in metrics.items())
        )
    held_out = rows.where(_between(day, final.test_start, final.test_end))
    np.savez(
        out / "held_out.npz",
        features=held_out.features,
        target=held_out.target,
        dates=held_out.dates,
        shares=held_out.shares,
        names=np.array(FEATURE_NAMES),
    )


def _fit_and_score(
    rows: Rows, day: NDArray[np.int64], split: Split, recipe: Recipe, shares: int
) -> tuple[lightgbm.Booster, dict[str, float]]:
    booster = train(rows.where(_between(day, 0, split.train_end)), recipe)
    test = rows.where(_between(day, split.test_start, split.test_end))
    predicted = np.asarray(booster.predict(test.features, num_threads=THREADS), dtype=np.float64)
    return booster, score(predicted, test.target, shares)


def _between(day: NDArray[np.int64], start: int, end: int) -> NDArray[np.bool_]:
    return np.asarray((day >= start) & (day < end))


def main(argv: list[str] | None = None) -> int:
    """Train on the bundled prices; 0."""
    parser = argparse.ArgumentParser(prog="python -m modeld.demo.train", description="Train the two models.")
    parser.add_argument("out", type=Path, help="directory to write to")
    parser.add_argument("--days", type=int, default=None, help="use only the last N days that have features")
    parser.add_argument("--held-out-days", type=int, default=HELD_OUT_DAYS, help="days held out at the end")
    parser.add_argument("--folds", type=int, default=FOLDS, help="walk-forward folds")
    arguments = parser.parse_args(argv)
    rows = make_rows(load_closes())
    if arguments.days is not None:
        rows = rows.where(rows.dates >= np.unique(rows.dates)[-arguments.days])
    train_all(rows, arguments.out, held_out_days=arguments.held_out_days, folds=arguments.folds)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
