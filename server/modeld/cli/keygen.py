"""`modeld keygen`: CURVE pairs, and the line that lets one in."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated

import typer

from modeld import keys

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.@-]{0,63}")
_ROLES = ("predict", "read", "operate")


def keygen(
    name: Annotated[str, typer.Argument(help="Whose key: an engine, an operator, or the server.")],
    directory: Annotated[Path, typer.Option("--dir", metavar="DIR", help="Where the two files go.")] = Path(),
    server: Annotated[bool, typer.Option("--server", help="The daemon's own pair.")] = False,
    role: Annotated[
        list[str] | None,
        typer.Option(
            "--role", help="For the allow-list's line: predict (the default), read, operate; repeatable."
        ),
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print names, public key and line as JSON.")
    ] = False,
) -> None:
    """Make a CURVE key pair: NAME.key (public) and NAME.key_secret (mode 0600); prints what to do with them."""
    if _NAME.fullmatch(name) is None:
        raise ValueError(f"name {name!r}: letters, digits, and _.@- after the first")
    roles = role or ["predict"]
    if wrong := sorted(set(roles) - set(_ROLES)):
        raise ValueError(f"--role {wrong[0]}: one of {', '.join(_ROLES)}")
    pair = keys.generate()
    public, secret = keys.write_pair(directory, name, pair)
    line = f'- {{key: "{pair.public}", name: {json.dumps(name)}, roles: [{", ".join(roles)}]}}'
    if as_json:
        told = {
            "name": name,
            "public_key": pair.public,
            "public_file": str(public),
            "secret_file": str(secret),
        }
        typer.echo(json.dumps(told if server else {**told, "allow_list_line": line}, indent=2))
    elif server:
        typer.echo(f"security.curve_secret_file: {secret}\npublic key, for clients: {pair.public} ({public})")
    else:
        typer.echo(f"secret key, for {name} alone: {secret}\nline for the allow-list, below keys:\n  {line}")
