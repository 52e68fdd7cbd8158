"""Errors as HTTP answers: the one place that knows which status an error of the daemon or the registry has.

The registry API answers `application/problem+json` (RFC 9457), the Open Inference Protocol `{"error": …}`. Both carry
the stable `code` of the error's tree; messages are for people.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from http import HTTPStatus
from typing import Any

import msgspec
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Match

from modeld import log
from modeld.client.errors import ModeldError, ProtocolError, RequestTimeout, ServerError
from modeld.http import schemas
from modelreg.errors import PromotionGateError, RegistryError

#: Seconds after which a client may try again what can't be done now.
RETRY_AFTER_S = 1

#: Status by the code of a `RegistryError`; codes that aren't here are 500.
_REGISTRY = {
    "usage": 400,
    "not_found": 404,
    "conflict": 409,
    "stale": 412,
    "gate": 422,
    "integrity": 422,
    "load": 422,
    "store_unavailable": 503,
}

#: Status by the daemon's error code; codes that aren't here are 400: the request's own fault.
_DAEMON = {
    "MODEL_NOT_FOUND": 404,
    "VERSION_NOT_AVAILABLE": 404,
    "TOO_LARGE": 413,
    "CONFLICT": 409,
    "REJECTED": 409,
    "UNAUTHORIZED": 403,
    "BUSY": 503,
    "DRAINING": 503,
    "NOT_READY": 503,
    "SOURCE_UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
    "INTERNAL": 500,
}

#: The code by the status of what the framework refuses; others have the status's name.
_HTTP = {404: "not_found", 413: "TOO_LARGE"}

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")


@dataclass(frozen=True, slots=True)
class Problem:
    """What goes into the answer. `more`: further members, `gates` say."""

    status: int
    code: str
    detail: str
    more: dict[str, Any] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)


class ApiError(Exception):
    """Something that the gateway itself refuses."""

    def __init__(
        self, status: int, code: str, detail: str, headers: Mapping[str, str] | None = None, **more: Any
    ) -> None:
        super().__init__(detail)
        self.problem = Problem(status, code, detail, more, dict(headers or {}))


def problem_of(error: Exception) -> Problem:
    """The answer that stands for `error`; what isn't known here is our fault and hides its message."""
    match error:
        case ApiError():
            return error.problem
        case RegistryError():
            more = (
                {"gates": [asdict(gate) for gate in error.gates]}
                if isinstance(error, PromotionGateError)
                else {}
            )
            return _problem(_REGISTRY.get(error.code, 500), error.code, error.message, more)
        case ServerError():
            return _problem(_DAEMON.get(error.code, 400), error.code, error.message, error.parameters)
        case RequestTimeout():
            return _problem(504 if error.sent else 503, "NO_REPLY" if error.sent else "NO_DAEMON", str(error))
        case ProtocolError() | ModeldError():
            return _problem(502, "BAD_REPLY", str(error))
        case RequestValidationError():
            errors = [{"where": _where(each["loc"]), "what": _what(each)} for each in error.errors()]
            told = "; ".join(f"{each['where']}: {each['what']}" for each in errors)
            return Problem(422, "usage", told, {"errors": errors})
        case HTTPException():
            code = _HTTP.get(error.status_code) or HTTPStatus(error.status_code).name
            return Problem(error.status_code, code, str(error.detail), {}, dict(error.headers or {}))
        case ClientDisconnect():
            return Problem(400, "disconnected", "the request ended before it was whole")
        case _:
            return Problem(500, "INTERNAL", "this request met an error of ours; the gateway's log has it")


def _problem(status: int, code: str, detail: str, more: Mapping[str, Any] | None = None) -> Problem:
    headers = {"Retry-After": str(RETRY_AFTER_S)} if status == HTTPStatus.SERVICE_UNAVAILABLE else {}
    return Problem(status, code, detail, dict(more or {}), headers)


def _what(found: Mapping[str, Any]) -> str:
    """What is wrong with one field, as its sender would say it; else as the framework does."""
    context = found.get("ctx", {})
    if found["type"] == "json_invalid":
        return f"not JSON: {context.get('error', 'it ends early')}"
    if found["type"] == "model_attributes_type":
        return "a JSON object is wanted, as Content-Type: application/json"
    words = schemas.MEANING.get(context.get("pattern", ""))
    return str(found["msg"]) if words is None else f"{found['input']!r} isn't {words}"


def _where(path: tuple[Any, ...]) -> str:
    return ".".join(str(step) for step in path)


def render(problem: Problem, *, oip: bool) -> Response:
    """The answer; `oip`: in the Open Inference Protocol's shape."""
    if oip:
        body: dict[str, Any] = {"error": problem.detail, "code": problem.code}
        media = "application/json"
    else:
        title = HTTPStatus(problem.status).phrase
        body = {"type": "about:blank", "title": title, "status": problem.status, "detail": problem.detail}
        body["code"] = problem.code
        body |= {name: value for name, value in problem.more.items() if name not in body}
        media = "application/problem+json"
    return Response(msgspec.json.encode(body), problem.status, problem.headers, media)


def _unrouted(request: Request, error: HTTPException, problem: Problem) -> Problem:
    """The framework's own refusals, with what they are about."""
    path = request.url.path
    if error.status_code == HTTPStatus.NOT_FOUND:
        return replace(problem, detail=f"there is no path {path} here")
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        allowed = _allowed(request)
        return replace(problem, detail=f"{path} takes {allowed}", headers={"Allow": allowed})
    return problem


def _allowed(request: Request) -> str:
    """Every method of this path: the framework names those of the first route alone."""
    routes, scope = request.app.router.routes, request.scope
    return ", ".join(
        method
        for method in _METHODS
        if any(route.matches({**scope, "method": method})[0] is Match.FULL for route in routes)
    )


async def handle(request: Request, error: Exception) -> Response:
    """The application's handler for every error."""
    problem = problem_of(error)
    if isinstance(error, HTTPException):
        problem = _unrouted(request, error, problem)
    if problem.code == "INTERNAL" and not isinstance(error, ServerError):
        log.get().error(log.INCIDENT, what=repr(error), method=request.method, path=request.url.path)
    return render(problem, oip=request.url.path.startswith("/v2"))
