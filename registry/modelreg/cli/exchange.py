"""The verbs between registries and other tools: import, export, add-export, sign, verify."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from modelreg.cli.app import app
from modelreg.cli.shared import (
    DryRunOption,
    Globals,
    OptionalReason,
    RefArgument,
    changed,
    out,
    reading,
    reading_version,
    said,
    show_rows,
)


@app.command("import")
def import_(
    context: typer.Context,
    directory: Annotated[
        Path, typer.Argument(metavar="DIR", help="What another tool left; it isn't changed.")
    ],
    name: Annotated[
        str | None,
        typer.Option("--name", metavar="NAME", help="The model's name, where the layout has none."),
    ] = None,
    allow_joblib: Annotated[
        bool, typer.Option("--allow-joblib", help="Adopt pickles: code that runs wherever it is loaded.")
    ] = False,
    no_golden: Annotated[
        bool, typer.Option("--no-golden", help="Load nothing and seal the files as they are.")
    ] = False,
    dry_run: DryRunOption = False,
) -> None:
    """Adopt the versions of another tool's directory; exit 1 if one was refused."""
    from modelreg.adoption import adopt
    from modelreg.importing import discover

    told: Globals = context.obj
    told.open()  # no registry: say so before the directory is looked through
    found = discover(directory, name)
    with reading(told, "importing", [f.model for f in found]) as disk:
        registry = told.open(disk=disk)
        done = adopt(registry, found, allow_joblib=allow_joblib, load=not no_golden, dry_run=dry_run)
    rows = [(a.ref, a.outcome, a.source) for a in done]
    show_rows(told, ("VERSION", "OUTCOME", "FROM"), rows, [dataclasses.asdict(a) for a in done])
    if not all(a.ok for a in done):
        raise typer.Exit(1)


FormatOption = Annotated[
    str,
    typer.Option(
        "--format", metavar="F", help="tar, onnx (LightGBM is converted, in float32), or one that was added."
    ),
]


@app.command()
def export(
    context: typer.Context,
    ref: RefArgument,
    format: FormatOption = "tar",
    to: Annotated[
        Path | None, typer.Option("--to", metavar="FILE", help="Where to; default: NAME-VERSION.F here.")
    ] = None,
    dry_run: DryRunOption = False,
) -> None:
    """Write a version to a file, its bytes checked."""
    told: Globals = context.obj
    path = told.open().export(ref, format=format, to=to, dry_run=dry_run)
    said(told, f"{ref} would be written there as {format}", dry_run)
    out(told, {"path": str(path), "ref": ref, "format": format, "dry_run": dry_run}, str(path))


@app.command("add-export")
def add_export(
    context: typer.Context,
    ref: RefArgument,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The version in another format.")],
    format: FormatOption = "onnx",
    reason: OptionalReason = None,
    dry_run: DryRunOption = False,
) -> None:
    """Keep a version in another format beside it."""
    told: Globals = context.obj
    commit = told.open().add_export(ref, file, format=format, reason=reason, dry_run=dry_run)
    changed(told, commit, ref, f"kept as {format}", dry_run)


KeyOption = Annotated[
    Path, typer.Option("--key", metavar="K", help="An Ed25519 key: PEM, OpenSSH, 32 bytes.")
]


@app.command()
def sign(context: typer.Context, ref: RefArgument, key: KeyOption, dry_run: DryRunOption = False) -> None:
    """Sign a version with a private key (Ed25519 over its checksum.sha256)."""
    told: Globals = context.obj
    path = told.open().sign(ref, key, dry_run=dry_run)
    said(told, f"{ref} would be signed", dry_run)
    out(told, {"ref": ref, "signature": str(path), "dry_run": dry_run}, str(path))


@app.command()
def verify(context: typer.Context, ref: RefArgument, key: KeyOption) -> None:
    """Check a version's signature with a public key, and every byte of it; exit 6 if it doesn't fit."""
    told: Globals = context.obj
    with reading_version(told, "verifying", ref) as registry:
        registry.verify(ref, key)
    out(told, {"ref": ref, "ok": True}, f"{ref} is as it was signed", ref)
