"""Puts the page onto the gateway's application, behind the same guard."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress

from fastapi import FastAPI
from nicegui import app as pages
from nicegui import ui
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from modeld.http.gateway import Gateway
from modeld.http.page.comparison import compare
from modeld.http.page.frame import Visit
from modeld.http.page.history import history
from modeld.http.page.live import live
from modeld.http.page.operate import operate
from modeld.http.page.plain import ROOT, failed, missing
from modeld.http.page.registry import model, models
from modeld.http.page.sampler import Sampler
from modeld.http.page.session import Visitor, add_login
from modeld.http.page.version import version
from modeld.http.problems import ApiError
from modeld.http.tokens import READ

#: Everything comes from here: scripts of another host wouldn't run, and nothing can be sent to one. Vue's templates
#: are compiled in the browser, hence unsafe-eval; NiceGUI writes its start into the document, hence unsafe-inline.
_POLICY = (
    b"default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    b"img-src 'self' data:; font-src 'self' data:; object-src 'none'; base-uri 'none'; form-action 'self'; "
    b"frame-ancestors 'none'"
)
#: A view may take so long to come together. Seconds.
_BUILD_S = 30.0

View = Callable[[Visit, Request], Awaitable[None]]


def mount(app: FastAPI, gateway: Gateway) -> None:
    """Serve the page below `/ui`. Once in a process: NiceGUI's application is the process's."""
    sampler = None

    @asynccontextmanager
    async def sampled(_app: FastAPI) -> AsyncIterator[None]:
        nonlocal sampler
        async with around(_app):
            sampler = Sampler(gateway)
            task = asyncio.create_task(sampler.run())
            try:
                yield
            finally:
                task.cancel()
                with suppress(asyncio.CancelledError):
                    await task

    around, app.router.lifespan_context = app.router.lifespan_context, sampled

    async def home(_request: Request) -> Response:
        return RedirectResponse(f"{ROOT}/")

    def show(path: str, view: View) -> None:
        async def build(request: Request) -> Response | None:
            visitor = Visitor(gateway.keeper, request)
            try:
                visitor.check(READ)
            except ApiError:
                return RedirectResponse(f"{ROOT}/login", 303)
            assert sampler is not None
            await view(Visit(gateway, sampler, visitor), request)
            return None

        ui.page(path, response_timeout=_BUILD_S)(build)

    app.add_route("/", home, include_in_schema=False)
    add_login(app, gateway)
    show("/", lambda visit, _: live(visit))
    show("/registry", lambda visit, _: models(visit))
    show("/registry/{name}", lambda visit, asked: model(visit, asked.path_params["name"]))
    show(
        "/registry/{name}/compare",
        lambda visit, asked: compare(visit, asked.path_params["name"], asked.query_params.getlist("version")),
    )
    show(
        "/registry/{name}/{version}",
        lambda visit, asked: version(visit, asked.path_params["name"], asked.path_params["version"]),
    )
    show("/operate", lambda visit, asked: operate(visit, asked.query_params.get("model")))
    show("/history", lambda visit, _: history(visit))
    pages.add_middleware(_Policy)
    pages.add_exception_handler(404, missing)
    pages.add_exception_handler(Exception, failed)
    ui.run_with(
        app,
        mount_path=ROOT,
        title="modeld",
        dark=None,
        tailwind=False,
        favicon="data:,",
        show_welcome_message=False,
    )


class _Policy:
    """ASGI middleware: what the browser may load for the page."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def stamped(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", _POLICY)]
            await send(message)

        await self._app(scope, receive, stamped if scope["type"] == "http" else send)
