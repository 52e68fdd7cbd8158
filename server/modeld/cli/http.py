"""`modeld http` and `modeld token`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import msgspec
import typer

from modelreg.errors import ConfigError


def register(app: typer.Typer) -> None:
    """Add the verbs to `app`."""
    app.command()(http)
    app.command()(token)


def http(
    context: typer.Context,
    host: Annotated[str | None, typer.Option(help="Address to listen at, instead of http.host.")] = None,
    port: Annotated[
        int | None, typer.Option(help="Port, instead of http.port; 0: any.", min=0, max=65535)
    ] = None,
    tls_cert: Annotated[
        Path | None, typer.Option(help="The certificate in PEM, instead of http.tls_cert.")
    ] = None,
    tls_key: Annotated[Path | None, typer.Option(help="Its private key, instead of http.tls_key.")] = None,
) -> None:
    """Run the HTTP gateway in the foreground: inference, the registry's API, metrics."""
    config = context.obj.config()
    given = {"host": host, "port": port, "tls_cert": tls_cert, "tls_key": tls_key}
    told = {
        name: str(value) if isinstance(value, Path) else value
        for name, value in given.items()
        if value is not None
    }
    config = msgspec.structs.replace(config, http=msgspec.structs.replace(config.http, **told))
    try:
        from modeld.http import serve
    except ModuleNotFoundError as error:
        raise ConfigError(f"modeld http needs {error.name}: pip install '.[http]'") from None
    serve(config)


def token(
    context: typer.Context,
    subject: Annotated[str, typer.Option(help="Who bears it: the actor in the registry's log.")],
    scope: Annotated[
        list[str],
        typer.Option(help="model:read, model:write or model:operate; repeatable.", show_default=False),
    ],
    expires: Annotated[float, typer.Option(help="Its lifetime, seconds.")] = 3600.0,
    key: Annotated[
        Path | None,
        typer.Option(help="The private key for RS256 and EdDSA; for HS256 by default http.jwt.key_file."),
    ] = None,
) -> None:
    """Issue a token for the HTTP gateway; it is printed on stdout alone."""
    settings = context.obj.config().http.jwt
    path = key or (Path(settings.key_file) if settings.key_file and settings.algorithm == "HS256" else None)
    if path is None:
        raise ConfigError("no key: set http.jwt.key_file (HS256), or name the private key with --key")
    try:
        from modeld.http.tokens import issue
    except ModuleNotFoundError as error:
        raise ConfigError(f"modeld token needs {error.name}: pip install '.[http]'") from None
    typer.echo(issue(settings, path, subject, scope, expires))
