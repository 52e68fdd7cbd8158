"""A model registry on plain files: sealed versions and an append-only commit log.

::

    from modelreg import Registry

    registry = Registry.init("models")
    version = registry.register("momentum", Path("model.txt"), version="1.0.0", metrics={"ic": 0.04})
    registry.promote(version.ref, reason="first one")
"""

from modelreg.comparison import FieldDifference, MetricComparison
from modelreg.compatibility import Compatibility, VersionCompatibilityChecker
from modelreg.errors import (
    ConfigError,
    ConflictError,
    IntegrityError,
    LoadError,
    NotFoundError,
    PromotionGateError,
    RegistryError,
    StaleError,
    StoreUnavailableError,
    UsageError,
)
from modelreg.expressioncache import DiskExpressionCache
from modelreg.gates import GateResult
from modelreg.history import ChannelChange, HistoryEntry, Holding
from modelreg.lineage import Lineage, Relative
from modelreg.metadata import compute_config_hash
from modelreg.production import Current, ProductionModelLoader
from modelreg.registry import Registry
from modelreg.results import UNSET, Commit, Version
from modelreg.state import ChannelState, ModelState, VersionState
from modelreg.training import TrainingResult
from modelreg.validation import Check, ValidationReport

__all__ = [
    "UNSET",
    "ChannelChange",
    "ChannelState",
    "Check",
    "Commit",
    "Compatibility",
    "ConfigError",
    "ConflictError",
    "Current",
    "DiskExpressionCache",
    "FieldDifference",
    "GateResult",
    "HistoryEntry",
    "Holding",
    "IntegrityError",
    "Lineage",
    "LoadError",
    "MetricComparison",
    "ModelState",
    "NotFoundError",
    "ProductionModelLoader",
    "PromotionGateError",
    "Registry",
    "RegistryError",
    "Relative",
    "StaleError",
    "StoreUnavailableError",
    "TrainingResult",
    "UsageError",
    "ValidationReport",
    "Version",
    "VersionCompatibilityChecker",
    "VersionState",
    "compute_config_hash",
]
