"""Options of the charts (Apache ECharts), from plain values. Pure; colours are readable on light and on dark."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from modeld.http.page.sampler import Point
from modelreg import Lineage

#: Apart for the colour-blind as well (Okabe and Ito, 2008), and for eyes in the dark.
COLOURS = ["#3b8eea", "#e08e0b", "#17a277", "#cc6fa5", "#8b7bd8", "#d5542b", "#5fb4e0", "#a8a12a"]
_QUIET = "#7d8898"
_LINE = "rgba(125, 136, 152, 0.25)"

Options = dict[str, Any]


def _base(**more: Any) -> Options:
    return {
        "color": COLOURS,
        "animation": False,
        "useUTC": True,
        "textStyle": {"color": _QUIET, "fontFamily": "system-ui, sans-serif"},
        "grid": {"left": 8, "right": 28, "top": 36, "bottom": 8, "containLabel": True},
        "tooltip": {"trigger": "axis", "confine": True, "renderMode": "richText"},
        "legend": {
            "top": 0,
            "left": 0,
            "type": "scroll",
            "icon": "roundRect",
            "textStyle": {"color": _QUIET},
        },
        **more,
    }


def _value_axis(**more: Any) -> Options:
    shown = {"lineStyle": {"color": _LINE}}
    name = {"color": _QUIET, "align": "left"}
    return {
        "type": "value",
        "splitLine": shown,
        "axisLabel": {"color": _QUIET},
        "nameTextStyle": name,
        **more,
    }


def _category_axis(names: Sequence[str], **more: Any) -> Options:
    return {"type": "category", "data": list(names), "axisLabel": {"color": _QUIET}, **more}


def _over_time(names: Sequence[str], **axis_options: Any) -> Options:
    lines = [{"name": name, "type": "line", "showSymbol": False, "data": []} for name in names]
    axis = {"type": "time", "axisLabel": {"color": _QUIET, "hideOverlap": True}, "splitLine": {"show": False}}
    return _base(xAxis=axis, yAxis=_value_axis(**axis_options), series=lines)


def rates() -> Options:
    return _over_time(["requests/s", "errors/s"], min=0)


def latencies() -> Options:
    """Logarithmic: beside one slow reply in a hundred the median would lie on the floor."""
    return _over_time(["p50 µs", "p99 µs"], type="log", min=1)


def fill(rate: Options, latency: Options, points: Sequence[Point], swaps: Sequence[tuple[int, str]]) -> None:
    """Put points into both charts, and a line with its version at each swap (Unix time in ms, version)."""
    columns = (
        (rate, [[p.at_ms, round(p.per_s, 1)] for p in points], [[p.at_ms, round(p.errors_per_s, 1)] for p in points]),
        (latency, [[p.at_ms, _shown(p.p50_us)] for p in points], [[p.at_ms, _shown(p.p99_us)] for p in points]),
    )  # fmt: skip
    first = points[0].at_ms if points else 0
    marks = [{"xAxis": at, "label": {"formatter": version}} for at, version in swaps if at >= first]
    for chart, *data in columns:
        for line, values in zip(chart["series"], data, strict=True):
            line["data"] = values
        chart["series"][0]["markLine"] = {
            "symbol": "none",
            "silent": True,
            "lineStyle": {"color": COLOURS[5], "type": "solid", "width": 1.5},
            "label": {"color": COLOURS[5], "position": "insideEndTop"},
            "data": marks if points else [],
        }


def _shown(us: int | None) -> int | None:
    return None if us is None else max(us, 1)


def trend(versions: Sequence[str], metrics: Mapping[str, Sequence[float | None]]) -> Options:
    """Metrics over versions, the oldest first."""
    lines = [
        {"name": name, "type": "line", "data": list(values), "connectNulls": True}
        for name, values in metrics.items()
    ]
    return _base(xAxis=_category_axis(versions), yAxis=_value_axis(scale=True), series=lines)


def bars(names: Sequence[str], groups: Mapping[str, Sequence[float | None]], among: Sequence[str]) -> Options:
    """Horizontal bars, the first name on top. A group's colour is its place in `among`, in every chart of a view."""
    series = [
        {"name": group, "type": "bar", "data": list(values), "itemStyle": {"color": _colour(group, among)}}
        for group, values in groups.items()
    ]
    return _base(xAxis=_value_axis(), yAxis=_category_axis(names, inverse=True), series=series)


def scatter(groups: Mapping[str, Sequence[tuple[float, float]]], among: Sequence[str]) -> Options:
    """Predictions (up) against the truth (right); colours as those of `bars`."""
    series = [
        {
            "name": group,
            "type": "scatter",
            "symbolSize": 4,
            "itemStyle": {"opacity": 0.55, "color": _colour(group, among)},
            "data": list(data),
        }
        for group, data in groups.items()
    ]
    title = {"nameLocation": "middle", "nameTextStyle": {"color": _QUIET, "align": "center"}, "scale": True}
    across = _value_axis(**title, name="truth", nameGap=26)
    up = _value_axis(**title, name="prediction", nameGap=42)
    chart = _base(xAxis=across, yAxis=up, series=series)
    chart["tooltip"] = {"trigger": "item", "confine": True, "renderMode": "richText"}
    chart["grid"] |= {"left": 24, "bottom": 28}
    return chart


def _colour(group: str, among: Sequence[str]) -> str:
    return COLOURS[list(among).index(group) % len(COLOURS)]


def lineage(found: Lineage) -> Options:
    """Ancestors on the left, descendants on the right; the version itself in the middle, larger."""
    distances = {found.ref: 0} | {each.ref: each.distance for each in (*found.ancestors, *found.descendants)}
    columns: dict[int, list[str]] = {}
    for ref, distance in distances.items():
        columns.setdefault(distance, []).append(ref)
    nodes = [
        {
            "name": ref,
            "x": distance * 160,
            "y": (at - (len(refs) - 1) / 2) * 60,
            "symbolSize": 22 if ref == found.ref else 14,
            "itemStyle": {"color": COLOURS[1] if ref == found.ref else COLOURS[0]},
        }
        for distance, refs in columns.items()
        for at, ref in enumerate(refs)
    ]
    parents = {each.ref: each.parent for each in (*found.ancestors, *found.descendants)}
    if found.ancestors:
        parents[found.ref] = found.ancestors[0].ref
    edges = [{"source": parent, "target": ref} for ref, parent in parents.items() if parent in distances]
    graph = {
        "type": "graph",
        "layout": "none",
        "data": nodes,
        "links": edges,
        "label": {"show": True, "position": "bottom", "color": _QUIET},
        "edgeSymbol": ["none", "arrow"],
        "lineStyle": {"color": _QUIET, "width": 1.5},
        "preserveAspect": "contain",
        "left": 70, "right": 70, "top": 30, "bottom": 50,
    }  # fmt: skip
    return {"animation": False, "color": COLOURS, "series": [graph]}
