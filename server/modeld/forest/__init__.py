"""Exact LightGBM scoring by a small kernel of our own: models as plain data, checked before they are evaluated.

>>> from modeld.forest import Forest
>>> forest = Forest.from_booster(booster)
>>> forest.predict(X)            # bit-equal to booster.predict(X, num_threads=1)
"""

from modeld.forest.errors import KernelMissing, PlanError, PlanRefused, PlanUnsupported
from modeld.forest.forest import Forest

__all__ = ["Forest", "KernelMissing", "PlanError", "PlanRefused", "PlanUnsupported"]
