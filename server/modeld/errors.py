"""The daemon's errors, one tree:

    ModeldError
    ├── NothingToServe    no version could be proved at start   exit status 3
    ├── EndpointInUse     another live process owns a socket    exit status 4
    ├── StateDirInUse     another live daemon owns it           exit status 4
    └── RequestError      one client message is refused; carries a wire code

A wrong configuration is a modelreg ConfigError (exit status 2), a registry's trouble a RegistryError.
A message says what, where, and what to do. `exit_status` is what `modeld` exits with.
"""

from __future__ import annotations

from typing import Any


class ModeldError(Exception):
    """Anything that modeld itself reports."""

    exit_status = 1


class NothingToServe(ModeldError):
    """No model could be served at start and `source.require_model` is set."""

    exit_status = 3


class EndpointInUse(ModeldError):
    """An endpoint belongs to another live process."""

    exit_status = 4


class StateDirInUse(ModeldError):
    """The state directory belongs to another live daemon."""

    exit_status = 4


class RequestError(ModeldError):
    """A client's message that gets an error reply with a stable code of the protocol.

    `parameters` goes into the reply as it is; `request_id` is set where the id was read before the rest failed.
    """

    request_id: str | int | None = None

    def __init__(self, code: str, message: str, **parameters: Any) -> None:
        super().__init__(message)
        self.code = code
        self.parameters = parameters


def retryable(code: str, message: str, **parameters: Any) -> RequestError:
    """An error that another try, later or elsewhere, may not meet."""
    return RequestError(code, message, retryable=True, **parameters)


def shutting_down() -> RequestError:
    """The refusal of what isn't admitted, or can't be finished, as the daemon ends."""
    return retryable("DRAINING", "this daemon is shutting down; ask another")
