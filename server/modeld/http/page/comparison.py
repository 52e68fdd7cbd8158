"""Versions side by side: metrics with a winner each, features, predictions, and what differs between the facts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

from nicegui import ui

from modeld.http.page import charts
from modeld.http.page.artefacts import importance, predictions
from modeld.http.page.frame import Cell, Refused, Visit, element, link, notice, number, panel, table, text
from modelreg import FieldDifference, MetricComparison

#: So many metrics have a chart each, and so many features are drawn.
_CHARTS, _FEATURES = 8, 15
#: Versions at most; the API takes as many.
_MOST = 20


async def compare(visit: Visit, name: str, asked: Sequence[str]) -> None:
    """`asked`: versions, or channels for what they hold now."""
    with visit.frame(f"Compare {name}", "Registry"):
        link(f"All versions of {name}", "registry", name)()
        text("h1", f"{name}: {' and '.join(asked[:_MOST]) or 'compare'}")
        registry = await visit.read(visit.gateway.registry)
        found = [await visit.read(registry.resolve, f"{name}:{each}") for each in asked[:_MOST]]
        picked = list(dict.fromkeys(version.version for _, version in found))
        if len(picked) < 2:
            notice("Choose two versions or more on the model's page.", "")
            return
        refs = [f"{name}:{version}" for version in picked]
        metrics = await visit.read(registry.compare, refs)
        with element("div", "panels"):
            with panel("Metrics", "wide"):
                metric_table(metrics, refs)
            with panel("Metrics, drawn", "wide"), element("div", "panels small"):
                for row in metrics[:_CHARTS]:
                    values = {ref.partition(":")[2]: [value] for ref, value in row.values.items()}
                    chart = ui.echart(charts.bars([row.metric], values, picked)).classes("chart low")
                    chart.props["aria-label"] = f"{row.metric}; the table above has the values"
            await _importance(visit, name, picked)
            await _predictions(visit, name, picked)
            for before, after in pairwise(refs):
                with panel(f"What differs: {before.partition(':')[2]} → {after.partition(':')[2]}", "wide"):
                    differences(await visit.read(registry.diff, before, after))


def metric_table(metrics: Sequence[MetricComparison], refs: Sequence[str]) -> None:
    """A row for each metric: every version's value, the winner, and the last one's distance from the first."""

    def cell(row: MetricComparison, ref: str) -> Cell:
        shown = number(row.values[ref])
        return (lambda: text("span", f"{shown} ★", "best")) if row.winner == ref else shown

    table(
        [
            ("Metric", ""), ("Better", ""), *((ref.partition(":")[2], "num") for ref in refs),
            ("Last − first", "num"),
        ],
        [
            (row.metric, row.better or "unknown", *(cell(row, ref) for ref in refs), _signed(row.difference))
            for row in metrics
        ],
        "None of them has metrics.",
    )  # fmt: skip


def differences(found: Sequence[FieldDifference]) -> None:
    table(
        [("Field", ""), ("Before", ""), ("After", "")],
        [(each.field, _short(each, each.left), _short(each, each.right)) for each in found],
        "The facts and the files are the same.",
    )


async def _importance(visit: Visit, name: str, versions: Sequence[str]) -> None:
    found: dict[str, Mapping[str, float]] = {}
    with panel("Feature importance"):
        for version in versions:
            try:
                known = await visit.read(importance, visit.gateway.registry(), f"{name}:{version}")
            except Refused as refused:
                notice(str(refused))
                continue
            if known:
                found[version] = known
        if not found:
            text("p", "None of them has feature_importance.csv.", "quiet")
            return
        draw_importance(found, versions)


async def _predictions(visit: Visit, name: str, versions: Sequence[str]) -> None:
    with panel("Validation: prediction against truth"):
        found = {}
        for version in versions:
            try:
                pairs = await visit.read(predictions, visit.gateway.registry(), f"{name}:{version}")
            except Refused as refused:
                notice(str(refused))
                continue
            if pairs:
                found[version] = pairs
        if not found:
            text("p", "None of them has validation_predictions.csv.", "quiet")
            return
        chart = ui.echart(charts.scatter(found, versions)).classes("chart tall")
        chart.props["aria-label"] = "Predictions against the truth of the validation rows"


def draw_importance(found: Mapping[str, Mapping[str, float]], among: Sequence[str]) -> None:
    """Bars of the features that are most important to the last version; `among`: all versions of the view."""
    order = list(dict.fromkeys(name for known in [*found.values()][::-1] for name in known))
    names = order[:_FEATURES]
    groups = {version: [known.get(name) for name in names] for version, known in found.items()}
    chart = ui.echart(charts.bars(names, groups, among)).classes("chart tall")
    chart.props["aria-label"] = "Importance of the features"
    if len(order) > _FEATURES:
        text("p", f"The first {_FEATURES} of {len(order)} features.", "quiet")


def _signed(value: float | None) -> str:
    return "–" if value is None else f"{value:+.4g}"


def _short(field: FieldDifference, value: object) -> str:
    """A hash or a long list isn't read, only compared."""
    if isinstance(value, list | tuple):
        told = ", ".join(map(str, value)) or "–"
    else:
        told = "–" if value is None else str(value)
    most = 12 if field.field.startswith("files.") else 120
    return told if len(told) <= most else f"{told[:most]}…"
