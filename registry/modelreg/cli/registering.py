"""The verbs that make: init, register."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Annotated

import typer

from modelreg.arguments import json_object, name_list, span, split_files
from modelreg.cli.app import app
from modelreg.cli.shared import DryRunOption, Globals, out, reading, said
from modelreg.registry import Registry


@app.command()
def init(context: typer.Context, dry_run: DryRunOption = False) -> None:
    """Make an empty registry; an existing one stays as it is."""
    told: Globals = context.obj
    if dry_run:
        said(told, f"{told.root} would be a registry", dry_run)
        out(told, {"root": str(told.root), "uuid": None, "dry_run": True}, str(told.root))
        return
    registry = Registry.init(told.root, told.actor, settings=told.settings)
    out(told, {"root": str(registry.root), "uuid": registry.uuid}, str(registry.root))


@app.command()
def register(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The model's name.")],
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FILE…",
            help="The model (LightGBM text, joblib or ONNX), and files such as feature_importance.csv to seal with it.",
        ),
    ] = None,
    version: Annotated[
        str | None, typer.Option("--version", metavar="V", help="Semver; default: the present second in UTC.")
    ] = None,
    output: Annotated[
        list[str] | None,
        typer.Option("--output", metavar="NAME=FILE", help="One estimator per output; repeat it for each."),
    ] = None,
    metrics: Annotated[
        str | None, typer.Option("--metrics", metavar="JSON|@FILE", help="Numbers, nestable by horizon.")
    ] = None,
    features: Annotated[
        str | None,
        typer.Option(
            "--features",
            metavar="LIST|@FILE",
            help="Ordered names, comma list or file; default: the model's.",
        ),
    ] = None,
    data_range: Annotated[
        str | None,
        typer.Option("--data-range", metavar="START:END", help="Span of the training data, ISO dates."),
    ] = None,
    tag: Annotated[
        list[str] | None, typer.Option("--tag", metavar="T", help="A label; may be repeated.")
    ] = None,
    parent: Annotated[
        str | None, typer.Option("--parent", metavar="REF", help="The version that this one derives from.")
    ] = None,
    golden: Annotated[
        Path | None,
        typer.Option("--golden", metavar="FILE", help="Golden rows: .csv with a header, or .npz."),
    ] = None,
    no_golden: Annotated[
        bool, typer.Option("--no-golden", help="Load nothing and seal the files as they are.")
    ] = False,
    scaler: Annotated[
        Path | None,
        typer.Option("--scaler", metavar="FILE", help="A joblib file whose transform rows go through first."),
    ] = None,
    allow_joblib: Annotated[
        bool, typer.Option("--allow-joblib", help="Seal joblib files: code that runs wherever it is loaded.")
    ] = False,
    meta: Annotated[
        str | None, typer.Option("--meta", metavar="JSON|@FILE", help="Further fields of metadata.json.")
    ] = None,
    notes: Annotated[str | None, typer.Option("--notes", metavar="S", help="Free text for people.")] = None,
    dry_run: DryRunOption = False,
) -> None:
    """Seal a version and print its reference."""
    told: Globals = context.obj
    estimators, artefacts = split_files(files or [], output or [], golden is not None and no_golden)
    models = estimators.values() if isinstance(estimators, dict) else [estimators]
    with reading(told, f"reading {name}", [*models, *artefacts, *([scaler] if scaler else [])]) as disk:
        made = told.open(disk=disk).register(
            name,
            estimators,
            version=version,
            features=None if features is None else name_list(features, "--features"),
            metrics=None if metrics is None else json_object(metrics, "--metrics"),
            golden=False if no_golden else golden,
            data_range=None if data_range is None else span(data_range),
            tags=tag or (),
            parent=parent,
            notes=notes,
            meta=None if meta is None else json_object(meta, "--meta"),
            artefacts=artefacts,
            scaler=scaler,
            allow_joblib=allow_joblib,
            dry_run=dry_run,
        )
    said(told, f"{made.ref} would be registered", dry_run)
    shown = {**dataclasses.asdict(made), "path": str(made.path), "ref": made.ref, "dry_run": dry_run}
    out(told, shown, made.ref)
