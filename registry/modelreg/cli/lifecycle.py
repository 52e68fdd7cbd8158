"""The verbs of a version's life: fail, validate, tag, untag, archive, unarchive, delete."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from modelreg import render
from modelreg.cli.app import app
from modelreg.cli.shared import (
    DryRunOption,
    Globals,
    OptionalReason,
    ReasonOption,
    RefArgument,
    changed,
    confirm,
    out,
    reading_version,
    say_broken,
)


@app.command()
def fail(
    context: typer.Context, ref: RefArgument, reason: ReasonOption, dry_run: DryRunOption = False
) -> None:
    """Mark a version as failed: it can't be promoted any more."""
    told: Globals = context.obj
    changed(told, told.open().fail(ref, reason=reason, dry_run=dry_run), ref, "marked as failed", dry_run)


@app.command()
def validate(
    context: typer.Context,
    ref: RefArgument,
    key: Annotated[
        Path | None,
        typer.Option("--key", metavar="K", help="A public Ed25519 key whose signature it must have."),
    ] = None,
    dry_run: DryRunOption = False,
) -> None:
    """Check a version's checksums and signature, load it in a process of its own, and replay its golden rows."""
    told: Globals = context.obj
    with reading_version(told, "checking", ref) as registry:
        report = registry.validate(ref, key=key, dry_run=dry_run)
    say_broken(registry, ref)
    if told.json or told.quiet:
        out(
            told,
            {**dataclasses.asdict(report), "ok": True, "dry_run": dry_run},
            f"{report.name}:{report.version}",
        )
    else:
        render.print_table(("CHECK", "RESULT"), [(check.name, check.detail) for check in report.checks])


TagArgument = Annotated[str, typer.Argument(metavar="T", help="The label.")]


@app.command()
def tag(
    context: typer.Context,
    ref: RefArgument,
    label: TagArgument,
    reason: OptionalReason = None,
    dry_run: DryRunOption = False,
) -> None:
    """Put a free label on a version; a label never moves a channel."""
    told: Globals = context.obj
    commit = told.open().tag(ref, label, reason=reason, dry_run=dry_run)
    changed(told, commit, ref, f"tagged {label}", dry_run)


@app.command()
def untag(
    context: typer.Context,
    ref: RefArgument,
    label: TagArgument,
    reason: OptionalReason = None,
    dry_run: DryRunOption = False,
) -> None:
    """Take a label off a version."""
    told: Globals = context.obj
    commit = told.open().untag(ref, label, reason=reason, dry_run=dry_run)
    changed(told, commit, ref, f"rid of the tag {label}", dry_run)


@app.command()
def archive(
    context: typer.Context, ref: RefArgument, reason: OptionalReason = None, dry_run: DryRunOption = False
) -> None:
    """Retire a version: it can't be promoted, and channels but production let go of it."""
    told: Globals = context.obj
    changed(told, told.open().archive(ref, reason=reason, dry_run=dry_run), ref, "archived", dry_run)


@app.command()
def unarchive(
    context: typer.Context, ref: RefArgument, reason: OptionalReason = None, dry_run: DryRunOption = False
) -> None:
    """Give an archived version its status back."""
    told: Globals = context.obj
    changed(told, told.open().unarchive(ref, reason=reason, dry_run=dry_run), ref, "unarchived", dry_run)


@app.command()
def delete(
    context: typer.Context,
    ref: RefArgument,
    force: Annotated[
        bool, typer.Option("--force", help="Delete it though it is tagged or a channel holds it.")
    ] = False,
    reason: OptionalReason = None,
    dry_run: DryRunOption = False,
) -> None:
    """Delete a version: its files go to the trash; what is in production can't be deleted.

    Asks first; off a terminal it needs --yes.
    """
    told: Globals = context.obj
    registry = told.open()
    registry.delete(ref, force=force, reason=reason, dry_run=True)
    if not dry_run:
        confirm(told, f"Delete {ref}?")
    commit = registry.delete(ref, force=force, reason=reason, dry_run=dry_run)
    changed(told, commit, ref, "deleted", dry_run)
