"""A scaler in front of the estimators."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modelreg.errors import LoadError
from modelreg.loaders.base import LoadedModel
from modelreg.loaders.joblib_file import unpickle
from modelreg.sealed import Sealed

SCALER_FILE = "scaler.joblib"


class ScaledModel:
    """Transforms rows, then lets the model answer. Not thread-safe.

    ``boosters`` is empty: whoever asked a Booster by itself would leave the scaler out.
    """

    def __init__(self, scaler: Any, model: LoadedModel) -> None:
        #: What transforms rows, and what answers then.
        self.scaler = scaler
        self.model = model
        self.outputs = model.outputs
        self.n_features = model.n_features
        self.boosters: dict[str, Any] = {}

    def predict(self, rows: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        """See ``LoadedModel.predict``.

        Raises:
            LoadError: the scaler raised, or changed the shape.
        """
        try:
            # A copy: scalers fitted with copy=False write into what they are given.
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)
                scaled = np.ascontiguousarray(self.scaler.transform(rows.copy()), dtype=np.float64)
        except Exception as error:
            raise LoadError(f"{SCALER_FILE}: transform raised {error!r}") from error
        if scaled.shape != rows.shape:
            raise LoadError(f"{SCALER_FILE}: makes {list(scaled.shape)} out of {list(rows.shape)}")
        return self.model.predict(scaled)


def load(sealed: Sealed, model: LoadedModel) -> ScaledModel:
    """Put the version's scaler in front of ``model``.

    Raises:
        LoadError: it can't be unpickled or doesn't fit the features.
    """
    scaler = unpickle(sealed.files[SCALER_FILE], SCALER_FILE)
    if not callable(getattr(scaler, "transform", None)):
        raise LoadError(f"{SCALER_FILE}: has no transform, it is a {type(scaler).__name__}")
    takes = getattr(scaler, "n_features_in_", model.n_features)
    if takes != model.n_features:
        raise LoadError(f"{SCALER_FILE}: takes {takes} features, the model {model.n_features}")
    return ScaledModel(scaler, model)
