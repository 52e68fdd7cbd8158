"""What answers cost without a server: `python -m modeld.bench.offline MODEL ROWS`, told by lines on stdin.

One process, one thread, `Booster.predict` on a matrix that lies in memory, over and over.
"""

from __future__ import annotations

import argparse
import gc
import itertools
import time
from pathlib import Path

import lightgbm
import msgspec
import numpy as np

from modeld.bench.lines import answer
from modeld.bench.rows import starts


class Turn(msgspec.Struct):
    """Predict `rows` rows at a time for `seconds`: the same blocks as the daemon is asked for."""

    rows: int
    seconds: float


def main(argv: list[str] | None = None) -> int:
    """Answer each turn with `started_ns` and `latency_ns` until stdin ends."""
    parser = argparse.ArgumentParser(
        prog="python -m modeld.bench.offline", description="Predict without a server."
    )
    parser.add_argument("model", type=Path, help="LightGBM text model")
    parser.add_argument("rows", type=Path, help="matrix, .npy")
    arguments = parser.parse_args(argv)
    booster = lightgbm.Booster(model_file=str(arguments.model))
    rows = np.load(arguments.rows)
    gc.freeze()
    gc.disable()

    def handle(line: bytes) -> object:
        turn = msgspec.json.decode(line, type=Turn)
        parts = [rows[at : at + turn.rows] for at in starts(len(rows), turn.rows)]
        take = itertools.cycle(parts).__next__
        booster.predict(take(), num_threads=1)
        started: list[int] = []
        replied: list[int] = []
        end = time.monotonic_ns() + int(turn.seconds * 1e9)
        while not replied or replied[-1] < end:
            matrix = take()
            started.append(time.monotonic_ns())
            booster.predict(matrix, num_threads=1)
            replied.append(time.monotonic_ns())
        return {"started_ns": started, "replied_ns": replied}

    return answer(handle)


if __name__ == "__main__":
    raise SystemExit(main())
