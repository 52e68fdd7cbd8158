"""The reference model: `python -m modeld.bench.model OUT`. Its own process, as all that imports LightGBM.

500 trees × 63 leaves × 158 features, trained on random numbers from a seed: a prediction's cost is a matter of
the model's size, not of what it has learned. OUT gets `model.txt`, `rows.npy` (rows to ask for) and
`expected.npy` (what `Booster.predict(num_threads=1)` makes of them: a reply that differs by a bit isn't worth
measuring).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import lightgbm
import numpy as np

from modeld.bench.rows import ROWS, normal_rows

TREES, LEAVES, FEATURES = 500, 63, 158
TRAINING_ROWS = 4000
SEED = 7
PARAMETERS = {
    "objective": "regression",
    "learning_rate": 0.02,
    "min_data_in_leaf": 20,
    "deterministic": True,
    "force_col_wise": True,
    "seed": SEED,
    "num_threads": 2,
    "verbosity": -1,
}


def train(trees: int = TREES, leaves: int = LEAVES, features: int = FEATURES) -> lightgbm.Booster:
    """A model of exactly these sizes.

    Raises:
        ValueError: the data couldn't be split that far.
    """
    random = np.random.default_rng(SEED)
    rows = random.standard_normal((TRAINING_ROWS, features))
    weights = random.standard_normal(features)
    target = 0.1 * rows @ weights + np.sin(3 * rows[:, 0]) + rows[:, 0] * rows[:, -1]
    target += random.standard_normal(TRAINING_ROWS)
    booster = lightgbm.train(PARAMETERS | {"num_leaves": leaves}, lightgbm.Dataset(rows, target), trees)
    if (found := sizes(booster)) != (trees, leaves, leaves, features):
        raise ValueError(
            f"{trees} trees × {leaves} leaves × {features} features are wanted; it has {found[0]} trees with "
            f"{found[1]} to {found[2]} leaves and {found[3]} features"
        )
    return booster


def sizes(booster: lightgbm.Booster) -> tuple[int, int, int, int]:
    """Trees, fewest and most leaves of a tree, features."""
    lines = booster.model_to_string().splitlines()
    leaves = [int(line.removeprefix("num_leaves=")) for line in lines if line.startswith("num_leaves=")]
    return len(leaves), min(leaves), max(leaves), booster.num_feature()


def write(out: Path, booster: lightgbm.Booster, rows: int = ROWS) -> None:
    """Write the model, rows of standard normal numbers, and what the model makes of them."""
    out.mkdir(parents=True, exist_ok=True)
    booster.save_model(out / "model.txt")
    asked = normal_rows(rows, booster.num_feature())
    np.save(out / "rows.npy", asked)
    # From the file, as the daemon will: what is measured is the file.
    loaded = lightgbm.Booster(model_file=str(out / "model.txt"))
    np.save(out / "expected.npy", np.asarray(loaded.predict(asked, num_threads=1), dtype=np.float64))


def main(argv: list[str] | None = None) -> int:
    """Train or take a model and write the files; prints the model's sizes."""
    parser = argparse.ArgumentParser(
        prog="python -m modeld.bench.model", description="Make the model to measure."
    )
    parser.add_argument("out", type=Path, help="directory to write to")
    parser.add_argument(
        "--from", dest="model", type=Path, help="take this LightGBM text model instead of training"
    )
    parser.add_argument("--rows", type=int, default=ROWS, help="rows to write (%(default)s)")
    arguments = parser.parse_args(argv)
    if arguments.model is None:
        booster = train()
    else:
        booster = lightgbm.Booster(model_file=str(arguments.model), params={"num_threads": 1})
    write(arguments.out, booster, arguments.rows)
    trees, fewest, most, features = sizes(booster)
    leaves = f"{most}" if fewest == most else f"{fewest} to {most}"
    print(f"{trees} trees × {leaves} leaves × {features} features")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
