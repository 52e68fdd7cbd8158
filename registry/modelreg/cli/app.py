"""The command ``modelreg``: its global options. Data on stdout, messages on stderr."""

from __future__ import annotations

import importlib.metadata
import logging
import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from modelreg import render
from modelreg.cli.shared import Globals
from modelreg.errors import RegistryError
from modelreg.settings import load_settings

app = typer.Typer(
    name="modelreg",
    help="A model registry on plain files: sealed versions and an append-only commit log.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

#: Options of the command itself that are accepted after the verb too; True: a value follows.
_GLOBAL_OPTIONS = {
    "--json": False,
    "--quiet": False,
    "-q": False,
    "--yes": False,
    "-y": False,
    "--root": True,
    "--actor": True,
    "--config": True,
}


def _tell_version(wanted: bool) -> None:
    if wanted:
        print(f"modelreg {importlib.metadata.version('modeld')}")
        raise typer.Exit


@app.callback()
def _globals(
    context: typer.Context,
    _version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_tell_version, help="Print the version.")
    ] = False,
    root: Annotated[
        Path, typer.Option("--root", envvar="MODELREG_ROOT", metavar="DIR", help="The registry's directory.")
    ] = Path("models"),
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout, for machines.")] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Names alone on stdout, errors alone on stderr.")
    ] = False,
    yes: Annotated[
        bool,
        typer.Option("--yes", "-y", help="Don't ask before something is deleted; needed off a terminal."),
    ] = False,
    actor: Annotated[
        str | None,
        typer.Option("--actor", metavar="WHO", help="Who acts; else MODELREG_ACTOR, else user@host."),
    ] = None,
    config: Annotated[
        Path | None,
        typer.Option(
            "--config", envvar="MODELREG_CONFIG", metavar="FILE", help="Settings; see config/registry.yaml."
        ),
    ] = None,
) -> None:
    level = logging.ERROR if quiet else logging.WARNING
    logging.basicConfig(level=level, stream=sys.stderr, format="modelreg: %(levelname)s: %(message)s")
    settings = None if config is None else load_settings(config)
    context.obj = Globals(root, as_json, quiet, yes, actor, settings)


def main() -> None:
    """Run the command; the only place where errors become messages and exit statuses."""
    try:
        app(args=hoist_globals(sys.argv[1:]), prog_name="modelreg")
    except RegistryError as error:
        render.say(str(error))
        sys.exit(error.exit_status)
    except BrokenPipeError:
        # Whoever read our output has gone. Python would complain once more while it flushes stdout at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)


def hoist_globals(arguments: list[str]) -> list[str]:
    """Move the options of the command itself before the verb, so that they work after it too."""
    front: list[str] = []
    rest: list[str] = []
    waiting = iter(arguments)
    for argument in waiting:
        if argument == "--":
            return [*front, *rest, argument, *waiting]
        option, equals, _ = argument.partition("=")
        takes_value = _GLOBAL_OPTIONS.get(option)
        if takes_value is None or (equals and not takes_value):
            rest.append(argument)
            continue
        front.append(argument)
        if takes_value and not equals:
            front.extend(value for value in [next(waiting, None)] if value is not None)
    return [*front, *rest]
