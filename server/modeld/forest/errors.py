"""What can be wrong with a plan.

PlanError
├── PlanUnsupported    a model that plans don't cover: LightGBM itself has to serve it
├── PlanRefused        bytes that are no plan that may be evaluated
└── KernelMissing      the kernel was not built: there was no C compiler at the install
"""

from __future__ import annotations


class PlanError(Exception):
    """A plan can't be made or used; the message says why."""


class PlanUnsupported(PlanError):
    """The model has something that plans don't cover."""


class PlanRefused(PlanError):
    """The bytes are no plan that the kernel could evaluate safely."""


class KernelMissing(PlanError):
    """There is no compiled kernel here."""
