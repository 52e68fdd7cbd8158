"""The verbs of the catalog: query, rebuild."""

from __future__ import annotations

from typing import Annotated

import typer

from modelreg import render
from modelreg.cli.app import app
from modelreg.cli.shared import DryRunOption, Globals, out, show_rows


@app.command()
def query(
    context: typer.Context,
    statement: Annotated[str, typer.Argument(metavar="SQL", help="One SELECT.")],
    limit: Annotated[int | None, typer.Option("--limit", metavar="N", min=0, help="At most N rows.")] = None,
) -> None:
    """Ask the catalog in SQL; nothing can be changed that way."""
    told: Globals = context.obj
    columns, rows = told.open().query(statement, limit=limit)
    table = [[render.cell(value) for value in row] for row in rows]
    show_rows(told, columns, table, [dict(zip(columns, row, strict=True)) for row in rows])


@app.command()
def rebuild(context: typer.Context, dry_run: DryRunOption = False) -> None:
    """Make every projection again from the logs: catalog, symlinks, state files, manifest."""
    told: Globals = context.obj
    count = told.open(heal=not dry_run).rebuild(dry_run=dry_run)
    verb = "would be made" if dry_run else "made"
    out(told, {"versions": count, "dry_run": dry_run}, f"{verb} again from the logs: {count} versions")
