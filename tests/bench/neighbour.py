"""One row beside a client that sends 4,096-row matrices: `python tests/bench/neighbour.py [MODEL.txt] [key=value…]`.

That part of `modeld bench` alone, under a daemon of its own with these settings. Without a model the reference one is
trained.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

from modeld.bench import extras
from modeld.bench.lines import Helper
from modeld.bench.measure import Loader, Measurer
from modeld.bench.rows import ROWS
from modeld.bench.run import placement
from modeld.bench.stack import Stack

ROUNDS, SECONDS = 5, 2.0


def main(arguments: list[str]) -> None:
    settings = tuple(word for word in arguments if "=" in word)
    model = next((Path(word) for word in arguments if "=" not in word), None)
    command = [sys.executable, "-m", "modeld.bench.load"]
    with tempfile.TemporaryDirectory(prefix="mb-") as name:
        stack = Stack(Path(name), settings)
        stack.prepare(model, ROWS)
        with (
            stack.daemon(None) as target,
            Helper("load generator", command) as one,
            Helper("neighbour", command) as other,
        ):
            measurer = Measurer(
                target, Loader(one, stack.directory), stack.directory, placement(os.sched_getaffinity(0)),
                rounds=ROUNDS, seconds=SECONDS, rate=None, offline=None,
            )  # fmt: skip
            found = extras.beside_matrices(measurer, Loader(other, stack.directory), ROUNDS)
    for quiet, beside in zip(found.quiet, found.beside, strict=True):
        print(
            *(
                f"{which}: {quiet.percentiles_us[which]:.0f} µs quiet, {beside.percentiles_us[which]:.0f} beside"
                for which in ("p50", "p90", "p99")
            ),
            sep="; ",
        )
    for which in ("p50", "p90", "p99"):
        print(f"{which} {found.ratio(which):.1f} ×")


if __name__ == "__main__":
    main(sys.argv[1:])
