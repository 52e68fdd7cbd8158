"""One version: its facts, gates, card, lineage, features, and how it did on the validation rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from nicegui import events, ui

from modeld.http.page import charts
from modeld.http.page.artefacts import importance, predictions
from modeld.http.page.comparison import draw_importance
from modeld.http.page.frame import (
    Refused,
    Visit,
    element,
    facts,
    link,
    notice,
    number,
    panel,
    table,
    tag,
    text,
    when,
)
from modelreg import GateResult, Lineage
from modelreg.listing import describe
from modelreg.metrics import flatten


async def version(visit: Visit, name: str, version: str) -> None:
    with visit.frame(f"{name} {version}", "Registry"):
        link(f"All versions of {name}", "registry", name)()
        registry = await visit.read(visit.gateway.registry)
        ref = f"{name}:{version}"
        _, found = await visit.read(registry.resolve, ref)
        ref = f"{name}:{found.version}"
        row = await visit.read(lambda: describe(registry, registry.state(name), found.version))
        with element("div", "line"):
            text("h1", f"{name} {found.version}")
            tag(row["status"], {"validated": "good", "failed": "bad"}.get(row["status"], "plain"))()
            for channel in row["channels"]:
                tag(channel, "good" if channel == "production" else "plain")()
        if "problem" in row:
            notice(row["problem"])
        if row["metadata"] is None:
            return
        with element("div", "panels"):
            _facts(row, row["metadata"])
            with panel("Metrics"):
                table(
                    [("Metric", ""), ("Value", "num")],
                    [
                        (metric, number(value))
                        for metric, value in flatten(row["metadata"]["metrics"]).items()
                    ],
                    "It was registered without metrics.",
                )
            with panel("Gates of production"):
                gate_table(await visit.read(registry.gates, ref))
            with panel("Lineage", "wide"):
                _lineage(await visit.read(registry.lineage, ref))
            with panel("Feature importance"):
                await _importance(visit, ref)
            with panel("Validation: prediction against truth"):
                await _predictions(visit, ref)
            with panel("Model card", "wide"):
                await _card(visit, ref)


def _facts(row: Mapping[str, Any], metadata: Mapping[str, Any]) -> None:
    span = metadata.get("data_range") or {}
    with panel("Facts", "wide"):
        facts(
            {
                "Registered": when(row["at"]), "By": row["actor"], "Why this status": row["reason"],
                "Model type": metadata.get("model_type"), "Task": metadata.get("task_type"),
                "Features": len(metadata.get("features") or ()), "Outputs": ", ".join(metadata.get("outputs") or ()),
                "Data": " to ".join(str(span[end]) for end in ("start", "end") if span.get(end)),
                "Trained": metadata.get("trained_at"), "Parent": metadata.get("parent"),
                "Tags": ", ".join(row["tags"]), "Approved by": ", ".join(row["approvals"]),
                "Size": f"{(metadata.get('size_bytes') or 0) / 1024:,.0f} KiB",
                "Digest": row["digest"].removeprefix("sha256:")[:12],
            }
        )  # fmt: skip


def gate_table(found: list[GateResult]) -> None:
    table(
        [("Gate", ""), ("Rule", ""), ("Value", "num"), ("", "")],
        [
            (
                gate.gate, gate.rule, number(gate.value),
                tag("passed", "good") if gate.passed else tag("not passed", "bad"),
            )
            for gate in found
        ],
        "No gates are configured for this channel (gates in registry.yaml).",
    )  # fmt: skip


def _lineage(found: Lineage) -> None:
    relatives = [*reversed(found.ancestors), *found.descendants]
    if not relatives:
        text("p", "It derives from no other version, and none from it.", "quiet")
        return

    def follow(event: events.EChartPointClickEventArguments) -> None:
        name, _, version = str(event.name).partition(":")
        if version and event.data_type == "node":
            ui.navigate.to(f"/registry/{quote(name, safe='')}/{quote(version, safe='')}")

    graph = ui.echart(charts.lineage(found), on_point_click=follow).classes("chart")
    graph.props["aria-label"] = "Lineage; the links below lead to the same versions"
    with element("div", "line"):
        for each in relatives:
            link(each.ref, "registry", *each.ref.split(":", 1))()


async def _importance(visit: Visit, ref: str) -> None:
    known = await _or_notice(visit, importance, ref)
    if known:
        draw_importance({ref.partition(":")[2]: known}, [ref.partition(":")[2]])
    elif known is None:
        text("p", "No feature_importance.csv was sealed with it.", "quiet")


async def _predictions(visit: Visit, ref: str) -> None:
    pairs = await _or_notice(visit, predictions, ref)
    if pairs:
        shown = ref.partition(":")[2]
        chart = ui.echart(charts.scatter({shown: pairs}, [shown])).classes("chart tall")
        chart.props["aria-label"] = "Predictions against the truth of the validation rows"
    elif pairs is None:
        text("p", "No validation_predictions.csv was sealed with it.", "quiet")


async def _card(visit: Visit, ref: str) -> None:
    try:
        card = await visit.read(visit.gateway.registry().card, ref)
    except Refused as refused:
        notice(str(refused))
        return
    # Whoever may upload wrote it: the browser drops what isn't plain formatting.
    ui.markdown(card, sanitize=True).classes("prose")


async def _or_notice(visit: Visit, read: Any, ref: str) -> Any:
    """What `read` finds; () where it was refused, and that is said."""
    try:
        return await visit.read(read, visit.gateway.registry(), ref)
    except Refused as refused:
        notice(str(refused))
        return ()
