"""The verbs that only read: list, show, history, lineage, diff, compare, card."""

from __future__ import annotations

import dataclasses
from typing import Annotated

import typer

from modelreg import render
from modelreg.cli.app import app
from modelreg.cli.shared import Globals, RefArgument, out, say_broken, say_read_only, show_rows
from modelreg.clock import parse_moment
from modelreg.errors import IntegrityError
from modelreg.listing import broken, describe, parse_minimum, select


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
    config_hash: Annotated[
        str | None,
        typer.Option(
            "--config-hash", metavar="HASH", help="Whose configuration has this hash, or begins so."
        ),
    ] = None,
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
    after: Annotated[
        str | None,
        typer.Option(
            "--after",
            metavar="NAME:VERSION",
            help="The next page: what follows this version in the same order.",
        ),
    ] = None,
) -> None:
    """List versions, newest first."""
    told: Globals = context.obj
    registry = told.open()
    damaged = broken(registry, name)
    rows = select(
        registry,
        name,
        channel=channel,
        status=status,
        tag=tag,
        config_hash=config_hash,
        task_type=task_type,
        minima=[parse_minimum(text) for text in minimum or ()],
        sort=sort,
        limit=limit,
        after=after,
    )
    for model, why in damaged.items():
        say_read_only(model, why)
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
    if damaged and not rows:
        raise typer.Exit(IntegrityError.exit_status)


@app.command()
def show(context: typer.Context, ref: RefArgument) -> None:
    """Show one version: its state, and the facts sealed with it."""
    told: Globals = context.obj
    registry = told.open()
    name, found = registry.resolve(ref)
    say_broken(registry, ref)
    if found.status != "deleted":
        registry.metadata(name, found.version)
    row = describe(registry, registry.state(name), found.version)
    if told.json or told.quiet:
        out(told, row, row["ref"])
    else:
        render.print_table(("FIELD", "VALUE"), render.version_facts(row))


@app.command()
def history(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="One model; default: all.")] = None,
    limit: Annotated[int | None, typer.Option("--limit", metavar="N", min=0, help="At most N.")] = None,
    at: Annotated[
        str | None,
        typer.Option("--at", metavar="TIME", help="What each channel held then; a date: at its end, in UTC."),
    ] = None,
) -> None:
    """Show the audit trail, newest first: who, when, why, from what to what."""
    told: Globals = context.obj
    registry = told.open()
    if at is not None:
        held = registry.at(parse_moment(at), name)[:limit]
        show_rows(
            told,
            ("VERSION", "CHANNEL", "SINCE (UTC)", "ACTOR", "REASON"),
            [
                (f"{h.name}:{h.version}", h.channel, h.at[:19].replace("T", " "), h.actor, h.reason or "-")
                for h in held
            ],
            [dataclasses.asdict(h) for h in held],
        )
        return
    entries = registry.history(name, limit=limit)
    for model in [name] if name else registry.models():
        say_broken(registry, model)
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
def compare(
    context: typer.Context,
    refs: Annotated[
        list[str],
        typer.Argument(metavar="REF REF…", help="Two or more versions; the first is the yardstick."),
    ],
    metric: Annotated[
        list[str] | None, typer.Option("--metric", metavar="M", help="Only this metric; may be repeated.")
    ] = None,
    check: Annotated[
        bool,
        typer.Option("--check", help="Exit 8 if the last version is worse than the first in any of them."),
    ] = False,
) -> None:
    """Compare metrics side by side: a winner and the difference (last minus first) for each."""
    told: Globals = context.obj
    registry = told.open()
    rows = registry.compare(refs, metrics=metric or ())
    for ref in refs:
        say_broken(registry, ref)
    versions = list(rows[0].values) if rows else []
    show_rows(
        told,
        ("METRIC", *versions, "DIFFERENCE", "WINNER"),
        [
            (
                row.metric,
                *("-" if value is None else f"{value:g}" for value in row.values.values()),
                "-" if row.difference is None else f"{row.difference:+g}",
                row.winner or "-",
            )
            for row in rows
        ],
        [dataclasses.asdict(row) for row in rows],
    )
    worse = [row.metric for row in rows if row.worse]
    if check and worse:
        render.say(f"{versions[-1]} is worse than {versions[0]} in {', '.join(worse)}")
        raise typer.Exit(8)


@app.command()
def diff(
    context: typer.Context,
    left: Annotated[str, typer.Argument(metavar="REF", help="One version.")],
    right: Annotated[str, typer.Argument(metavar="REF", help="The other version.")],
) -> None:
    """Show which facts and files differ between two versions."""
    told: Globals = context.obj
    registry = told.open()
    rows = registry.diff(left, right)
    for ref in (left, right):
        say_broken(registry, ref)
    show_rows(
        told,
        ("FIELD", left, right),
        [(row.field, render.cell(row.left), render.cell(row.right)) for row in rows],
        [dataclasses.asdict(row) for row in rows],
    )


@app.command()
def lineage(context: typer.Context, ref: RefArgument) -> None:
    """Show what a version derives from, and what was derived from it."""
    told: Globals = context.obj
    registry = told.open()
    found = registry.lineage(ref)
    say_broken(registry, ref)
    relatives = [*reversed(found.ancestors), *found.descendants]
    rows = [(r.ref, f"{r.distance:+d}", r.parent or "-") for r in relatives]
    rows.insert(len(found.ancestors), (found.ref, "0", found.ancestors[0].ref if found.ancestors else "-"))
    show_rows(told, ("VERSION", "GENERATION", "DERIVED FROM"), rows, dataclasses.asdict(found))


@app.command()
def card(context: typer.Context, ref: RefArgument) -> None:
    """Print a version's model card (Markdown): use and limits, data, metrics, gates, features, lineage."""
    told: Globals = context.obj
    registry = told.open()
    text = registry.card(ref)
    say_broken(registry, ref)
    if told.json:
        render.print_json({"ref": ref, "card": text})
    else:
        print(text, end="")
