"""The verbs that look at a running daemon and change nothing: status, stats, history, events, top."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Annotated, Any

import typer

from modeld.cli.shared import (
    JsonOption,
    ModelArgument,
    admin_client,
    cell,
    checked_endpoint,
    print_json,
    second,
)
from modeld.client.errors import NotReady, RequestTimeout
from modeld.front.stats import lower_bound_us
from modelreg.render import print_table

#: Seconds between two looks while waiting.
_POLL_S = 0.05
#: The kinds of events that a daemon publishes.
KINDS = ("swap", "rollback", "rejected", "hold", "state")


def register(app: typer.Typer) -> None:
    """Add the verbs to `app`."""
    for verb in (status, stats, history, events, top):
        app.command(verb.__name__)(verb)


def status(
    context: typer.Context,
    as_json: JsonOption = False,
    wait: Annotated[float, typer.Option(help="Wait for a ready daemon at most so long, seconds.")] = 0.0,
) -> None:
    """What is served, since when, how fast; exit status 0 healthy, 1 degraded, 3 not ready, 7 nobody answers."""
    deadline = time.monotonic() + wait
    with admin_client(context) as admin:
        while True:
            try:
                reply = admin.status()
            except (RequestTimeout, NotReady):
                if time.monotonic() > deadline:
                    raise
                continue
            if reply["ready"] or time.monotonic() > deadline:
                break
            time.sleep(_POLL_S)
    if as_json:
        print_json(reply)
    else:
        _print_status(reply)
    raise typer.Exit(3 if not reply["ready"] else 1 if reply["degraded"] else 0)


def history(
    context: typer.Context,
    model: ModelArgument = None,
    limit: Annotated[int, typer.Option(help="How many at most.")] = 20,
    as_json: JsonOption = False,
) -> None:
    """This daemon's decisions since its start, newest first (modelreg history has the registry's whole story)."""
    with admin_client(context) as admin:
        reply = admin.call("history", model_name=model, limit=limit)
    if as_json:
        print_json(reply)
        return
    keys = ("model_name", "from", "to", "generation", "actor", "reason")
    print_table(
        ("AT (UTC)", "WHAT", "MODEL", "FROM", "TO", "GEN", "ACTOR", "REASON"),
        [
            (second(entry["at"]), _what(entry), *(cell(entry.get(key)) for key in keys))
            for entry in reply["history"]
        ],
    )


def stats(context: typer.Context, as_json: JsonOption = False) -> None:
    """Counters and latencies since the start; --json has the whole histograms."""
    with admin_client(context) as admin:
        reply = admin.call("stats")
    if as_json:
        print_json(reply)
        return
    rows = [
        (name, measure, str(value))
        for name, model in reply["models"].items()
        for measure, value in _measures(model)
    ]
    keys = ("dropped_replies", "dropped_messages", "zygote_restarts")
    rows += [("-", f"error {code}", str(count)) for code, count in reply["errors"].items()]
    rows += [("-", key, str(reply[key])) for key in keys]
    print_table(("MODEL", "WHAT", "VALUE"), rows)
    typer.echo(f"since {reply['uptime_s']:.0f} s")


def events(
    context: typer.Context,
    kinds: Annotated[
        list[str] | None, typer.Argument(metavar="[KIND]...", help=f"Only these: {', '.join(KINDS)}.")
    ] = None,
    model: Annotated[str | None, typer.Option("--model", help="Only of this model.")] = None,
    count: Annotated[int, typer.Option(help="End after so many; 0: go on until Ctrl-C.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="One JSON object a line, as published.")] = False,
) -> None:
    """Follow what happens, as it happens (--endpoint is the events endpoint here)."""
    from modeld.cli.follow import follow

    for kind in kinds or []:
        if kind not in KINDS:
            raise ValueError(f"no event is a {kind!r}; there are {', '.join(KINDS)}")
    endpoint = checked_endpoint(context.obj.endpoint or context.obj.config().events_endpoint)
    for number, event in enumerate(follow(endpoint, kinds or KINDS, model, context.obj.curve()), 1):
        typer.echo(_json_line(event) if as_json else describe(event))
        if number == count:
            return


def top(
    context: typer.Context,
    interval: Annotated[
        float, typer.Option(min=0.1, help="Seconds between two pictures, and that rates are over.")
    ] = 1.0,
    once: Annotated[bool, typer.Option("--once", help="One picture, then end.")] = False,
) -> None:
    """A live view: models, rates, latencies, queues, workers, the last events. q or Ctrl-C ends it."""
    from modeld.cli.top import watch

    with admin_client(context) as admin:
        watch(admin, interval, once)


def _print_status(reply: dict[str, Any]) -> None:
    keys = (
        "model_name",
        "version",
        "generation",
        "state",
        "warm",
        "path",
        "requests",
        "errors",
        "p50_us",
        "p99_us",
    )
    print_table(
        (
            "MODEL",
            "VERSION",
            "GEN",
            "STATE",
            "WARM",
            "PATH",
            "REQUESTS",
            "ERRORS",
            "P50 µs",
            "P99 µs",
            "SINCE (UTC)",
        ),
        [(*(cell(line.get(key)) for key in keys), second(line["since"])) for line in reply["models"]],
    )
    verdict = "not ready" if not reply["ready"] else "degraded" if reply["degraded"] else "healthy"
    typer.echo(
        f"{verdict}; watching: {reply['watching']}; pid {reply['pid']}, since {second(reply['started_at'])}"
    )
    for line in reply["models"]:
        name = line["model_name"]
        if trial := line.get("trial"):
            stage = "no worker has begun yet" if trial["state"] == "absent" else trial["state"]
            typer.echo(f"{name}: {trial['version']} is on trial: {stage}")
        if line.get("held"):
            waits = f"; {line['waiting']} waits" if line.get("waiting") else ""
            typer.echo(f"{name}: held: {line['held']}{waits}")
        if rejection := line.get("last_rejection"):
            typer.echo(
                f"{name}: {rejection['version']} rejected at {second(rejection['at'])}: {rejection['reason']}"
            )
        for warning in line.get("warnings", ()):
            typer.echo(f"{name}: {line['version']}: {warning}")
    for reason in reply["degraded"]:
        typer.echo(f"degraded: {reason}")


def describe(event: dict[str, Any]) -> str:
    """An event in one line."""
    told = [second(event["at"]), _what(event), event["model_name"]]
    if event.get("from") != event.get("to"):
        told.append(f"{cell(event.get('from'))} → {cell(event.get('to'))}")
    told.append(f"generation {cell(event.get('generation'))}")
    told += [str(event[key]) for key in ("actor", "reason") if event.get(key)]
    return "  ".join(told)


def _json_line(event: dict[str, Any]) -> str:
    return json.dumps(event)


def _measures(model: dict[str, Any]) -> list[tuple[str, object]]:
    told: list[tuple[str, object]] = [("requests", model["requests"]), ("waiting", model["pending"])]
    told += [(f"error {code}", count) for code, count in model["errors"].items()]
    told += [(f"event {kind}", count) for kind, count in model["events"].items()]
    for name in ("latency_us", "predict_us"):
        found = quantiles(model[name], (0.5, 0.9, 0.99, 0.999, 1.0))
        told.append((f"{name} p50, p90, p99, p99.9, max", " ".join(map(cell, found))))
    return told


def quantiles(histogram: dict[str, int], fractions: Sequence[float]) -> list[int | None]:
    """Of a histogram as `stats` gives it: the least duration in µs of the bucket that each fraction falls into."""
    total = sum(histogram.values())
    buckets = sorted((int(at), count) for at, count in histogram.items() if count)
    found: list[int | None] = []
    for fraction in fractions:
        left = max(1, round(fraction * total))
        for at, count in buckets:
            left -= count
            if left <= 0:
                found.append(lower_bound_us(at))
                break
        else:
            found.append(None)
    return found


def _what(event: dict[str, Any]) -> str:
    """The event's kind, and of a hold whether it is over."""
    kind = str(event["kind"])
    return f"{kind} (released)" if kind == "hold" and not event.get("held") else kind
