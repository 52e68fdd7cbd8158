"""The command ``modelreg``. Data on stdout, messages on stderr, exit statuses as in ``modelreg.errors``."""

from __future__ import annotations

import dataclasses
import logging
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from modelreg import render
from modelreg.arguments import json_object, name_list, span, split_files
from modelreg.errors import RegistryError
from modelreg.listing import describe, parse_minimum, select
from modelreg.registry import Commit, Registry
from modelreg.settings import Settings, load_settings

app = typer.Typer(
    name="modelreg",
    help="A model registry on plain files: sealed versions and an append-only commit log.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

#: Options of the command itself that are accepted after the verb too; True: a value follows.
_GLOBAL_OPTIONS = {"--json": False, "--quiet": False, "-q": False, "--root": True}

RefArgument = Annotated[
    str,
    typer.Argument(metavar="REF", help="NAME, NAME:VERSION, NAME:CHANNEL, NAME:production~1, NAME@sha256:…"),
]
ReasonOption = Annotated[str, typer.Option("--reason", help="Why; it goes to the log.")]
DryRunOption = Annotated[bool, typer.Option("--dry-run", help="Say what would change, and change nothing.")]
ExpectOption = Annotated[
    str | None,
    typer.Option(
        "--expect", metavar="VERSION", help="Only if the channel holds this version now, else exit 4."
    ),
]


@dataclasses.dataclass(frozen=True, slots=True)
class _Globals:
    root: Path
    json: bool
    quiet: bool
    actor: str | None
    settings: Settings

    def open(self) -> Registry:
        return Registry(self.root, self.actor, settings=self.settings)


@app.callback()
def _globals(
    context: typer.Context,
    root: Annotated[
        Path, typer.Option("--root", envvar="MODELREG_ROOT", metavar="DIR", help="The registry's directory.")
    ] = Path("models"),
    as_json: Annotated[bool, typer.Option("--json", help="JSON on stdout, for machines.")] = False,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="Names alone on stdout, errors alone on stderr.")
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
    settings = Settings() if config is None else load_settings(config)
    context.obj = _Globals(root, as_json, quiet, actor, settings)


@app.command()
def init(context: typer.Context) -> None:
    """Make an empty registry; an existing one stays as it is."""
    told: _Globals = context.obj
    registry = Registry.init(told.root, told.actor, settings=told.settings)
    _out(told, {"root": str(registry.root), "uuid": registry.uuid}, str(registry.root))


@app.command()
def register(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The model's name.")],
    files: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="FILE…",
            help="The model (LightGBM text), and files such as feature_importance.csv to seal with it.",
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
    meta: Annotated[
        str | None, typer.Option("--meta", metavar="JSON|@FILE", help="Further fields of metadata.json.")
    ] = None,
    notes: Annotated[str | None, typer.Option("--notes", metavar="S", help="Free text for people.")] = None,
) -> None:
    """Seal a version and print its reference."""
    told: _Globals = context.obj
    registry = told.open()
    estimators, artefacts = split_files(files or [], output or [], golden is not None and no_golden)
    made = registry.register(
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
    )
    shown = {**dataclasses.asdict(made), "path": str(made.path), "ref": made.ref}
    _out(told, shown, made.ref)


@app.command("list")
def list_(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="One model; default: all.")] = None,
    channel: Annotated[
        str | None, typer.Option("--channel", metavar="C", help="Held by this channel now.")
    ] = None,
    status: Annotated[
        str | None,
        typer.Option("--status", metavar="S", help="registered, validated, archived, failed or deleted."),
    ] = None,
    tag: Annotated[str | None, typer.Option("--tag", metavar="T", help="With this label.")] = None,
    task_type: Annotated[
        str | None, typer.Option("--task-type", metavar="T", help="Of this task type.")
    ] = None,
    minimum: Annotated[
        list[str] | None, typer.Option("--min", metavar="METRIC=X", help="At least X; may be repeated.")
    ] = None,
    sort: Annotated[
        str | None,
        typer.Option("--sort", metavar="METRIC", help="Best first by this metric; default: newest first."),
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", metavar="N", min=0, help="At most N.")] = None,
) -> None:
    """List versions, newest first."""
    told: _Globals = context.obj
    rows = select(
        told.open(),
        name,
        channel=channel,
        status=status,
        tag=tag,
        task_type=task_type,
        minima=[parse_minimum(text) for text in minimum or ()],
        sort=sort,
        limit=limit,
    )
    for row in rows:
        if row.get("problem") and not told.quiet:
            render.say(row["problem"])
    if told.json:
        render.print_json(rows)
    elif told.quiet:
        for row in rows:
            print(row["ref"])
    else:
        columns = ("NAME", "VERSION", "STATUS", "CHANNELS", "REGISTERED (UTC)", "METRICS", "TAGS")
        render.print_table(columns, render.version_rows(rows))


@app.command()
def show(context: typer.Context, ref: RefArgument) -> None:
    """Show one version: its state, and the facts sealed with it."""
    told: _Globals = context.obj
    registry = told.open()
    name, found = registry.resolve(ref)
    if found.status != "deleted":
        registry.metadata(name, found.version)
    row = describe(registry, registry.state(name), found.version)
    if told.json or told.quiet:
        _out(told, row, row["ref"])
    else:
        render.print_table(("FIELD", "VALUE"), render.version_facts(row))


@app.command()
def history(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="One model; default: all.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", metavar="N", min=0, help="At most N.")] = None,
) -> None:
    """Show the audit trail, newest first: who, when, why, from what to what."""
    told: _Globals = context.obj
    registry = told.open()
    entries = registry.history(name, limit=limit)
    for model in [name] if name else registry.models():
        if broken := registry.state(model).broken:
            render.say(f"model {model!r} is read-only: {broken}")
    if told.json:
        render.print_json([dataclasses.asdict(entry) for entry in entries])
    elif told.quiet:
        for entry in entries:
            print(f"{entry.name} {entry.seq}")
    else:
        render.print_table(
            ("NAME", "SEQ", "AT (UTC)", "ACTOR", "WHAT", "REASON"),
            [
                (
                    e.name,
                    str(e.seq),
                    e.at[:19].replace("T", " "),
                    e.actor,
                    render.what_happened(e),
                    e.reason or "-",
                )
                for e in entries
            ],
        )


@app.command()
def promote(
    context: typer.Context,
    ref: RefArgument,
    reason: ReasonOption,
    to: Annotated[
        str, typer.Option("--to", metavar="CHANNEL", help="The channel to point at it.")
    ] = "production",
    expect: ExpectOption = None,
    dry_run: DryRunOption = False,
) -> None:
    """Check a version's bytes and point a channel at it, in one commit."""
    told: _Globals = context.obj
    condition: dict[str, Any] = {} if expect is None else {"expect": expect}
    _committed(told, told.open().promote(ref, to=to, reason=reason, dry_run=dry_run, **condition), dry_run)


@app.command()
def rollback(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The model's name.")],
    reason: ReasonOption,
    to: Annotated[
        str | None,
        typer.Option("--to", metavar="REF", help="Where to; default: the previous distinct version."),
    ] = None,
    mark_failed: Annotated[
        bool, typer.Option("--mark-failed", help="Mark the version that is left, so that it can't come back.")
    ] = False,
    channel: Annotated[
        str, typer.Option("--channel", metavar="C", help="The channel to roll back.")
    ] = "production",
    expect: ExpectOption = None,
    dry_run: DryRunOption = False,
) -> None:
    """Point production back at the version before, in one commit."""
    told: _Globals = context.obj
    condition: dict[str, Any] = {} if expect is None else {"expect": expect}
    commit = told.open().rollback(
        name, to=to, mark_failed=mark_failed, reason=reason, channel=channel, dry_run=dry_run, **condition
    )
    _committed(told, commit, dry_run)


@app.command()
def fail(
    context: typer.Context, ref: RefArgument, reason: ReasonOption, dry_run: DryRunOption = False
) -> None:
    """Mark a version as failed: it can't be promoted any more."""
    told: _Globals = context.obj
    commit = told.open().fail(ref, reason=reason, dry_run=dry_run)
    shown = {**dataclasses.asdict(commit), "status": "failed", "dry_run": dry_run}
    _out(
        told,
        shown,
        f"{ref} {'would be' if dry_run else 'is'} marked as failed (record {commit.seq})",
        commit.name,
    )


@app.command()
def validate(context: typer.Context, ref: RefArgument) -> None:
    """Check a version's checksums, load it in a process of its own, and replay its golden rows."""
    told: _Globals = context.obj
    report = told.open().validate(ref)
    if told.json or told.quiet:
        _out(told, {**dataclasses.asdict(report), "ok": True}, f"{report.name}:{report.version}")
    else:
        render.print_table(("CHECK", "RESULT"), [(check.name, check.detail) for check in report.checks])


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
    """Move ``--json``, ``--quiet`` and ``--root`` before the verb, so that they work after it too."""
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


def _committed(told: _Globals, commit: Commit, dry_run: bool) -> None:
    verb = "would move" if dry_run else "moved"
    text = (
        f"{commit.name}: {commit.channel} {verb} from {commit.from_version or 'nothing'} to "
        f"{commit.to_version} (record {commit.seq})"
    )
    _out(told, {**dataclasses.asdict(commit), "dry_run": dry_run}, text, f"{commit.name}:{commit.to_version}")


def _out(told: _Globals, data: dict[str, Any], text: str, name: str | None = None) -> None:
    if told.json:
        render.print_json(data)
    else:
        print(name if told.quiet and name is not None else text)
