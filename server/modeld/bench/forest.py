"""What scoring costs in one process, without a server: `python -m modeld.bench.forest [--model FILE]`.

One thread. LightGBM's two ways beside ours, turn by turn, so that a busy machine is busy for all of them: medians over
the rounds, and ratios within each round. Nothing is timed that isn't bit-equal to `Booster.predict` first.
"""

from __future__ import annotations

import argparse
import ctypes
import time
from collections.abc import Callable
from pathlib import Path

import lightgbm
import numpy as np
from numpy.typing import NDArray

from modeld.bench.model import sizes, train
from modeld.bench.rows import normal_rows
from modeld.forest import PlanUnsupported
from modeld.forest import kernel as kernels
from modeld.forest.compile import Layout, compile_text
from modeld.forest.forest import Forest
from modeld.forest.format import check

Matrix = NDArray[np.float64]

#: Rows of the batch; single rows in a turn; turns.
BATCH, _SINGLES, ROUNDS = 4096, 400, 15
_LAYOUTS: tuple[Layout, ...] = ("lanes", "walk")
_VERSIONS = {0: "plain", 1: "AVX2", 2: "AVX-512"}


def single_row_fast(booster: lightgbm.Booster, rows: Matrix) -> Callable[[int], float]:
    """LightGBM's quickest way for one row, as a function of the row's number."""
    library = lightgbm.basic._LIB  # type: ignore[attr-defined]
    handle, length, out = ctypes.c_void_p(), ctypes.c_int64(), ctypes.c_double()
    library.LGBM_BoosterPredictForMatSingleRowFastInit(
        booster._handle, 0, 0, -1, 1, ctypes.c_int32(rows.shape[1]), b"num_threads=1", ctypes.byref(handle)
    )
    call = library.LGBM_BoosterPredictForMatSingleRowFast
    call.argtypes = [ctypes.c_void_p] * 4
    address, row_bytes = rows.ctypes.data, rows.shape[1] * 8
    at_length, at_out = ctypes.addressof(length), ctypes.addressof(out)

    def predict(row: int) -> float:
        call(handle, address + row * row_bytes, at_length, at_out)
        return out.value

    return predict


def one_row(forest: Forest, rows: Matrix) -> Callable[[int], float]:
    out = ctypes.c_double()
    address, row_bytes, at_out = rows.ctypes.data, rows.shape[1] * 8, ctypes.addressof(out)

    def predict(row: int) -> float:
        forest.scorer.score(address + row * row_bytes, 1, at_out)
        return out.value

    return predict


def main(argv: list[str] | None = None) -> int:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        prog="python -m modeld.bench.forest", description="Scoring without a server."
    )
    parser.add_argument(
        "--model", type=Path, help="LightGBM text with one output, instead of the reference model"
    )
    arguments = parser.parse_args(argv)
    text = arguments.model.read_text() if arguments.model is not None else train().model_to_string()
    booster = lightgbm.Booster(model_str=text)
    trees, _, leaves, features = sizes(booster)
    print(
        f"{trees} trees × {leaves} leaves × {features} features; one thread, µs a row, medians of {ROUNDS} rounds"
    )
    rows = normal_rows(BATCH, features)
    wanted = np.asarray(booster.predict(rows, num_threads=1), np.float64)

    singles = {"LightGBM, SingleRowFast": single_row_fast(booster, rows)}
    batches: dict[str, Callable[[], object]] = {
        "LightGBM, Booster.predict": lambda: booster.predict(rows, num_threads=1)
    }
    for layout in _LAYOUTS:
        try:
            plan = compile_text(text, layout=layout)
        except PlanUnsupported:
            continue
        took = [seconds(lambda layout=layout: compile_text(text, layout=layout)) for _ in range(7)]  # type: ignore[misc]
        checked = [seconds(lambda plan=plan: check(memoryview(plan))) for _ in range(7)]  # type: ignore[misc]
        print(
            f"{layout}: {len(plan):,} bytes, compiled in {np.median(took) * 1e3:.0f} ms, "
            f"checked in {np.median(checked) * 1e3:.2f} ms"
        )
        for version in range(kernels.load().version + 1):
            forest = Forest(plan, version=version)
            if forest.predict(rows).tobytes() != wanted.tobytes():
                raise SystemExit(f"{layout}, {_VERSIONS[version]}: not equal to Booster.predict")
            singles[f"{layout}, {_VERSIONS[version]}"] = one_row(forest, rows)
            batches[f"{layout}, {_VERSIONS[version]}"] = lambda forest=forest: forest.predict(rows)  # type: ignore[misc]

    table("one row", {name: lambda call=call: singles_us(call) for name, call in singles.items()})  # type: ignore[misc]
    table(
        f"{BATCH:,} rows",
        {name: lambda call=call: seconds(call) / BATCH * 1e6 for name, call in batches.items()},  # type: ignore[misc]
    )
    return 0


def table(title: str, subjects: dict[str, Callable[[], float]], notes: dict[str, str] | None = None) -> None:
    """Each subject once a round; the first is what the others are set against. `notes` end their subjects' lines."""
    found = {name: np.array([0.0] * ROUNDS) for name in subjects}
    for turn in range(ROUNDS):
        for name, measure in subjects.items():
            found[name][turn] = measure()
    base = next(iter(found.values()))
    print(f"\n{title:<28}{'µs a row':>10}{'ratio':>8}")
    for name, values in found.items():
        note = (notes or {}).get(name, "")
        print(f"{name:<28}{np.median(values):>10.2f}{np.median(values / base):>8.3f}  {note}".rstrip())


def singles_us(predict: Callable[[int], float]) -> float:
    clock = time.perf_counter_ns
    took = np.empty(_SINGLES)
    for row in range(_SINGLES):
        start = clock()
        predict(row)
        took[row] = clock() - start
    return float(np.median(took)) / 1e3


def seconds(action: Callable[[], object]) -> float:
    start = time.perf_counter()
    action()
    return time.perf_counter() - start


if __name__ == "__main__":
    raise SystemExit(main())
