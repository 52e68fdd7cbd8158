"""How a worker predicts: plans where there are proved ones, else the loaded model, row by row where that is bit-equal.

`LGBM_BoosterPredictForMatSingleRowFast` (LightGBM's C API) keeps its set-up between calls and takes about half of the
time of `Booster.predict`. It is used only after it gave the same bits as `Booster.predict` on every golden row.
Sums over trees are in tree order in float64 either way, which is why batched rows are bit-equal to single ones.
"""

from __future__ import annotations

import ctypes
import mmap
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modeld.forest.scorer import Scorer
from modelreg.loaders import LoadedModel

Matrix = NDArray[np.float64]

_FLOAT64, _PREDICT_NORMAL = 1, 0
_ONE_THREAD = b"num_threads=1"


class Engine:
    """One loaded version, ready to predict. Not thread-safe; lives in one worker.

    `widths` has the number of float64 values that a row takes in each output. Outputs lie one after the other, each
    row-major.
    """

    def __init__(self, model: LoadedModel, widths: list[int]) -> None:
        self.model = model
        self.widths = widths
        self.row_width = sum(widths)
        self._fast: _RowByRow | None = None
        self._scorers: list[Scorer] = []

    def use(self, scorers: list[Scorer]) -> None:
        """Predict with proved plans from now on, one for each output."""
        self._scorers = scorers

    @property
    def slice_rows(self) -> int:
        """Rows that take about as long as one request may have to wait for them."""
        return 128 if self._scorers else 8

    @property
    def row_independent(self) -> bool:
        """Plans and LightGBM's trees are; a matrix product's last bit may depend on how many rows it has."""
        return bool(self._scorers) or set(self.model.boosters) == set(self.model.outputs)

    @property
    def fast(self) -> bool:
        return self._fast is not None

    def predict(self, source: Buffer, target: Buffer, rows: int, first: int, to: int) -> None:
        """Predict rows `first`..`to` of `rows` float64 rows in `source` into their places in `target`."""
        if self._scorers:
            row_bytes = self.model.n_features * 8
            to_address = target.address
            for width, scorer in zip(self.widths, self._scorers, strict=True):
                scorer.score(source.address + first * row_bytes, to - first, to_address + first * width * 8)
                to_address += rows * width * 8
            return
        if self._fast is not None:
            self._fast.predict(source.address, target.address, rows, first, to)
            return
        columns = self.model.n_features
        matrix = source.values[: rows * columns].reshape(rows, columns)
        at = 0
        for width, out in zip(self.widths, self.model.predict(matrix[first:to]), strict=True):
            target.values[at + first * width : at + to * width] = np.asarray(out, np.float64).reshape(-1)
            at += rows * width

    def prove_fast_path(self, matrix: Matrix, expected: list[Matrix]) -> bool:
        """Use the single-row path from now on if it equals `expected` bit for bit on every row of `matrix`."""
        if not self.row_independent:
            return False
        rows = len(matrix)
        source = Buffer(bytearray(np.ascontiguousarray(matrix).tobytes()))
        target = Buffer(bytearray(rows * self.row_width * 8))
        fast = _RowByRow(self.model, self.widths)
        fast.predict(source.address, target.address, rows, 0, rows)
        wanted = np.concatenate([out.reshape(-1) for out in expected])
        if target.values.tobytes() == wanted.tobytes():
            self._fast = fast
        return self.fast


class Buffer:
    """Memory with a fixed address, seen as float64 values. Keeps what it is made of alive."""

    def __init__(self, memory: bytearray | mmap.mmap, offset: int = 0) -> None:
        self._memory = memory
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(memory)) + offset
        self.values = np.frombuffer(memory, np.float64, (len(memory) - offset) // 8, offset)


class _RowByRow:
    """LightGBM's single-row path, from address to address: what it needs between calls is set up once."""

    def __init__(self, model: LoadedModel, widths: list[int]) -> None:
        import lightgbm

        library = lightgbm.basic._LIB  # type: ignore[attr-defined]
        # The library is this process's alone, and nothing else here calls this function.
        self._call = library.LGBM_BoosterPredictForMatSingleRowFast
        self._call.argtypes = [ctypes.c_void_p] * 4
        self._keep: list[Any] = [model]
        self._length = ctypes.c_int64()
        self._row_bytes = model.n_features * 8
        self._outputs: list[tuple[int | None, int]] = []
        for output, width in zip(model.outputs, widths, strict=True):
            handle = ctypes.c_void_p()
            status = library.LGBM_BoosterPredictForMatSingleRowFastInit(
                model.boosters[output]._handle, _PREDICT_NORMAL, 0, -1, _FLOAT64,
                ctypes.c_int32(model.n_features), _ONE_THREAD, ctypes.byref(handle),
            )  # fmt: skip
            if status:
                raise RuntimeError(f"LightGBM: {library.LGBM_GetLastError()!r}")
            self._outputs.append((handle.value, width * 8))

    def predict(self, source: int, target: int, rows: int, first: int, to: int) -> None:
        """Rows `first`..`to` of `rows`."""
        call, length, row_bytes = self._call, ctypes.addressof(self._length), self._row_bytes
        for handle, width_bytes in self._outputs:
            for row in range(first, to):
                if call(handle, source + row * row_bytes, length, target + row * width_bytes):
                    raise RuntimeError("LightGBM refused a row that it took before")
            target += rows * width_bytes
