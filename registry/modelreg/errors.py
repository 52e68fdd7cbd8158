"""Every error that modelreg raises on purpose.

::

    RegistryError                      1  error
    ├── UsageError (ValueError)        2  usage
    │   └── ConfigError                2  config
    ├── NotFoundError (LookupError)    3  not_found
    ├── ConflictError (ValueError)     4  conflict
    │   └── StaleError                 4  stale
    ├── PromotionGateError             5  gate
    ├── IntegrityError                 6  integrity
    │   └── LoadError                  6  load
    └── StoreUnavailableError (OSError) 7 store_unavailable

The number is the exit status of ``modelreg``; the word is the stable ``code`` for machines. Each message says
what happened, where, and what to do about it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from modelreg.gates import GateResult


class RegistryError(Exception):
    """Something that the registry refuses or can't do."""

    code: ClassVar[str] = "error"
    exit_status: ClassVar[int] = 1

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    def __str__(self) -> str:
        return self.message


class UsageError(RegistryError, ValueError):
    """An argument that can't be right: a bad name, a malformed JSON, a missing reason."""

    code = "usage"
    exit_status = 2


class ConfigError(UsageError):
    """A configuration file with an unknown key or a value of the wrong type; names file, line and key."""

    code = "config"


class NotFoundError(RegistryError, LookupError):
    """No such registry, model, version, channel or input file."""

    code = "not_found"
    exit_status = 3


class ConflictError(RegistryError, ValueError):
    """The present state forbids it: the version exists, it failed, the channel moved meanwhile."""

    code = "conflict"
    exit_status = 4


class StaleError(ConflictError):
    """The model's log has moved on since it was read: read again, then decide again."""

    code = "stale"


class PromotionGateError(RegistryError):
    """A version hasn't shown what the channel's gates ask for; ``gates`` has each with value and threshold."""

    code = "gate"
    exit_status = 5

    def __init__(self, message: str, gates: Sequence[GateResult] = ()) -> None:
        super().__init__(message)
        self.gates = tuple(gates)


class IntegrityError(RegistryError):
    """Bytes differ from what was sealed or logged; names the file."""

    code = "integrity"
    exit_status = 6


class LoadError(IntegrityError):
    """A model that can't be loaded, or whose answers aren't the sealed ones."""

    code = "load"


class StoreUnavailableError(RegistryError, OSError):
    """The files can't be reached: no permission, no space, an unmounted or vanished root."""

    code = "store_unavailable"
    exit_status = 7
