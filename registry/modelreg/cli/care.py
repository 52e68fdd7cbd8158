"""The verbs of care: gc, backup, restore, doctor."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from modelreg import render
from modelreg.cli.app import app
from modelreg.cli.shared import DryRunOption, Globals, confirm, out, said, show_rows
from modelreg.errors import IntegrityError
from modelreg.gc import DEFAULT_GRACE_H, DEFAULT_KEEP


@app.command()
def gc(
    context: typer.Context,
    keep: Annotated[
        int, typer.Option("--keep", metavar="N", min=0, help="How many of each model's newest versions stay.")
    ] = DEFAULT_KEEP,
    model: Annotated[str | None, typer.Option("--model", metavar="NAME", help="Only this model.")] = None,
    grace_h: Annotated[
        float, typer.Option("--grace", metavar="HOURS", min=0, help="How long files stay in the trash.")
    ] = DEFAULT_GRACE_H,
    dry_run: DryRunOption = False,
) -> None:
    """Delete old versions that nobody needs; channels', leased, tagged ones and parents always stay.

    Asks first; off a terminal it needs --yes. Exit 6 where a damaged model was left alone.
    """
    told: Globals = context.obj
    registry = told.open()
    plan = registry.gc(keep=keep, grace_h=grace_h, name=model, dry_run=True)
    if not dry_run and (plan.deleted or plan.purged):
        confirm(told, f"Delete {len(plan.deleted)} versions, and {len(plan.purged)} from the trash for good?")
    swept = plan if dry_run else registry.gc(keep=keep, grace_h=grace_h, name=model)
    verb = "would be " if dry_run else ""
    rows = [(ref, f"{verb}deleted") for ref in swept.deleted]
    rows += [(ref, f"{verb}removed from the trash") for ref in swept.purged]
    show_rows(told, ("VERSION", "WHAT"), rows, {**dataclasses.asdict(swept), "dry_run": dry_run})
    for problem in swept.problems:
        render.say(problem)
    if swept.problems:
        raise typer.Exit(IntegrityError.exit_status)


@app.command()
def backup(
    context: typer.Context,
    dest: Annotated[
        Path | None,
        typer.Argument(
            metavar="[DEST]", help="A .tar or .tar.gz, or a directory; default: .registry/backups."
        ),
    ] = None,
    dry_run: DryRunOption = False,
) -> None:
    """Write a backup, consistent while others write."""
    told: Globals = context.obj
    registry = told.open()
    with _progress(told, len(registry.models())) as tick:
        path, files = registry.backup(dest, progress=tick, dry_run=dry_run)
    said(told, f"{files} files would be in it", dry_run)
    out(told, {"path": str(path), "files": files, "dry_run": dry_run}, str(path))


@app.command()
def restore(
    context: typer.Context,
    src: Annotated[Path, typer.Argument(metavar="SRC", help="A backup.")],
    dry_run: DryRunOption = False,
) -> None:
    """Restore a backup into --root, which must be empty or not there yet."""
    from modelreg.backup import restore as bring_back

    told: Globals = context.obj
    files = bring_back(src, told.root, dry_run=dry_run)
    said(told, f"{files} files would be restored", dry_run)
    out(told, {"root": str(told.root), "files": files, "dry_run": dry_run}, str(told.root))


@app.command()
def doctor(
    context: typer.Context,
    repair: Annotated[
        bool, typer.Option("--repair", help="Make again what can be made again from the logs.")
    ] = False,
    dry_run: DryRunOption = False,
) -> None:
    """Examine every record, every sealed byte and every projection; exit 8 if something is (still) wrong."""
    told: Globals = context.obj
    registry = told.open(heal=False)
    with _progress(told, len(registry.models())) as tick:
        found = registry.doctor(repair=repair and not dry_run, progress=tick)
    rows = [
        (f.where, f.kind, "mended" if f.repaired else "--repair" if f.repairable else "-", f.problem)
        for f in found
    ]
    if rows or told.json:
        show_rows(told, ("WHERE", "KIND", "REPAIR", "PROBLEM"), rows, [dataclasses.asdict(f) for f in found])
    elif not told.quiet:
        print("nothing is wrong")
    if any(not finding.repaired for finding in found):
        raise typer.Exit(8)


@contextmanager
def _progress(told: Globals, models: int) -> Iterator[Callable[[str], None]]:
    """A progress bar on a terminal, nothing elsewhere."""
    if not told.shows_progress:
        yield lambda _: None
        return
    with render.progress_bar(models) as tick:
        yield tick
