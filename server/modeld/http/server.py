"""`modeld http`: whether it may listen there, and uvicorn."""

from __future__ import annotations

import errno
import gc
import logging
import os
import resource
import socket
from pathlib import Path
from typing import Any

import uvicorn

from modeld import log
from modeld.config import Config, HttpSettings
from modeld.errors import EndpointInUse, ModeldError
from modeld.http.app import create_app
from modeld.http.protocol import BoundedProtocol
from modeld.http.tokens import is_loopback
from modelreg.errors import ConfigError

#: An idle connection is kept for so long. Seconds.
_KEEP_ALIVE_S = 60
#: A client that takes nothing of its answer is given up after so long. Milliseconds.
_UNREAD_MS = 60_000
#: Connections that wait to be accepted at most.
_BACKLOG = 512


def check(settings: HttpSettings) -> None:
    """Raises ConfigError where it must not listen as it is told to."""
    if bool(settings.tls_cert) != bool(settings.tls_key):
        raise ConfigError("http.tls_cert and http.tls_key go together: a certificate and its key")
    for name in ("tls_cert", "tls_key"):
        path = getattr(settings, name)
        if path and not os.access(path, os.R_OK):
            raise ConfigError(f"http.{name} {path}: can't be read")
    if is_loopback(settings.host):
        if settings.behind_proxy and not settings.jwt.key_file:
            raise ConfigError(
                "http.behind_proxy: what a proxy passes on comes from other machines, and no key for tokens is "
                "configured: set http.jwt.key_file"
            )
        return
    if not settings.jwt.key_file:
        raise ConfigError(
            f"http.host {settings.host} can be reached from other machines, and no key for tokens is configured: set "
            "http.jwt.key_file, or listen at 127.0.0.1"
        )
    if not (settings.tls_cert or settings.behind_proxy):
        raise ConfigError(
            f"http.host {settings.host} can be reached from other machines, and tokens would travel in plain text: set "
            "http.tls_cert and http.tls_key, or http.behind_proxy where a proxy in front speaks TLS"
        )


def serve(config: Config) -> None:
    """Run until SIGTERM or SIGINT; what is under way is answered first.

    Raises:
        ConfigError: the settings forbid it, or the key for tokens can't be used.
        EndpointInUse: another process listens there. ModeldError: it can't be listened there.
    """
    settings = config.http
    check(settings)
    log.configure(config.logging.format, config.logging.level)
    # Lines of others (a handler that failed, a malformed request) come out as ours do.
    for name in ("uvicorn", "uvicorn.error", "asyncio", "nicegui"):
        logging.getLogger(name).handlers = [_Handler()]
        logging.getLogger(name).propagate = False

    class Protocol(BoundedProtocol):
        request_timeout_s = settings.request_timeout_s

    options: dict[str, Any] = {}
    if settings.tls_cert:
        options = {"ssl_certfile": Path(settings.tls_cert), "ssl_keyfile": settings.tls_key}
    server = _Server(
        uvicorn.Config(
            create_app(config),
            host=settings.host,
            port=settings.port,
            log_config=None,
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            http=Protocol,
            # No limit_concurrency: it counts connections that ask nothing, and refuses whoever asks something.
            timeout_keep_alive=_KEEP_ALIVE_S,
            timeout_graceful_shutdown=int(config.limits.drain_timeout_s) or 1,
            **options,
        )
    )
    # What bounds connections is descriptors: as many as we may have.
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    sock = _listen(settings)
    try:
        server.run(sockets=[sock])
    finally:
        sock.close()


def _listen(settings: HttpSettings) -> socket.socket:
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        sock = socket.create_server((settings.host, settings.port), family=family, backlog=_BACKLOG)
    except OSError as error:
        told = f"http.host {settings.host}, http.port {settings.port}: {error.strerror or error}"
        if error.errno == errno.EADDRINUSE:
            raise EndpointInUse(f"{told}; choose another with --port") from None
        raise ModeldError(told) from None
    # Connections inherit it.
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _UNREAD_MS)
    return sock


class _Server(uvicorn.Server):
    """Says in the log where it listens, once it does."""

    async def startup(self, sockets: list[Any] | None = None) -> None:
        await super().startup(sockets)
        # Modules and routes stay: the collector needn't look at them again and again.
        gc.collect()
        gc.freeze()
        if self.started and sockets:
            host, port = sockets[0].getsockname()[:2]
            scheme = "https" if self.config.is_ssl else "http"
            shown = f"[{host}]" if ":" in host else host
            log.get().info(log.LISTENING, url=f"{scheme}://{shown}:{port}", pid=os.getpid())


class _Handler(logging.Handler):
    """A standard library record as one line of ours."""

    def emit(self, record: logging.LogRecord) -> None:
        line = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            line += f": {record.exc_info[1]!r}"
        write = log.get().error if record.levelno >= logging.ERROR else log.get().warning
        write(log.HTTP_SERVER, what=line)
