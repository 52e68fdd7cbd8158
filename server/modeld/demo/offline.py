"""What each version predicts offline: `python -m modeld.demo.offline HELD_OUT.npz OUT.npz VERSION=MODEL…`.

Its own process, apart from the daemon in every way: the answers that the stream got are compared with these,
bit by bit. OUT holds `versions` `[v]` and `values`, float64 `[v, n]`: each version's predictions.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import lightgbm
import numpy as np


def main(argv: list[str] | None = None) -> int:
    """Predict all held-out rows with each version; 0."""
    parser = argparse.ArgumentParser(prog="python -m modeld.demo.offline", description="Predict offline.")
    parser.add_argument("held_out", type=Path, help="the rows, as the training wrote them")
    parser.add_argument("out", type=Path, help="the .npz to write")
    parser.add_argument("versions", nargs="+", metavar="VERSION=MODEL", help="a version and its model file")
    arguments = parser.parse_args(argv)
    with np.load(arguments.held_out) as held_out:
        features = held_out["features"]
    names: list[str] = []
    predictions: list[np.ndarray] = []
    for pair in arguments.versions:
        name, _, path = pair.partition("=")
        booster = lightgbm.Booster(model_file=path)
        names.append(name)
        predictions.append(np.asarray(booster.predict(features, num_threads=1), dtype=np.float64))
    np.savez(arguments.out, versions=np.array(names), values=np.stack(predictions))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
