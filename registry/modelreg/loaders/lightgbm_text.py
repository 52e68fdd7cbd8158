"""LightGBM's text format: the preferred one, there is no code in it.

Still, a damaged file can kill the process.
"""

from __future__ import annotations

import logging

import lightgbm
import numpy as np
from numpy.typing import NDArray

from modelreg.errors import LoadError
from modelreg.lgbtext import check_complete
from modelreg.lgbtrees import check_trees
from modelreg.loaders.base import estimators
from modelreg.sealed import Sealed

#: In the process that may die its last line tells which file it died of; elsewhere nobody asks for it.
log = logging.getLogger("modelreg.loaders")


class LightGBMModel:
    """One Booster for each output, always on one thread. Not thread-safe."""

    def __init__(self, boosters: dict[str, lightgbm.Booster], n_features: int) -> None:
        self.boosters = boosters
        self.outputs = tuple(boosters)
        self.n_features = n_features

    def predict(self, rows: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        """See ``LoadedModel.predict``; bit-equal to ``Booster.predict(rows, num_threads=1)``."""
        return [
            np.asarray(booster.predict(rows, num_threads=1), dtype=np.float64)
            for booster in self.boosters.values()
        ]


def load(sealed: Sealed) -> LightGBMModel:
    """Build the Boosters of a version.

    Raises:
        LoadError: a file is truncated, isn't trees, or is refused by LightGBM, or the number of features isn't the
            sealed one.
    """
    boosters: dict[str, lightgbm.Booster] = {}
    expected = len(sealed.metadata.features)
    for output, file in estimators(sealed).items():
        # The parent names this file if the next line is our last.
        log.debug("loading %s", file)
        header = check_complete(sealed.files[file], where=file)
        check_trees(sealed.files[file], header, where=file)
        try:
            booster = lightgbm.Booster(model_str=sealed.files[file].decode())
        except (lightgbm.basic.LightGBMError, ValueError, KeyError, TypeError) as error:
            raise LoadError(f"{file}: LightGBM refuses it: {error}") from error
        if booster.num_feature() != expected:
            raise LoadError(f"{file}: has {booster.num_feature()} features, metadata.json lists {expected}")
        boosters[output] = booster
    return LightGBMModel(boosters, expected)
