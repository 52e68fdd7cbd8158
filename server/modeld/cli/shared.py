"""What the verbs that talk to a daemon share: options, the client, and how things are shown."""

from __future__ import annotations

import json
from typing import Annotated, Any

import typer

from modeld.client import AdminClient

JsonOption = Annotated[bool, typer.Option("--json", help="Print the daemon's reply as JSON.")]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why; it goes into the log.")]
ModelArgument = Annotated[
    str | None, typer.Argument(help="The model's name; may be left out where one is served.")
]

#: Seconds that an operation which waits for nothing may take.
TIMEOUT_S = 3.0


def admin_client(context: typer.Context) -> AdminClient:
    """A client of the admin socket that `--endpoint` or the configuration names."""
    endpoint = checked_endpoint(context.obj.endpoint or context.obj.config().admin_endpoint)
    return AdminClient(endpoint, timeout_s=TIMEOUT_S, curve=context.obj.curve())


def checked_endpoint(endpoint: str) -> str:
    """`endpoint` itself. Raises ValueError where it is none."""
    if not endpoint.startswith(("ipc://", "tcp://")):
        raise ValueError(f"endpoint {endpoint!r}: ipc://PATH or tcp://HOST:PORT")
    return endpoint


def print_json(reply: dict[str, Any]) -> None:
    """A reply as it came, but for the id."""
    typer.echo(json.dumps({key: value for key, value in reply.items() if key != "id"}, indent=2))


def second(at: str | None) -> str:
    """An RFC 3339 time to the second."""
    return "-" if at is None else at[:19].replace("T", " ")


def cell(value: Any) -> str:
    """A value in a table."""
    return "-" if value is None else str(value)
