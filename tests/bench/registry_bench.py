"""How fast the registry is: medians at 100 models × 100 versions, time in fsync told apart.

python tests/bench/registry_bench.py [--models 100] [--versions 100] [--repeat 30] [--keep DIR]
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from modelreg import Registry
from modelreg.disk import Disk
from modelreg.listing import select

#: The limits of each operation in milliseconds, fsync left out.
LIMITS_MS = {
    "open": 100.0,
    "get": 1.0,
    "list one model": 5.0,
    "filter by metric": 5.0,
    "compare": 5.0,
    "lineage": 5.0,
    "promote": 10.0,
    "register 3 MB": 50.0,
}


class TimedSync:
    """An os whose fsync is timed, or left out."""

    def __init__(self) -> None:
        self.spent_s = 0.0
        self.skip = False

    def __getattr__(self, name: str) -> Any:
        return getattr(os, name)

    def fsync(self, fd: int) -> None:
        if self.skip:
            return
        start = time.perf_counter()
        os.fsync(fd)
        self.spent_s += time.perf_counter() - start


def model_of_3_mb(directory: Path) -> Path:
    """A LightGBM text of about 3 MB: 500 trees × 63 leaves × 158 features."""
    import lightgbm

    generator = np.random.default_rng(1)
    rows = generator.normal(size=(4000, 158))
    target = rows[:, :5].sum(axis=1) + generator.normal(size=4000)
    parameters = {"verbosity": -1, "num_leaves": 63, "num_threads": 1, "min_data_in_leaf": 5}
    booster = lightgbm.train(parameters, lightgbm.Dataset(rows, target), 500)
    path = directory / "model.txt"
    booster.save_model(path)
    return path


def fill(registry: Registry, small: Path, models: int, versions: int) -> None:
    """Register ``models`` × ``versions`` small versions, each the child of the one before."""
    for model in range(models):
        parent = None
        for version in range(versions):
            made = registry.register(
                f"m{model}", small, version=f"1.{version}.0", golden=False, features=["a"], parent=parent,
                metrics={"ic": version / 1000, "1d": {"rmse": 0.1}}, tags=["even"] if version % 2 == 0 else [],
            )  # fmt: skip
            parent = made.ref
        registry.promote(f"m{model}:1.{versions - 1}.0", reason="newest")


def medians(act: Callable[[], object], repeat: int, sync: TimedSync) -> tuple[float, float]:
    """Median milliseconds without fsync, and median milliseconds in fsync."""
    without, within = [], []
    for _ in range(repeat):
        sync.spent_s = 0.0
        start = time.perf_counter()
        act()
        whole = time.perf_counter() - start
        without.append((whole - sync.spent_s) * 1e3)
        within.append(sync.spent_s * 1e3)
    return statistics.median(without), statistics.median(within)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--models", type=int, default=100)
    parser.add_argument("--versions", type=int, default=100)
    parser.add_argument("--repeat", type=int, default=30)
    parser.add_argument("--keep", type=Path, help="fill this root once and use it again")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    scratch = Path(tempfile.mkdtemp(prefix="modelreg-bench-"))
    try:
        return run(arguments, scratch)
    finally:
        shutil.rmtree(scratch)


def run(arguments: argparse.Namespace, scratch: Path) -> int:
    sync = TimedSync()
    root = arguments.keep or scratch / "models"
    if not root.exists():
        sync.skip = True
        small = scratch / "small.txt"
        small.write_text("tree\nfeature_names=a\n\nend of trees\n")
        fill(Registry.init(root, disk=Disk(sync)), small, arguments.models, arguments.versions)
        sync.skip = False
    big = model_of_3_mb(scratch)
    registry = Registry(root, disk=Disk(sync))
    select(registry)
    count = iter(range(10**6))
    newest, before = (f"m1:1.{arguments.versions - back}.0" for back in (1, 2))
    stamp = time.strftime("%Y%m%d")
    acts: dict[str, Callable[[], object]] = {
        "open": lambda: Registry(root, disk=Disk(sync)),
        "get": lambda: registry.metadata("m1", before.partition(":")[2]),
        "list one model": lambda: select(registry, "m1", limit=100),
        "filter by metric": lambda: select(registry, minima=[("ic", 0.05)], tag="even", sort="ic", limit=100),
        "compare": lambda: registry.compare([before, newest]),
        "lineage": lambda: registry.lineage("m1:1.5.0"),
        "promote": lambda: registry.promote((before, newest)[next(count) % 2], reason="bench"),
        "register 3 MB": lambda: registry.register(
            "bench", big, version=f"{stamp}.{time.time_ns() % 10**12}.{next(count)}", golden=False
        ),
    }
    results = {name: medians(act, arguments.repeat, sync) for name, act in acts.items()}
    if arguments.json:
        told = {n: {"ms": a, "fsync_ms": b, "limit_ms": LIMITS_MS[n]} for n, (a, b) in results.items()}
        print(json.dumps(told, indent=2))
    else:
        print(f"{arguments.models} models × {arguments.versions} versions, medians of {arguments.repeat}, ms")
        for name, (ms, fsync_ms) in results.items():
            verdict = "" if ms < LIMITS_MS[name] else "  MISSED"
            print(f"{name:18} {ms:8.2f}   fsync {fsync_ms:8.2f}   limit {LIMITS_MS[name]:6.0f}{verdict}")
    return 0 if all(ms < LIMITS_MS[name] for name, (ms, _) in results.items()) else 1


if __name__ == "__main__":
    sys.exit(main())
