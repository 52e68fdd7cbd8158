"""The registry over HTTP: `/api/v1/models`, and `/model/reload`.

Reading needs `model:read`; uploading and validating `model:write`; moving a channel or reloading `model:operate`. The
ETag is the sequence of the model's log: `If-Match` makes a decision depend on nobody having decided meanwhile.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import asdict
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Any

import msgspec
from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.routing import APIRoute
from fastapi.security import HTTPBearer
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from modeld.http import schemas, upload
from modeld.http.gateway import Gateway
from modeld.http.problems import ApiError
from modeld.http.schemas import Channel, Limit, ModelName, VersionName
from modeld.http.tokens import OPERATE, READ, WRITE, Caller
from modelreg import Registry
from modelreg.clock import parse_moment
from modelreg.listing import describe, parse_minimum, select

_ETAG = re.compile(r'"([0-9]{1,18})"')

_bearer = HTTPBearer(
    auto_error=False, description="A token with the scopes model:read, model:write, model:operate."
)
_PROBLEM: dict[str, Any] = {"application/problem+json": {"schema": schemas.PROBLEM}}
_PROBLEMS: dict[int | str, dict[str, Any]] = {
    status: {"description": told, "content": _PROBLEM}
    for status, told in {
        400: "An argument can't be right.",
        401: "No valid token.",
        403: "The token lacks the scope, or there is no key for tokens.",
        404: "There is no such thing.",
        422: "The request doesn't fit this description; or a gate isn't passed, or bytes differ from what was sealed.",
        503: "The registry or the daemon can't be reached; see Retry-After.",
    }.items()
}
_CHANGES = _PROBLEMS | {
    409: {"description": "The present state forbids it.", "content": _PROBLEM},
    412: {"description": "The log isn't at the record of If-Match.", "content": _PROBLEM},
}
#: The body of an upload, which isn't parsed by the framework.
_UPLOAD_BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
            "multipart/form-data": {
                "schema": {
                    "type": "object",
                    "properties": {"model": {"type": "string", "format": "binary"}}
                    | {name: {"type": "string"} for name in sorted(upload.OPTIONS - {"tag", "format"})}
                    | {"tag": {"type": "array", "items": {"type": "string"}}},
                    "required": ["model"],
                }
            },
        },
    }
}

IfMatch = Annotated[str, Header(description="The ETag: only while the model's log is at this record.")]
IfNoneMatch = Annotated[str, Header(description="The ETag of an answer that is known already.")]
Key = Annotated[
    str | None,
    Header(min_length=1, max_length=255, description="The same request with the same key is done once."),
]


class _TokenFirst(APIRoute):
    """Checks the token before it reads the body; the framework reads the body before any dependency is asked."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        check = self.dependencies[0].dependency  # of `reads` and `changes`
        assert check is not None

        async def checked(request: Request) -> Response:
            check(request)
            return await handle(request)

        return checked


def router(gateway: Gateway) -> APIRouter:
    """The routes over `gateway`."""

    def needs(scope: str) -> Any:
        def check(request: Request) -> Caller:
            # Asked twice for a request, first by _TokenFirst; its state is the same for both.
            state = request.state
            if not hasattr(state, "caller"):
                state.caller = gateway.keeper.check(request.headers.get("authorization"), scope)
            caller: Caller = state.caller
            return caller

        return Depends(check)

    reader, writer, operator = needs(READ), needs(WRITE), needs(OPERATE)

    def reads(**more: Any) -> dict[str, Any]:
        return {"responses": _PROBLEMS, "dependencies": [reader, Depends(_bearer)], **more}

    def changes(needed: Any, **more: Any) -> dict[str, Any]:
        return {"responses": _CHANGES, "dependencies": [needed, Depends(_bearer)], **more}

    api = APIRouter(prefix="/api/v1/models", tags=["registry"], route_class=_TokenFirst)

    @api.get("", response_model=schemas.Models, **reads())
    def models() -> Any:
        """Every model at a glance."""
        registry = gateway.registry()
        return {"models": [_model(registry, name) for name in registry.models()]}

    @api.get("/{name}", response_model=schemas.Versions, **reads())
    def versions(
        response: Response,
        name: ModelName,
        channel: Annotated[str | None, Query(description="Held by this channel now.")] = None,
        status: schemas.Status | None = None,
        tag: Annotated[str | None, Query(description="With this label.")] = None,
        task_type: str | None = None,
        config_hash: Annotated[str | None, Query(description="May be shortened.")] = None,
        minimum: Annotated[
            list[schemas.Minimum] | None,
            Query(alias="min", description="METRIC=X: at least X; may be repeated."),
        ] = None,
        sort: Annotated[
            str | None, Query(description="Best first by this metric; else newest first.")
        ] = None,
        after: Annotated[str | None, Query(description="The `next` of the page before.")] = None,
        limit: Limit = 50,
    ) -> Any:
        """The versions of a model, newest first, in pages."""
        registry = gateway.registry()
        state = registry.state(name)
        rows = select(
            registry, name, channel=channel, status=status, tag=tag, task_type=task_type, config_hash=config_hash,
            minima=[parse_minimum(each) for each in minimum or ()], sort=sort, limit=limit + 1,
            after=None if after is None else f"{name}:{after}",
        )  # fmt: skip
        response.headers["ETag"] = _etag(state.seq)
        more = rows[limit - 1]["version"] if len(rows) > limit else None
        return {"versions": rows[:limit], "next": more}

    @api.get("/{name}/current", response_model=schemas.Version, **reads())
    def current(
        response: Response,
        name: ModelName,
        channel: Channel = "production",
        if_none_match: IfNoneMatch = "",
    ) -> Any:
        """The version that a channel holds."""
        registry = gateway.registry()
        _, found = registry.resolve(f"{name}:{channel}")
        return _version(registry, response, name, found.version, if_none_match)

    @api.get("/{name}/history", response_model=schemas.History, **reads())
    def history(name: ModelName, before: Annotated[int | None, Query(ge=1)] = None, limit: Limit = 50) -> Any:
        """The audit trail: who, when, why, from what to what."""
        entries = gateway.registry().history(name)
        if before is not None:
            entries = [entry for entry in entries if entry.seq < before]
        more = entries[limit - 1].seq if len(entries) > limit else None
        return {"entries": [asdict(entry) for entry in entries[:limit]], "next": more}

    @api.get("/{name}/held", response_model=schemas.Held, **reads())
    def held(name: ModelName, at: schemas.Moment) -> Any:
        """What each channel held at a moment: which version ran on 15 January?"""
        return {"held": [asdict(each) for each in gateway.registry().at(parse_moment(at), name)]}

    @api.get("/{name}/compare", response_model=schemas.Comparison, **reads())
    def compare(
        name: ModelName,
        version: Annotated[
            list[schemas.Shown], Query(min_length=2, max_length=20, description="Versions or channels.")
        ],
        metric: Annotated[list[str] | None, Query(description="These alone.")] = None,
    ) -> Any:
        """Metrics side by side: a winner for each, and the last version's value minus the first's."""
        rows = gateway.registry().compare([f"{name}:{each}" for each in version], metrics=metric or ())
        return {"metrics": [asdict(row) for row in rows]}

    @api.get("/{name}/{version}", response_model=schemas.Version, **reads())
    def version(
        response: Response, name: ModelName, version: VersionName, if_none_match: IfNoneMatch = ""
    ) -> Any:
        """One version: its state, and the facts sealed with it."""
        return _version(gateway.registry(), response, name, version, if_none_match)

    @api.get("/{name}/{version}/lineage", response_model=schemas.Lineage, **reads())
    def lineage(name: ModelName, version: VersionName) -> Any:
        """What it derives from, and what was derived from it, in any model."""
        return asdict(gateway.registry().lineage(f"{name}:{version}"))

    @api.get("/{name}/{version}/gates", response_model=list[schemas.Gate], **reads())
    def gates(name: ModelName, version: VersionName, to: Channel = "production") -> Any:
        """How it stands with the gates of a channel now."""
        return [asdict(gate) for gate in gateway.registry().gates(f"{name}:{version}", to=to)]

    @api.post(
        "/{name}",
        status_code=201,
        response_model=schemas.Version,
        openapi_extra=_UPLOAD_BODY,
        **changes(writer),
    )
    async def register(
        request: Request,
        name: ModelName,
        caller: Caller = writer,
        idempotency_key: Key = None,
    ) -> Response:
        """Upload a version: the model's file as the body with options in the query, or a form. It is loaded and proved
        in a process of its own, sealed, and registered; nothing is promoted.
        """
        limit = gateway.config.http.max_upload_mb << 20
        with tempfile.TemporaryDirectory(prefix="modeld-upload-", ignore_cleanup_errors=True) as made:
            came = await upload.receive(request, Path(made), limit)

            def work() -> Response:
                registry = gateway.registry()
                found = upload.register(registry, name, came, caller.subject, Path(made))
                row = describe(registry, registry.state(name), found.version)
                where = f"/api/v1/models/{name}/{found.version}"
                return _answer(schemas.Version, row, found.seq, status=201, Location=where)

            return await once(caller, idempotency_key, request, came.fingerprint, work)

    @api.post("/{name}/{version}/validate", response_model=schemas.Validation, **changes(writer))
    async def validate(
        request: Request,
        name: ModelName,
        version: VersionName,
        caller: Caller = writer,
        idempotency_key: Key = None,
    ) -> Response:
        """Check its bytes, load it in a process that may die, replay its golden rows."""

        def work() -> Response:
            registry = gateway.registry()
            report = registry.validate(f"{name}:{version}", actor=caller.subject)
            return _answer(schemas.Validation, asdict(report), registry.state(name).seq)

        return await once(caller, idempotency_key, request, "", work)

    @api.post("/{name}/{version}/promote", response_model=schemas.Commit, **changes(operator))
    async def promote(
        request: Request,
        name: ModelName,
        version: VersionName,
        body: schemas.Promote,
        caller: Caller = operator,
        if_match: IfMatch = "*",
        idempotency_key: Key = None,
    ) -> Response:
        """Point a channel at it, if it passes the channel's gates."""

        def work() -> Response:
            commit = gateway.registry().promote(
                f"{name}:{version}", to=body.to, reason=body.reason, actor=caller.subject,
                override_gates=body.override_gates, allow_schema_change=body.allow_schema_change,
                expect_seq=_expected(if_match), dry_run=body.dry_run,
            )  # fmt: skip
            return _answer(schemas.Commit, asdict(commit), commit.seq)

        return await once(caller, idempotency_key, request, body.model_dump_json(), work)

    @api.post("/{name}/rollback", response_model=schemas.Commit, **changes(operator))
    async def rollback(
        request: Request,
        name: ModelName,
        body: schemas.Rollback,
        caller: Caller = operator,
        if_match: IfMatch = "*",
        idempotency_key: Key = None,
    ) -> Response:
        """Point a channel back, in one record; the daemon follows."""

        def work() -> Response:
            commit = gateway.registry().rollback(
                name, to=body.to, channel=body.channel, mark_failed=body.mark_failed, reason=body.reason,
                actor=caller.subject, expect_seq=_expected(if_match), dry_run=body.dry_run,
            )  # fmt: skip
            return _answer(schemas.Commit, asdict(commit), commit.seq)

        return await once(caller, idempotency_key, request, body.model_dump_json(), work)

    top = APIRouter(route_class=_TokenFirst)
    top.include_router(api)

    @top.post("/model/reload", response_model=schemas.Reloaded, tags=["daemon"], **changes(operator))
    async def reload(model: Annotated[str | None, Query(description="Else every model.")] = None) -> Any:
        """Have the daemon look at the registry now; answers when what is there serves, or says why it doesn't."""
        reply = await gateway.admin.call("reload", {"model_name": model}, timeout_s=gateway.trial_s)
        return {key: value for key, value in reply.header.items() if key != "id"}

    async def once(
        caller: Caller, key: str | None, request: Request, body: str, work: Callable[[], Response]
    ) -> Response:
        def do() -> Awaitable[Response]:
            return run_in_threadpool(work)

        told = [request.method, request.url.path, request.headers.get("if-match", ""), body]
        fingerprint = sha256(msgspec.json.encode(told)).hexdigest()
        return await gateway.remembered.once(caller.subject, key, fingerprint, do)

    return top


def _model(registry: Registry, name: str) -> dict[str, Any]:
    state = registry.state(name)
    return {
        "name": name,
        "seq": state.seq,
        "versions": sum(version.status != "deleted" for version in state.versions.values()),
        "channels": {
            each.channel: each.version for each in state.channels.values() if each.version is not None
        },
        "read_only": state.broken,
    }


def _version(registry: Registry, response: Response, name: str, version: str, known: str) -> Any:
    _, found = registry.resolve(f"{name}:{version}")
    state = registry.state(name)
    etag = _etag(state.seq)
    if etag in (each.strip().removeprefix("W/") for each in known.split(",")):
        return Response(status_code=304, headers={"ETag": etag})
    response.headers["ETag"] = etag
    return describe(registry, state, found.version)


def _answer(schema: type[BaseModel], body: Any, seq: int, *, status: int = 200, **headers: str) -> Response:
    text = schema.model_validate(body).model_dump_json()
    return Response(text, status, {"ETag": _etag(seq), **headers}, "application/json")


def _etag(seq: int) -> str:
    return f'"{seq}"'


def _expected(if_match: str) -> int | None:
    """The sequence that If-Match asks for; None: any."""
    if if_match == "*":
        return None
    found = _ETAG.fullmatch(if_match)
    if found is None:
        raise ApiError(
            412, "stale", f"If-Match {if_match!r} isn't an ETag of this API: a number in double quotes"
        )
    return int(found[1])
