"""*Registry*: every model, and one model's versions with their gates and the trend of their metrics."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from urllib.parse import quote, urlencode

from nicegui import ui

from modeld.http.page import charts
from modeld.http.page.frame import (
    Cell,
    Visit,
    link,
    number,
    panel,
    table,
    tag,
    text,
    when,
)
from modelreg import GateResult, Registry, RegistryError
from modelreg.listing import select
from modelreg.metrics import flatten

#: So many versions are listed, the newest; all of them are in the API.
_VERSIONS = 100
#: So many metrics have a column, and so many are in the trend at first.
_COLUMNS, _DRAWN = 3, 1


async def models(visit: Visit) -> None:
    with visit.frame("Registry", "Registry"):
        text("h1", "Registry")
        rows = await visit.read(lambda: _models(visit.gateway.registry()))
        with panel("Models"):
            table(
                [("Model", ""), ("Versions", "num"), ("Channels", ""), ("Records", "num"), ("Last change", "keep")],
                rows,
                "No model is registered yet: modelreg register NAME FILE.",
            )  # fmt: skip


def _models(registry: Registry) -> list[list[Cell]]:
    rows: list[list[Cell]] = []
    for name in registry.models():
        try:
            state = registry.state(name)
            last = registry.history(name, limit=1)
        except RegistryError as error:
            rows.append([name, "", tag(f"can't be read: {error.message}", "bad"), "", ""])
            continue
        held = ", ".join(f"{each.channel} {each.version}" for each in state.channels.values() if each.version)
        living = sum(each.status != "deleted" for each in state.versions.values())
        channels: Cell = tag(f"read-only: {state.broken}", "bad") if state.broken else held
        rows.append(
            [link(name, "registry", name), living, channels, state.seq, when(last[0].at if last else "")]
        )
    return rows


async def model(visit: Visit, name: str) -> None:
    with visit.frame(name, "Registry"):
        text("h1", name)
        registry = await visit.read(visit.gateway.registry)
        rows = await visit.read(lambda: select(registry, name, limit=_VERSIONS))
        gates = await visit.read(lambda: {row["version"]: _gates(registry, row["ref"]) for row in rows})
        if not rows:
            text("p", "This model has no version that isn't deleted.", "quiet")
            return
        _versions(name, rows, gates)
        _trend(rows)


def _gates(registry: Registry, ref: str) -> list[GateResult] | str:
    try:
        return registry.gates(ref)
    except RegistryError as error:
        return error.message


def _versions(name: str, rows: Sequence[dict[str, Any]], gates: dict[str, list[GateResult] | str]) -> None:
    metrics = [flatten((row["metadata"] or {}).get("metrics", {})) for row in rows]
    columns = list(dict.fromkeys(metric for each in metrics for metric in each))[:_COLUMNS]
    chosen: dict[str, ui.checkbox] = {}

    def pick(version: str) -> Cell:
        def draw() -> None:
            chosen[version] = ui.checkbox().props(f'dense aria-label="compare {version}"')

        return draw

    def compare() -> None:
        picked = [version for version, box in chosen.items() if box.value][::-1]
        if len(picked) < 2:
            ui.notify("Choose two versions or more.", type="warning")
            return
        query = urlencode([("version", version) for version in picked])
        ui.navigate.to(f"/registry/{quote(name, safe='')}/compare?{query}")  # below the page's root

    with panel("Versions"):
        table(
            [
                ("Compare", ""), ("Version", ""), ("Status", ""), ("Channels", ""), ("Gates", ""),
                *((metric, "num") for metric in columns), ("Registered", "keep"), ("By", ""), ("Tags", ""),
            ],
            [
                (
                    pick(row["version"]), link(row["version"], "registry", name, row["version"]),
                    _status(row["status"]), ", ".join(row["channels"]), gate_tag(gates[row["version"]]),
                    *(number(values.get(metric)) for metric in columns),
                    when(row["at"]), row["actor"], ", ".join(row["tags"]),
                )
                for row, values in zip(rows, metrics, strict=True)
            ],
            "",
        )  # fmt: skip
        if len(rows) > 1:
            text("button", "Compare the chosen", "plainbtn", type="button").on("click", compare)
        if len(rows) == _VERSIONS:
            text("p", f"The newest {_VERSIONS}; all of them: GET /api/v1/models/{name}", "quiet")


def _status(status: str) -> Cell:
    return tag(status, {"validated": "good", "failed": "bad"}.get(status, "plain"))


def gate_tag(found: list[GateResult] | str) -> Cell:
    """Whether production's gates are passed; those that aren't by name."""
    if isinstance(found, str):
        return tag(found, "bad")
    missed = [str(gate) for gate in found if not gate.passed]
    if not found:
        return tag("none configured")
    return tag("; ".join(missed), "bad") if missed else tag(f"{len(found)} passed", "good")


def _trend(rows: Sequence[dict[str, Any]]) -> None:
    oldest_first = list(rows)[::-1]
    values = [flatten((row["metadata"] or {}).get("metrics", {})) for row in oldest_first]
    names = list(dict.fromkeys(name for each in values for name in each))
    with panel("Metrics over versions"):
        if not names:
            text("p", "No version has metrics.", "quiet")
            return

        def options(wanted: Sequence[str]) -> dict[str, Any]:
            drawn = {name: [each.get(name) for each in values] for name in wanted}
            return charts.trend([row["version"] for row in oldest_first], drawn)

        def again() -> None:
            chart.options.clear()
            chart.options.update(options(wanted.value))
            chart.update()

        wanted = ui.select(names, label="Metrics", value=names[:_DRAWN], multiple=True, on_change=again)
        wanted.props("use-chips").classes("wide-field")
        chart = ui.echart(options(names[:_DRAWN])).classes("chart tall")
        chart.props["aria-label"] = "Metrics over versions; the table above has the values"
