"""What a loader gives back, and which files are estimators."""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from modelreg.errors import LoadError
from modelreg.sealed import Sealed


class LoadedModel(Protocol):
    """A model in memory. Not thread-safe: one thread predicts at a time."""

    #: The outputs' names, in order.
    outputs: tuple[str, ...]
    #: How many values a row has.
    n_features: int

    def predict(self, rows: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        """Answers for ``rows`` (float64 [n, f]): a float64 array [n] or [n, k] per output, in order."""
        ...

    @property
    def boosters(self) -> dict[str, Any]:
        """Output → lightgbm.Booster for LightGBM text; empty for other formats."""
        ...


def estimators(sealed: Sealed) -> dict[str, str]:
    """Output → file, in the order of the outputs.

    Raises:
        LoadError: an output has no file.
    """
    metadata = sealed.metadata
    by_output = {info.output: name for name, info in metadata.files.items() if info.role == "estimator"}
    found = {}
    for output in metadata.outputs:
        file = by_output.get(output)
        if file is None or file not in sealed.files:
            raise LoadError(f"{metadata.name}:{metadata.version}: no file for the output {output!r}")
        found[output] = file
    if not found:
        raise LoadError(f"{metadata.name}:{metadata.version}: metadata.json names no outputs")
    return found
