"""A model registry on plain files: sealed versions and an append-only commit log.

::

    from modelreg import Registry

    registry = Registry.init("models")
    version = registry.register("momentum", Path("model.txt"), version="1.0.0", metrics={"ic": 0.04})
    registry.promote(version.ref, reason="first one")
"""

from modelreg.errors import (
    ConfigError,
    ConflictError,
    IntegrityError,
    LoadError,
    NotFoundError,
    RegistryError,
    StoreUnavailableError,
    UsageError,
)
from modelreg.history import ChannelChange, HistoryEntry
from modelreg.registry import UNSET, Commit, Registry, Version
from modelreg.state import ChannelState, ModelState, VersionState
from modelreg.validation import Check, ValidationReport

__all__ = [
    "UNSET",
    "ChannelChange",
    "ChannelState",
    "Check",
    "Commit",
    "ConfigError",
    "ConflictError",
    "HistoryEntry",
    "IntegrityError",
    "LoadError",
    "ModelState",
    "NotFoundError",
    "Registry",
    "RegistryError",
    "StoreUnavailableError",
    "UsageError",
    "ValidationReport",
    "Version",
    "VersionState",
]
