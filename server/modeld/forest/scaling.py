"""What rows go through before a forest sees them: a mean and a scale for each feature."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from modeld.forest.errors import PlanUnsupported


@dataclass(frozen=True, slots=True, eq=False)
class Scaling:
    """(value - mean) / scale in float64 for each feature; NaN stays NaN. `means` and `scales`: float64 [features]."""

    means: NDArray[np.float64]
    scales: NDArray[np.float64]

    @classmethod
    def from_sklearn(cls, scaler: Any) -> Scaling:
        """From a fitted scikit-learn StandardScaler, of that very class: a subclass may do anything.

        What it leaves out (with_mean, with_std) becomes a mean of 0 or a scale of 1, which change no bit of a value.

        Raises:
            PlanUnsupported: it is something else, or was fitted to what plans don't hold.
        """
        # Nothing is imported: whoever has a StandardScaler has its module too.
        if type(scaler) is not getattr(sys.modules.get("sklearn.preprocessing"), "StandardScaler", None):
            raise PlanUnsupported(f"a scaler that isn't a StandardScaler: {type(scaler).__qualname__}")
        if not hasattr(scaler, "n_features_in_"):
            raise PlanUnsupported("a StandardScaler that isn't fitted")
        n_features = int(scaler.n_features_in_)
        found = cls(
            np.array(scaler.mean_, np.float64) if scaler.with_mean else np.zeros(n_features),
            np.array(scaler.scale_, np.float64) if scaler.with_std else np.ones(n_features),
        )
        found.check(n_features)
        return found

    def check(self, n_features: int) -> None:
        """Raise PlanUnsupported where this isn't a finite mean and a finite scale other than 0 for each feature."""
        for name, values in (("mean", self.means), ("scale", self.scales)):
            if values.shape != (n_features,):
                raise PlanUnsupported(f"{name}s of shape {values.shape} for {n_features} features")
            wrong = values[~np.isfinite(values) | ((values == 0) & (name == "scale"))]
            if len(wrong):
                raise PlanUnsupported(f"a {name} of {wrong[0]}")

    def apply(self, rows: ArrayLike) -> NDArray[np.float64]:
        """Rows [n, features] as the trees see them."""
        with np.errstate(over="ignore", invalid="ignore"):
            scaled: NDArray[np.float64] = (np.asarray(rows, np.float64) - self.means) / self.scales
        return scaled
