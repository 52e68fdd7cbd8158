"""Exact LightGBM scoring by a small kernel of our own: models as plain data, checked before they are evaluated.

>>> from modeld.forest import Forest
>>> forest = Forest.from_booster(booster)
>>> forest.predict(X)            # bit-equal to booster.predict(X, num_threads=1)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from modeld.forest.errors import KernelMissing, PlanError, PlanRefused, PlanUnsupported

if TYPE_CHECKING:
    from modeld.forest.forest import Forest
    from modeld.forest.scaling import Scaling

__all__ = ["Forest", "KernelMissing", "PlanError", "PlanRefused", "PlanUnsupported", "Scaling"]


def __getattr__(name: str) -> Any:
    """Forest and Scaling when they are asked for: the front checks plans and never loads a compiler."""
    if name == "Forest":
        from modeld.forest.forest import Forest

        return Forest
    if name == "Scaling":
        from modeld.forest.scaling import Scaling

        return Scaling
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
