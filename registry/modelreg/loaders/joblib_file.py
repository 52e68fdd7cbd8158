"""joblib files: scikit-learn estimators, LightGBM's scikit-learn wrappers, Boosters.

Unpickling is running code. That is why registering one has to be allowed, and why this module is only for processes
that may die.
"""

from __future__ import annotations

import io
import logging
import warnings
from typing import Any

import joblib
import numpy as np
from numpy.typing import NDArray

from modelreg.errors import LoadError
from modelreg.loaders.base import estimators
from modelreg.sealed import Sealed

#: In the process that may die its last line tells which file it died of; elsewhere nobody asks for it.
log = logging.getLogger("modelreg.loaders")


class JoblibModel:
    """One unpickled estimator for each output. Not thread-safe.

    A classifier answers with its probabilities. LightGBM's wrappers answer through their Booster, on one thread.
    """

    def __init__(self, found: dict[str, Any], n_features: int) -> None:
        self._estimators = found
        self.outputs = tuple(found)
        self.n_features = n_features
        boosters = {output: _booster(estimator) for output, estimator in found.items()}
        #: Output → lightgbm.Booster, where that is all there is to it.
        self.boosters: dict[str, Any] = {o: b for o, b in boosters.items() if b is not None}

    def predict(self, rows: NDArray[np.float64]) -> list[NDArray[np.float64]]:
        """See ``LoadedModel.predict``.

        Raises:
            LoadError: an estimator raised, or answered with something else than numbers for each row.
        """
        return [
            _numbers(output, self._answer(output, estimator, rows), len(rows))
            for output, estimator in self._estimators.items()
        ]

    def _answer(self, output: str, estimator: Any, rows: NDArray[np.float64]) -> Any:
        booster = self.boosters.get(output)
        try:
            if booster is not None:
                return booster.predict(rows, num_threads=1)
            with warnings.catch_warnings():
                # Trained on a data frame: our columns are in its order, but have no names.
                warnings.simplefilter("ignore", UserWarning)
                answer = getattr(estimator, "predict_proba", None) or estimator.predict
                return answer(rows)
        except Exception as error:
            raise LoadError(f"output {output!r}: the estimator raised {error!r}") from error


def unpickle(data: bytes, file: str) -> Any:
    """Unpickle a joblib file's bytes: runs whatever code is in it.

    Raises:
        LoadError: it raised.
    """
    log.debug("loading %s", file)
    try:
        return joblib.load(io.BytesIO(data))
    except Exception as error:
        raise LoadError(f"{file}: can't be unpickled: {error!r}") from error


def load(sealed: Sealed) -> JoblibModel:
    """Unpickle the estimators of a version.

    Raises:
        LoadError: one can't be unpickled, can't predict, or takes another number of features than sealed.
    """
    expected = len(sealed.metadata.features)
    found = {}
    for output, file in estimators(sealed).items():
        estimator = unpickle(sealed.files[file], file)
        if not callable(getattr(estimator, "predict", None)):
            raise LoadError(f"{file}: has no predict, it is a {type(estimator).__name__}")
        booster = _booster(estimator)
        takes = getattr(estimator, "n_features_in_", None) if booster is None else booster.num_feature()
        if takes is not None and takes != expected:
            raise LoadError(f"{file}: takes {takes} features, metadata.json lists {expected}")
        found[output] = estimator
    return JoblibModel(found, expected)


def _booster(estimator: Any) -> Any:
    """The lightgbm.Booster of a Booster or a wrapper; None for all else, subclasses included."""
    import lightgbm

    wrappers = (lightgbm.LGBMRegressor, lightgbm.LGBMClassifier, lightgbm.LGBMRanker)
    if type(estimator) is lightgbm.Booster:
        return estimator
    return estimator.booster_ if type(estimator) in wrappers else None


def _numbers(output: str, answer: Any, rows: int) -> NDArray[np.float64]:
    try:
        found = np.asarray(answer, dtype=np.float64)
    except (ValueError, TypeError) as error:
        raise LoadError(f"output {output!r}: the answers aren't numbers: {error}") from error
    if found.ndim == 2 and found.shape[1] == 1:
        found = found[:, 0]
    if found.ndim not in (1, 2) or len(found) != rows:
        raise LoadError(f"output {output!r}: answers of shape {list(found.shape)} for {rows} rows")
    return found
