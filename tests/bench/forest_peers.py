"""Scoring alone, beside other libraries in one run: `python tests/bench/forest_peers.py [--trees N]`.

    python -m venv peers && peers/bin/pip install -e . -r tests/bench/forest-requirements.txt
    peers/bin/python tests/bench/forest_peers.py

One thread each, through each library's own Python interface; turn by turn, as in `modeld.bench.forest`. A library that
isn't installed is named and left out. Says of each whether it gives the bits of `Booster.predict`, on 4,096 rows.
lleaves compiles for minutes: `--trees 100` leaves it in, with a smaller model for all.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np

from modeld.bench.forest import BATCH, Matrix, one_row, seconds, single_row_fast, singles_us, table
from modeld.bench.model import TREES, sizes, train
from modeld.bench.rows import normal_rows
from modeld.forest import Forest

#: The most trees for which lleaves is compiled.
LLEAVES_TREES = 150


@dataclass(frozen=True, slots=True)
class Peer:
    """One library with the model loaded: one row by its number, and all rows."""

    name: str
    one: Callable[[int], object]
    all: Callable[[], Matrix]


def ours(booster: lightgbm.Booster, _: Path, rows: Matrix) -> Peer:
    forest = Forest.from_booster(booster)
    return Peer("modeld.forest", one_row(forest, rows), lambda: forest.predict(rows))


def gtil(_: lightgbm.Booster, file: Path, rows: Matrix) -> Peer:
    import treelite

    model = treelite.frontend.load_lightgbm_model(str(file))
    return Peer(
        "treelite GTIL",
        lambda row: treelite.gtil.predict(model, rows[row : row + 1], nthread=1),
        lambda: treelite.gtil.predict(model, rows, nthread=1),
    )


def tl2cgen(_: lightgbm.Booster, file: Path, rows: Matrix) -> Peer:
    import tl2cgen as library
    import treelite

    model = treelite.frontend.load_lightgbm_model(str(file))
    made = str(file.with_suffix(".so"))
    if not Path(made).exists():
        library.export_lib(model, toolchain="gcc", libpath=made, params={"parallel_comp": 8}, nthread=2)
    predictor = library.Predictor(made, nthread=1)

    def predict(some: Matrix) -> Matrix:
        return predictor.predict(library.DMatrix(some, dtype="float64"))

    return Peer("tl2cgen", lambda row: predict(rows[row : row + 1]), lambda: predict(rows))


def onnxruntime(booster: lightgbm.Booster, _: Path, rows: Matrix) -> Peer:
    import onnxmltools
    import onnxruntime as library
    from onnxmltools.convert.common.data_types import FloatTensorType

    converted = onnxmltools.convert_lightgbm(
        booster, initial_types=[("x", FloatTensorType([None, rows.shape[1]]))], zipmap=False, target_opset=15
    )
    options = library.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    session = library.InferenceSession(
        converted.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    narrow = rows.astype(np.float32)
    return Peer(
        "onnxruntime",
        lambda row: session.run(None, {"x": narrow[row : row + 1]}),
        lambda: session.run(None, {"x": narrow})[0],
    )


def lleaves(booster: lightgbm.Booster, file: Path, rows: Matrix) -> Peer:
    if booster.num_trees() > LLEAVES_TREES:
        raise TimeoutError(f"compiles for minutes above {LLEAVES_TREES} trees")
    import lleaves as library

    model = library.Model(model_file=str(file))
    model.compile()
    return Peer(
        "lleaves",
        lambda row: model.predict(rows[row : row + 1], n_jobs=1),
        lambda: model.predict(rows, n_jobs=1),
    )


def load(booster: lightgbm.Booster, directory: Path, rows: Matrix) -> Iterator[Peer]:
    """Every library that is there, with the model loaded; says what that took, or why one is left out."""
    file = directory / "model.txt"
    booster.save_model(file)
    for make in (ours, gtil, tl2cgen, onnxruntime, lleaves):
        start = time.perf_counter()
        try:
            peer = make(booster, file, rows)
        except ImportError as error:
            print(f"{make.__name__}: not installed ({error})")
        except TimeoutError as error:
            print(f"{make.__name__}: left out: {error}")
        else:
            print(f"{peer.name} {_version(make.__name__)}: ready in {time.perf_counter() - start:.1f} s")
            yield peer


def _version(library: str) -> str:
    if library == "ours":
        return "with its proof"
    return metadata.version("treelite" if library == "gtil" else library)


def equal(answers: Any, wanted: Matrix) -> str:
    found = np.ascontiguousarray(answers, np.float64).reshape(-1)
    if found.tobytes() == wanted.tobytes():
        return "bit-equal"
    return f"not equal, off by up to {np.abs(found - wanted).max():.1g}"


def main() -> None:
    """Measure and print two tables."""
    parser = argparse.ArgumentParser(prog="python tests/bench/forest_peers.py", description=__doc__)
    parser.add_argument("--trees", type=int, default=TREES, help="the first N iterations")
    parser.add_argument(
        "--model", type=Path, help="LightGBM text with one output, instead of the reference model"
    )
    parser.add_argument(
        "--keep", type=Path, help="an empty directory for what tl2cgen compiles, or a former run's"
    )
    arguments = parser.parse_args()
    whole = train() if arguments.model is None else lightgbm.Booster(model_file=arguments.model)
    booster = lightgbm.Booster(model_str=whole.model_to_string(num_iteration=arguments.trees))
    rows = normal_rows(BATCH, booster.num_feature())
    wanted = np.asarray(booster.predict(rows, num_threads=1), np.float64)
    count, _, leaves, features = sizes(booster)
    print(
        f"{count} trees × {leaves} leaves × {features} features; one thread; LightGBM {lightgbm.__version__}"
    )
    with tempfile.TemporaryDirectory() as directory:
        peers = list(load(booster, arguments.keep or Path(directory), rows))
        notes = {peer.name: equal(peer.all(), wanted) for peer in peers}
        singles = {"LightGBM, SingleRowFast": single_row_fast(booster, rows)}
        singles |= {peer.name: peer.one for peer in peers}
        batches: dict[str, Callable[[], object]] = {
            "LightGBM, Booster.predict": lambda: booster.predict(rows, num_threads=1)
        }
        batches |= {peer.name: peer.all for peer in peers}
        table("one row", {name: lambda call=call: singles_us(call) for name, call in singles.items()}, notes)
        table(
            f"{BATCH:,} rows",
            {name: lambda call=call: seconds(call) / BATCH * 1e6 for name, call in batches.items()},
            notes,
        )


if __name__ == "__main__":
    main()
