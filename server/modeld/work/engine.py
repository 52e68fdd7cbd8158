"""How a worker predicts: the loaded model, and LightGBM's single-row path where it is bit-equal.

`LGBM_BoosterPredictForMatSingleRowFast` (LightGBM's C API) keeps its set-up between calls and takes about half of the
time of `Booster.predict`. It is used only after it gave the same bits as `Booster.predict` on every golden row.
Sums over trees are in tree order in float64 either way, which is why batched rows are bit-equal to single ones.
"""

from __future__ import annotations

import ctypes
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modeld.work import ipc
from modelreg.loaders import LoadedModel

Matrix = NDArray[np.float64]

_FLOAT64, _ROW_MAJOR, _PREDICT_NORMAL = 1, 1, 0
_ONE_THREAD = b"num_threads=1"


class Engine:
    """One loaded version, ready to predict. Not thread-safe; lives in one worker.

    `widths` has the number of float64 values that a row takes in each output.
    """

    def __init__(self, model: LoadedModel, widths: list[int]) -> None:
        self.model = model
        self.widths = widths
        self.row_width = sum(widths)
        self.fast = False

    def rows(self, matrix: Matrix) -> list[Matrix]:
        """Outputs for float64[n, f]: float64[n] or [n, k] each, by the loaded model itself."""
        return [np.ascontiguousarray(out, np.float64) for out in self.model.predict(matrix)]

    def rows_into(self, matrix: Matrix, outputs: list[Matrix]) -> None:
        """The same, written into float64[n, width] arrays."""
        for out, values in zip(outputs, self.rows(matrix), strict=True):
            out[:] = values.reshape(out.shape)

    def one_row(self, packet: bytearray, offset: int) -> OneRow | None:
        """A predictor of the single row at `offset` of `packet`; None where the fast path isn't proven."""
        return OneRow(self.model, self.widths, packet, offset) if self.fast else None

    def prove_fast_path(self, matrix: Matrix, expected: list[Matrix]) -> bool:
        """Use the single-row path from now on if it equals `expected` bit for bit on every row of `matrix`."""
        if set(self.model.boosters) != set(self.model.outputs):
            return False
        packet = bytearray(matrix.shape[1] * 8)
        row = OneRow(self.model, self.widths, packet, 0)
        wanted = np.concatenate([out.reshape(len(matrix), -1) for out in expected], axis=1)
        self.fast = True
        for at in range(len(matrix)):
            packet[:] = matrix[at].tobytes()
            row.predict()
            if bytes(row.reply[ipc.HEAD.size :]) != wanted[at].tobytes():
                self.fast = False
                break
        return self.fast


class OneRow:
    """LightGBM's single-row path from a fixed input buffer into a fixed reply packet."""

    def __init__(self, model: LoadedModel, widths: list[int], packet: bytearray, offset: int) -> None:
        import lightgbm

        library = lightgbm.basic._LIB  # type: ignore[attr-defined]
        self._call = library.LGBM_BoosterPredictForMatSingleRowFast
        self.reply = bytearray(ipc.HEAD.size + 8 * sum(widths))
        self._keep: list[Any] = [model, packet]
        self._arguments: list[tuple[Any, ...]] = []
        source = ctypes.addressof(ctypes.c_char.from_buffer(packet)) + offset
        target = ctypes.addressof(ctypes.c_char.from_buffer(self.reply)) + ipc.HEAD.size
        for output, width in zip(model.outputs, widths, strict=True):
            handle = ctypes.c_void_p()
            status = library.LGBM_BoosterPredictForMatSingleRowFastInit(
                model.boosters[output]._handle, _PREDICT_NORMAL, 0, -1, _FLOAT64,
                ctypes.c_int32(model.n_features), _ONE_THREAD, ctypes.byref(handle),
            )  # fmt: skip
            if status:
                raise RuntimeError(f"LightGBM: {library.LGBM_GetLastError()!r}")
            length = ctypes.c_int64()
            self._keep.append(length)
            self._arguments.append(
                (handle, ctypes.c_void_p(source), ctypes.byref(length), ctypes.c_void_p(target))
            )
            target += 8 * width

    def predict(self) -> None:
        """Predict the row in the packet into the reply."""
        for arguments in self._arguments:
            if self._call(*arguments):
                raise RuntimeError("LightGBM refused a row that it took before")
