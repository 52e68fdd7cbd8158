"""The verbs that change what a running daemon does, and `predict`."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path
from typing import Annotated, Any

import typer

from modeld.cli.shared import (
    TIMEOUT_S,
    JsonOption,
    ModelArgument,
    ReasonOption,
    admin_client,
    checked_endpoint,
    print_json,
)
from modeld.client import Client

_NamedModel = Annotated[
    str | None, typer.Option("--model", help="The model's name; may be left out where one is served.")
]

#: Seconds that a prediction may take.
_PREDICT_TIMEOUT_S = 60.0


def register(app: typer.Typer) -> None:
    """Add the verbs to `app`."""
    for verb in (reload, rollback, hold, release, drain, predict):
        app.command(verb.__name__)(verb)


def reload(
    context: typer.Context,
    model: ModelArgument = None,
    wait: Annotated[bool, typer.Option(help="Wait for the outcome.")] = True,
    force: Annotated[bool, typer.Option(help="Try a rejected version once more.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Look at the source now; exit status 9 if what is there was rejected."""
    timeout_s = context.obj.config().trial.timeout_s + 10
    with admin_client(context) as admin:
        admin.status()  # nobody there: say so soon, whatever the trial may take
        reply = admin.call("reload", model_name=model, wait=wait, force=force, timeout_s=timeout_s)
    _print_outcome(reply, as_json, lambda: _describe_reload(reply))
    if stale := reply.get("allow_list"):
        typer.echo(f"modeld: security.allow_list: {stale}", err=True)
        raise typer.Exit(1)


def rollback(
    context: typer.Context,
    reason: ReasonOption,
    model: ModelArgument = None,
    to: Annotated[
        str | None, typer.Option("--to", metavar="VERSION", help="Default: the previous production version.")
    ] = None,
    expect_generation: Annotated[
        int | None, typer.Option(help="Do nothing (exit status 4) unless this generation serves now.")
    ] = None,
    mark_failed: Annotated[bool, typer.Option(help="Mark the version rolled back from as failed.")] = True,
    as_json: JsonOption = False,
) -> None:
    """Point production back and serve that version at once."""
    timeout_s = context.obj.config().trial.timeout_s + 10
    with admin_client(context) as admin:
        admin.status()
        reply = admin.call(
            "rollback", model_name=model, to=to, reason=reason, expect_generation=expect_generation,
            mark_failed=mark_failed, timeout_s=timeout_s,
        )  # fmt: skip
    _print_outcome(
        reply,
        as_json,
        lambda: (
            "{model_name}: rolled back from {from} to {to}, generation {generation}".format_map(reply)
            + (f"; {reply['reason']}" if "reason" in reply else "")
        ),
    )


def hold(
    context: typer.Context, reason: ReasonOption, model: ModelArgument = None, as_json: JsonOption = False
) -> None:
    """Freeze swaps, around the open say; what serves goes on serving."""
    with admin_client(context) as admin:
        reply = admin.call("hold", model_name=model, reason=reason)
    _print_outcome(reply, as_json, lambda: f"held: {', '.join(reply['models'])}")


def release(
    context: typer.Context,
    model: ModelArgument = None,
    reason: Annotated[str, typer.Option("--reason", help="Why; it goes into the log.")] = "",
    as_json: JsonOption = False,
) -> None:
    """Resume swaps."""
    with admin_client(context) as admin:
        reply = admin.call("release", model_name=model, reason=reason)
    _print_outcome(reply, as_json, lambda: f"released: {', '.join(reply['models'])}")


def drain(context: typer.Context, as_json: JsonOption = False) -> None:
    """Stop admitting, answer what was admitted, and end the daemon."""
    with admin_client(context) as admin:
        reply = admin.call("drain")
    _print_outcome(reply, as_json, lambda: "draining")


def predict(
    context: typer.Context,
    model: _NamedModel = None,
    features: Annotated[
        str | None,
        typer.Option(
            "--features", metavar="JSON", help="One row or rows: numbers, or objects by feature name."
        ),
    ] = None,
    csv_file: Annotated[
        Path | None,
        typer.Option(
            "--csv", metavar="FILE", help="Rows with a header of feature names; an empty cell is missing."
        ),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Ask for predictions; prints one line a row."""
    if (features is None) == (csv_file is None):
        raise ValueError("predict takes either --features or --csv")
    if features is not None:
        try:
            rows = json.loads(features, parse_constant=_no_constant)
        except json.JSONDecodeError as e:
            raise ValueError(f"--features isn't JSON: {e}") from None
    else:
        rows = _read_csv(csv_file or Path())
    endpoint = checked_endpoint(context.obj.endpoint or context.obj.config().data_endpoints[0])
    with Client(endpoint, timeout_s=TIMEOUT_S, curve=context.obj.curve()) as client:
        client.live()  # nobody there: say so soon, whatever the prediction may take
        client.timeout_s = _PREDICT_TIMEOUT_S
        reply = client.call("predict", model_name=model, features=rows)
    if as_json:
        print_json(reply)
        return
    outputs = reply["outputs"]
    for row in range(outputs[0]["shape"][0]):
        typer.echo("\t".join(_row_of(output, row) for output in outputs))
    about = reply["parameters"]
    typer.echo(f"{reply['model_name']} {reply['model_version']} generation {about['generation']}", err=True)


def _row_of(output: dict[str, Any], row: int) -> str:
    width = output["shape"][1] if len(output["shape"]) > 1 else 1
    return "\t".join(repr(value) for value in output["data"][row * width : (row + 1) * width])


def _no_constant(name: str) -> None:
    """JSON has no NaN and no infinities; Python's reader lets them pass."""
    if name != "NaN":
        raise ValueError(f"--features: {name} is refused; null is a missing value")


def _read_csv(path: Path) -> list[dict[str, float | None]]:
    rows: list[dict[str, float | None]] = []
    try:
        with path.open(newline="", encoding="utf-8") as stream:
            reader = csv.DictReader(stream)
            for row in reader:
                try:
                    rows.append({name: float(cell) if cell else None for name, cell in row.items()})
                except (TypeError, ValueError) as e:
                    raise ValueError(f"{path}:{reader.line_num}: {e}") from None
                for name, value in rows[-1].items():
                    if value is not None and math.isinf(value):
                        raise ValueError(
                            f"{path}:{reader.line_num}: {name} is infinite; an empty cell is missing"
                        )
    except OSError as e:
        raise ValueError(f"{path}: can't be read: {e.strerror}") from None
    if not rows:
        raise ValueError(f"{path}: no rows below the header of feature names")
    return rows


def _print_outcome(reply: dict[str, Any], as_json: bool, line: Any) -> None:
    if as_json:
        print_json(reply)
    else:
        typer.echo(line())


def _describe_reload(reply: dict[str, Any]) -> str:
    lines = []
    for one in reply.get("models", [reply]):
        name = f"{one['model_name']}: " if "model_name" in one else ""
        if one["reloaded"]:
            lines.append(f"{name}now {one['version']}, generation {one['generation']}")
        else:
            serves = f"; {one['version']} serves" if one.get("version") else ""
            lines.append(f"{name}{one.get('reason', 'not reloaded')}{serves}")
    return "\n".join(lines)
