"""The verbs that move channels: promote, rollback, approve."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from modelreg import render
from modelreg.cli.app import app
from modelreg.cli.shared import (
    DryRunOption,
    ExpectOption,
    Globals,
    OptionalReason,
    ReasonOption,
    RefArgument,
    changed,
    committed,
)
from modelreg.results import Commit


@app.command()
def promote(
    context: typer.Context,
    ref: RefArgument,
    reason: ReasonOption,
    to: Annotated[
        str, typer.Option("--to", metavar="CHANNEL", help="The channel to point at it.")
    ] = "production",
    expect: ExpectOption = None,
    override_gates: Annotated[
        bool, typer.Option("--override-gates", help="Promote though gates aren't passed; the log says which.")
    ] = False,
    allow_schema_change: Annotated[
        bool,
        typer.Option(
            "--allow-schema-change", help="Tell the daemon that other features than before are meant."
        ),
    ] = False,
    dry_run: DryRunOption = False,
) -> None:
    """Check a version's bytes and the channel's gates, and point the channel at it, in one commit."""
    told: Globals = context.obj
    condition: dict[str, Any] = {} if expect is None else {"expect": expect}
    commit = told.open().promote(
        ref,
        to=to,
        reason=reason,
        override_gates=override_gates,
        allow_schema_change=allow_schema_change,
        dry_run=dry_run,
        **condition,
    )
    for gate in commit.overridden:
        render.say(f"overridden: {gate}")
    committed(told, commit, dry_run)


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
    told: Globals = context.obj
    condition: dict[str, Any] = {} if expect is None else {"expect": expect}
    commit = told.open().rollback(
        name, to=to, mark_failed=mark_failed, reason=reason, channel=channel, dry_run=dry_run, **condition
    )
    committed(told, commit, dry_run)
    if not told.quiet:
        render.say(_after(commit))


def _after(commit: Commit) -> str:
    """What one more rollback would do: it may well go forward again."""
    if commit.next_rollback is None:
        return f"there is no other version for {commit.channel} to roll back to"
    again = f"a second rollback would point {commit.channel} at {commit.next_rollback}"
    if commit.next_rollback == commit.from_version:
        again += ", which was left just now (--to names another one, --mark-failed keeps it from coming back)"
    return again


@app.command()
def approve(
    context: typer.Context,
    ref: RefArgument,
    reason: OptionalReason = None,
    dry_run: DryRunOption = False,
) -> None:
    """Approve of a version, for gates that ask for it; whoever registered it can't."""
    told: Globals = context.obj
    changed(told, told.open().approve(ref, reason=reason, dry_run=dry_run), ref, "approved", dry_run)
