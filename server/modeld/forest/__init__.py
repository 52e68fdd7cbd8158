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

__all__ = ["Forest", "KernelMissing", "PlanError", "PlanRefused", "PlanUnsupported"]


def __getattr__(name: str) -> Any:
    """Forest when it is asked for: the daemon's front uses this package's checks and never loads a compiler."""
    if name == "Forest":
        from modeld.forest.forest import Forest

        return Forest
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
