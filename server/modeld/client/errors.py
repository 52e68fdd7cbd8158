"""What a client of modeld can raise.

    ModeldError
    ├── RequestTimeout        no reply in time (also a TimeoutError)
    ├── ClientClosed          the client was closed
    ├── ProtocolError         a reply that breaks the protocol
    └── ServerError           an explicit error reply; one subclass for each code of the protocol
        ├── Malformed  UnknownOp  ModelNotFound  VersionNotAvailable
        ├── ShapeMismatch  DatatypeUnsupported  MissingFeature  UnknownFeature
        ├── NonFinite  SchemaMismatch  TooLarge
        ├── DeadlineExceeded  Busy  Draining  NotReady  SourceUnavailable          (retryable)
        └── Unauthorized  Conflict  Rejected  Internal

Branch on the class or on `code`, never on the message: codes are stable, messages are for people.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar


class ModeldError(Exception):
    """Anything that a modeld client raises about a request."""


class RequestTimeout(ModeldError, TimeoutError):
    """No reply came in time.

    `sent` tells whether the request left this process. When it is False nothing listens at the endpoint and
    the request had no effect; when it is True the server may still act on it; its late reply is discarded.
    """

    def __init__(self, message: str, *, sent: bool) -> None:
        super().__init__(message)
        self.sent = sent


class ClientClosed(ModeldError):
    """The client was closed while the request was under way, or before it."""


class ProtocolError(ModeldError):
    """A reply that can't be read: not a header, or tensors that don't fit what the header says."""


class ServerError(ModeldError):
    """The server answered with an error.

    Attributes:
        code: the stable code of the protocol, e.g. `"SHAPE_MISMATCH"`.
        message: what was wrong, for people.
        parameters: what the server added (`incident` for `INTERNAL`, say).
        retryable: the same request may succeed later, or at another server.
    """

    CODE: ClassVar[str] = ""

    def __init__(self, code: str, message: str, parameters: Mapping[str, Any] | None = None) -> None:
        super().__init__(f"{code}: {message}")
        self.code = code
        self.message = message
        self.parameters: dict[str, Any] = dict(parameters or {})
        self.retryable = self.parameters.get("retryable") is True

    def __reduce__(self) -> tuple[type[ServerError], tuple[str, str, dict[str, Any]]]:
        return type(self), (self.code, self.message, self.parameters)


class Malformed(ServerError):
    """The server couldn't read the message."""

    CODE = "MALFORMED"


class UnknownOp(ServerError):
    """No such operation on this socket."""

    CODE = "UNKNOWN_OP"


class ModelNotFound(ServerError):
    """No model of that name is served."""

    CODE = "MODEL_NOT_FOUND"


class VersionNotAvailable(ServerError):
    """The version, or the least generation, that was asked for isn't resident."""

    CODE = "VERSION_NOT_AVAILABLE"


class ShapeMismatch(ServerError):
    """The number of features or the shape isn't the model's."""

    CODE = "SHAPE_MISMATCH"


class DatatypeUnsupported(ServerError):
    """A tensor's datatype isn't one of FP64, FP32, INT64, INT32."""

    CODE = "DATATYPE_UNSUPPORTED"


class MissingFeature(ServerError):
    """A row by name lacks a feature of the model."""

    CODE = "MISSING_FEATURE"


class UnknownFeature(ServerError):
    """A row by name has a feature that the model doesn't know."""

    CODE = "UNKNOWN_FEATURE"


class NonFinite(ServerError):
    """An infinity, or a NaN where the model's contract forbids it."""

    CODE = "NON_FINITE"


class SchemaMismatch(ServerError):
    """The client's feature-list fingerprint isn't the serving version's."""

    CODE = "SCHEMA_MISMATCH"


class TooLarge(ServerError):
    """More rows than the server takes in one request."""

    CODE = "TOO_LARGE"


class DeadlineExceeded(ServerError):
    """The request's own `timeout_us` passed before it was computed."""

    CODE = "DEADLINE_EXCEEDED"


class Busy(ServerError):
    """The server has no room for another request now."""

    CODE = "BUSY"


class Draining(ServerError):
    """The server is shutting down and admits nothing new."""

    CODE = "DRAINING"


class NotReady(ServerError):
    """No version of the model is served yet."""

    CODE = "NOT_READY"


class SourceUnavailable(ServerError):
    """An operator's request needs the registry, which can't be read or written now."""

    CODE = "SOURCE_UNAVAILABLE"


class Unauthorized(ServerError):
    """This key may not do that."""

    CODE = "UNAUTHORIZED"


class Conflict(ServerError):
    """Compare-and-set failed: the generation isn't the one that was expected. Nothing was changed."""

    CODE = "CONFLICT"


class Rejected(ServerError):
    """The candidate failed its trial; what was served before is still served."""

    CODE = "REJECTED"


class Internal(ServerError):
    """The server's own fault; `parameters["incident"]` is in its log too."""

    CODE = "INTERNAL"


_BY_CODE: dict[str, type[ServerError]] = {cls.CODE: cls for cls in ServerError.__subclasses__()}


def server_error(code: str, message: str, parameters: Mapping[str, Any] | None = None) -> ServerError:
    """The exception for an error reply: the code's own class, or `ServerError` for a code not known here."""
    return _BY_CODE.get(code, ServerError)(code, message, parameters)
