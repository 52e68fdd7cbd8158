"""A prover's plans: compiled from the version it has loaded, and proved against it bit for bit."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from modeld.forest import kernel, proof
from modeld.forest.compile import compile_text
from modeld.forest.errors import PlanError
from modeld.forest.scaling import Scaling
from modeld.forest.scorer import Scorer
from modelreg import loaders
from modelreg.loaders import LoadedModel
from modelreg.loaders.scaled import ScaledModel
from modelreg.sealed import Sealed

Matrix = NDArray[np.float64]

#: What an odd model may make of compiler and proof: then LightGBM itself predicts.
_ODDITIES = (PlanError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, MemoryError)


def why_none(sealed: Sealed, model: LoadedModel) -> str:
    """Why there can be no plans of this version; empty where there may be some."""
    if (why := kernel.why_missing()) is not None:
        return why
    inner = model.model if isinstance(model, ScaledModel) else model
    if set(inner.boosters) != set(inner.outputs):
        return f"no plans for the format {sealed.metadata.format}"
    return ""


def make(
    sealed: Sealed, model: LoadedModel, rows: Matrix, outputs: list[Matrix]
) -> tuple[list[bytearray], str]:
    """A proved plan for each output; or none, and why not. `outputs` is what the model makes of `rows`."""
    if why := why_none(sealed, model):
        return [], why
    scaler, scaling = None, None
    if isinstance(model, ScaledModel):
        scaler, model = model.scaler, model.model
        try:
            scaling = Scaling.from_sklearn(scaler)
        except _ODDITIES as error:
            return [], f"{error or type(error).__name__}"
    plans = []
    as_text = sealed.metadata.format == "lightgbm-text"
    for (output, file), expected in zip(loaders.estimators(sealed).items(), outputs, strict=True):
        booster = model.boosters[output]

        def predict(matrix: Matrix, booster: object = booster) -> Matrix:
            with np.errstate(all="ignore"):  # the proof's rows have huge values among them
                seen = matrix if scaler is None else scaler.transform(matrix.copy())
            return np.asarray(booster.predict(seen, num_threads=1), np.float64)  # type: ignore[attr-defined]

        try:
            text = sealed.files[file].decode() if as_text else booster.model_to_string()
            plan = compile_text(text, scaling=scaling)
            scorer = Scorer(memoryview(plan).toreadonly())
            difference = proof.first_difference(scorer, predict)
            if scorer.score_bytes(rows.tobytes(), len(rows)) != expected.tobytes():
                difference = "the plan differs from the version on its golden rows"
        except _ODDITIES as error:
            return [], f"{output}: {error or type(error).__name__}"
        if difference is not None:
            return [], f"{output}: {difference}"
        plans.append(plan)
    return plans, ""
