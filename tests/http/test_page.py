"""The page's parts that need no browser; tests/system/test_page.py looks at the whole."""

from __future__ import annotations

import asyncio
import sys

import pytest
from starlette.requests import Request

from modeld.config import Config, HttpSettings
from modeld.http.app import create_app
from modeld.http.page import charts
from modeld.http.page.history import Filter, pick, told_of
from modeld.http.page.plain import failed
from modeld.http.page.sampler import between
from modelreg import ConfigError, HistoryEntry, Lineage, UsageError
from modelreg.history import ChannelChange
from modelreg.lineage import trace


def entry(seq: int, at: str, actor: str, reason: str | None, *ops: dict[str, object]) -> HistoryEntry:
    moves = tuple(
        ChannelChange(str(op["channel"]), None, str(op["version"])) for op in ops if op["op"] == "channel"
    )
    return HistoryEntry("alpha", seq, at, actor, reason, ops, moves)


TRAIL = [
    entry(
        2,
        "2026-01-15T09:00:00Z",
        "bob",
        "Better",
        {"op": "channel", "channel": "production", "version": "1.0.0"},
    ),
    entry(1, "2026-01-14T12:00:00Z", "ann", None, {"op": "register", "version": "1.0.0", "digest": "d"}),
]


def test_the_page_without_its_extra_is_said_to_need_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """`http.page: true` without NiceGUI is one clear error; without the setting nothing of it is imported."""
    for name in [name for name in sys.modules if name.startswith("modeld.http.page")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "nicegui", None)
    with pytest.raises(ConfigError, match=r"modeld\[ui\]"):
        create_app(Config(http=HttpSettings(page=True)))
    create_app(Config())


def test_rates_and_quantiles_are_those_between_two_looks() -> None:
    """What was counted before the first look isn't counted again; nothing answered has no quantile."""
    before = {"requests": 100, "errors": {"BUSY": 1}, "latency_us": {"10": 100}}
    after = {
        "requests": 300,
        "errors": {"BUSY": 1, "TOO_LARGE": 4},
        "latency_us": {"10": 100, "20": 190, "500": 10},
    }
    point = between(before, after, 2.0, 1000.0)
    assert (point.at_ms, point.per_s, point.errors_per_s, point.p50_us, point.p99_us) == (
        1_000_000,
        100,
        2,
        20,
        500,
    )
    assert between(after, after, 1.0, 1.0).p50_us is None


@pytest.mark.parametrize(
    ("wanted", "found"),
    [
        (Filter(), [2, 1]),
        (Filter(actor="ann"), [1]),
        (Filter(kind="channel"), [2]),
        (Filter(words="BETTER production"), [2]),
        (Filter(since="2026-01-15"), [2]),
        (Filter(until="2026-01-14"), [1]),
        (Filter(since="2026-01-14", until="2026-01-14T11:00"), []),
    ],
)
def test_the_trail_is_narrowed_down(wanted: Filter, found: list[int]) -> None:
    """A date alone is the day's beginning in `since` and its end in `until`."""
    assert [each.seq for each in pick(TRAIL, wanted)] == found


def test_a_moment_that_is_none_is_refused() -> None:
    """The filter says what it would take."""
    with pytest.raises(UsageError, match="2024-01-15"):
        pick(TRAIL, Filter(since="soon"))


def test_a_record_is_told_in_words() -> None:
    """From what to what."""
    assert told_of(TRAIL[0]) == ["production: none → 1.0.0"]
    assert told_of(TRAIL[1]) == ["registered 1.0.0"]


def test_lineage_is_drawn_with_every_relative_and_edge() -> None:
    """Ancestors on the left, children on the right."""
    found: Lineage = trace("a:2", {"a:2": "a:1", "a:1": "gone:1", "a:3": "a:2", "b:1": "a:2"})
    (graph,) = charts.lineage(found)["series"]
    across = {node["name"]: node["x"] for node in graph["data"]}
    assert across["gone:1"] < across["a:1"] < across["a:2"] < across["a:3"] == across["b:1"]
    edges = {(edge["source"], edge["target"]) for edge in graph["links"]}
    assert edges == {("gone:1", "a:1"), ("a:1", "a:2"), ("a:2", "a:3"), ("a:2", "b:1")}


def test_a_version_has_one_colour_in_every_chart_of_a_view() -> None:
    """Also where another version lacks what a chart shows."""
    versions = ["1.0.0", "1.1.0", "1.2.0"]
    bars = charts.bars(["a"], {"1.1.0": [1], "1.2.0": [2]}, versions)["series"]
    points = charts.scatter({"1.2.0": [(0, 0)]}, versions)["series"]
    assert [each["itemStyle"]["color"] for each in bars] == charts.COLOURS[1:3]
    assert points[0]["itemStyle"]["color"] == charts.COLOURS[2]


def test_an_error_of_ours_keeps_to_the_log() -> None:
    """A visitor reads that there was one, not what it was."""
    scope = {"type": "http", "method": "GET", "path": "/ui/registry", "headers": [], "query_string": b""}
    answer = asyncio.run(failed(Request(scope), ValueError("a secret")))
    assert answer.status_code == 500
    assert b"error of ours" in answer.body
    assert b"secret" not in answer.body
