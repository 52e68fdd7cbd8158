"""The application: routes, errors, and what every request passes first."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp

from modeld import __version__
from modeld.client.errors import ModeldError
from modeld.config import Config
from modeld.http import registry_api
from modeld.http.gateway import Gateway
from modeld.http.guard import Guard
from modeld.http.inference import Inference
from modeld.http.metrics import Metrics
from modeld.http.oip import Oip
from modeld.http.problems import ApiError, handle
from modelreg.errors import ConfigError, RegistryError

#: What has an answer of its own; anything else is our fault and is logged.
_HANDLED: tuple[type[Exception], ...] = (
    ApiError, RegistryError, ModeldError, RequestValidationError, HTTPException, ClientDisconnect, Exception,
)  # fmt: skip


def create_app(config: Config) -> ASGIApp:
    """The gateway as an ASGI application: the guard, inference, and behind them whatever the framework routes.

    Raises:
        ConfigError: the key for tokens can't be used, or the page is wanted and its extra isn't installed.
    """
    gateway = Gateway(config)
    metrics = Metrics(gateway)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        await gateway.start()
        try:
            yield
        finally:
            await gateway.stop()

    app = FastAPI(
        title="modeld",
        summary="The registry of a model-serving daemon",
        version=__version__,
        lifespan=lifespan,
        # The documentation pages load scripts from a CDN.
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/v1/openapi.json",
        exception_handlers=dict.fromkeys(_HANDLED, handle),
    )
    app.router.routes[:0] = Oip(gateway).routes()
    app.add_route("/metrics", metrics.scrape, include_in_schema=False)
    app.include_router(registry_api.router(gateway))
    if config.http.page:
        _mount_page(app, gateway)
    return Guard(Inference(app, gateway), config.http, metrics.count)


def _mount_page(app: FastAPI, gateway: Gateway) -> None:
    try:
        from modeld.http.page import mount
    except ModuleNotFoundError as error:
        if error.name != "nicegui":
            raise
        raise ConfigError("http.page: true needs the extra ui: pip install 'modeld[ui]'") from None
    mount(app, gateway)
