"""A worker's plans: compiled from the version it has loaded, and proved against it bit for bit."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from modeld.forest import kernel, proof
from modeld.forest.compile import compile_text
from modeld.forest.errors import PlanError
from modeld.forest.scorer import Scorer
from modelreg import loaders
from modelreg.loaders import LoadedModel
from modelreg.sealed import Sealed

Matrix = NDArray[np.float64]

#: What an odd model may make of compiler and proof: then LightGBM itself predicts.
_ODDITIES = (PlanError, ValueError, TypeError, LookupError, ArithmeticError, MemoryError)


def make(sealed: Sealed, model: LoadedModel, rows: Matrix) -> tuple[list[bytearray], str]:
    """A proved plan for each output; or none, and why not. `rows` are predicted beside those of the proof."""
    if (why := kernel.why_missing()) is not None:
        return [], why
    if set(model.boosters) != set(model.outputs):
        return [], f"no plans for the format {sealed.metadata.format}"
    plans = []
    for output, file in loaders.estimators(sealed).items():
        booster = model.boosters[output]

        def predict(matrix: Matrix, booster: object = booster) -> Matrix:
            return np.asarray(booster.predict(matrix, num_threads=1), np.float64)  # type: ignore[attr-defined]

        try:
            plan = compile_text(sealed.files[file].decode())
            difference = proof.first_difference(Scorer(memoryview(plan).toreadonly()), predict, rows)
        except _ODDITIES as error:
            return [], f"{output}: {error or type(error).__name__}"
        if difference is not None:
            return [], f"{output}: {difference}"
        plans.append(plan)
    return plans, ""
