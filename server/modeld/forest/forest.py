"""The forest as a library: a LightGBM model in, the same predictions out, to the bit, faster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import numpy as np
from numpy.typing import ArrayLike, NDArray

from modeld.forest import proof
from modeld.forest.compile import Layout, compile_text
from modeld.forest.errors import PlanUnsupported
from modeld.forest.scaling import Scaling
from modeld.forest.scorer import Scorer


class Booster(Protocol):
    """What is used of a lightgbm.Booster."""

    best_iteration: int

    def model_to_string(self, num_iteration: int | None = None) -> str: ...

    def predict(self, data: Any, **options: Any) -> Any: ...


class Forest:
    """A LightGBM model compiled to a plan. Immutable; any number of threads may predict at once.

    Without a C compiler at the install there is no kernel, and the constructors raise KernelMissing.
    """

    def __init__(self, plan: bytes | bytearray | memoryview, *, version: int | None = None) -> None:
        """Check and use `plan`, as `Forest.plan` gave it. `version` caps what the kernel uses of the processor.

        Raises:
            PlanRefused: it is no plan that may be evaluated.
            KernelMissing: there is no kernel here.
        """
        # Our own copy, so that it stays what the check has seen; aligned, as numpy's arrays are.
        memory = np.frombuffer(bytes(plan), np.uint8).copy()
        memory.flags.writeable = False
        self._plan = memory
        self.scorer = Scorer(memory.data, version=version)

    @classmethod
    def from_text(
        cls,
        text: str,
        *,
        start_iteration: int = 0,
        num_iteration: int | None = None,
        layout: Layout = "auto",
        scaling: Scaling | None = None,
    ) -> Forest:
        """From LightGBM's text format, or some of its iterations (`num_iteration` None or ≤ 0: all from the start).

        `scaling` is what rows go through first: `Scaling.from_sklearn` of a StandardScaler, say.
        The text is believed: prove the result against LightGBM, as `from_booster` does, before relying on it.

        Raises:
            PlanUnsupported: the model has something that plans don't cover (linear trees, say).
            KernelMissing: there is no kernel here.
        """
        plan = compile_text(
            text,
            start_iteration=start_iteration,
            num_iteration=num_iteration,
            layout=layout,
            scaling=scaling,
        )
        return cls(plan)

    @classmethod
    def from_booster(
        cls,
        booster: Booster,
        *,
        start_iteration: int = 0,
        num_iteration: int | None = None,
        layout: Layout = "auto",
        scaling: Scaling | None = None,
        prove: bool = True,
    ) -> Forest:
        """From a Booster; the iterations are chosen as by `Booster.predict`, the best one's by default.

        Unless `prove` is false, the Booster predicts some thousand rows, thresholds and their neighbours among them,
        and one bit of difference refuses the model: what this gives is equal, not believed to be.

        Raises:
            PlanUnsupported: the model has something that plans don't cover, or a prediction differed.
            KernelMissing: there is no kernel here.
            TypeError: it isn't a Booster; LGBMClassifier, LGBMRegressor and LGBMRanker have one, `booster_`.
        """
        if not (hasattr(booster, "best_iteration") and hasattr(booster, "model_to_string")):
            raise TypeError(
                f"{type(booster).__name__} isn't a lightgbm.Booster; of a fitted LGBMClassifier, LGBMRegressor or "
                "LGBMRanker give its booster_, of a file's text use Forest.from_text"
            )
        if num_iteration is None:
            num_iteration = booster.best_iteration if start_iteration <= 0 else -1
        forest = cls.from_text(
            booster.model_to_string(num_iteration=-1),
            start_iteration=start_iteration,
            num_iteration=num_iteration,
            layout=layout,
            scaling=scaling,
        )
        if prove:

            def predict(rows: NDArray[np.float64]) -> NDArray[np.float64]:
                seen = rows if scaling is None else scaling.apply(rows)
                found = booster.predict(
                    seen, num_threads=1, start_iteration=start_iteration, num_iteration=num_iteration
                )
                return np.asarray(found, np.float64)

            forest.prove(predict)
        return forest

    def prove(self, predict: Callable[[NDArray[np.float64]], NDArray[np.float64]]) -> None:
        """Compare with `predict` on rows made for this plan. Raises PlanUnsupported at the first bit of difference."""
        if (difference := proof.first_difference(self.scorer, predict)) is not None:
            raise PlanUnsupported(difference)

    @property
    def plan(self) -> bytes:
        """The plan's bytes."""
        return self._plan.tobytes()

    @property
    def n_features(self) -> int:
        return self.scorer.n_features

    @property
    def n_outputs(self) -> int:
        """Values a row: 1, or the number of classes."""
        return self.scorer.n_outputs

    def predict(self, X: ArrayLike) -> NDArray[np.float64]:
        """Predictions [n] (or [n, classes]) for rows [n, features]; numbers of any type are taken as float64.

        They are LightGBM's bits for float32 and float64. Whole numbers beyond 2**24 aren't: LightGBM makes float32 of
        any other type first, where this keeps their value.

        Raises:
            ValueError: another shape.
        """
        rows = np.require(np.asarray(X, np.float64), requirements=("C", "ALIGNED"))
        if rows.ndim != 2 or rows.shape[1] != self.n_features:
            raise ValueError(f"rows of shape {rows.shape}; the model takes [n, {self.n_features}]")
        out = np.empty((len(rows), self.n_outputs))
        self.scorer.score(rows.ctypes.data, len(rows), out.ctypes.data)
        return out[:, 0] if self.n_outputs == 1 else out
