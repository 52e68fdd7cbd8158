"""*Live*: what serves, how much and how fast, and what happened."""

from __future__ import annotations

import datetime as dt
import time
from collections.abc import Mapping, Sequence
from typing import Any

from nicegui import ui

from modeld.http.page import charts
from modeld.http.page.frame import Visit, element, notice, panel, table, tag, text, when
from modeld.http.problems import ApiError
from modeld.http.tokens import READ

#: The page is brought up to date so often. Seconds.
_REFRESH_S = 1.0
#: So many events are listed.
_EVENTS = 30
#: What moves the line on the chart.
_MOVES = ("swap", "rollback")
_FACTS = (
    "version",
    "generation",
    "requests/s",
    "p50 µs",
    "p99 µs",
    "waiting",
    "serves since",
    "path",
    "warm",
)
_BIG = _FACTS[:5]


class _Model:
    """The panel of one model; drawn once, then brought up to date."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._values: dict[str, Any] = {}
        with element("section", "panel wide"):
            with element("div", "line"):
                text("h2", name)
                self._tags = element("div", "line")
            self._said: list[tuple[str, str]] | None = None
            with element("dl", "facts"):
                for fact in _FACTS:
                    with element("div"):
                        text("dt", fact)
                        self._values[fact] = text("dd", "–", "big" if fact in _BIG else "")
            with element("div", "panels"):
                self._rate = ui.echart(charts.rates()).classes("chart")
                self._latency = ui.echart(charts.latencies()).classes("chart")
            self._rate.props["aria-label"] = f"Requests and errors of {name} a second, swaps marked"
            self._latency.props["aria-label"] = f"Latencies of {name}, swaps marked"

    def show(self, status: Mapping[str, Any], visit: Visit, swaps: Sequence[tuple[int, str]]) -> None:
        points = list(visit.sampler.points.get(self.name, ()))
        last = points[-1] if points else None
        shown = {
            "version": status["version"] or "none",
            "generation": status["generation"],
            "requests/s": None if last is None else f"{last.per_s:,.0f}",
            "p50 µs": None if last is None or last.p50_us is None else f"{last.p50_us:,}",
            "p99 µs": None if last is None or last.p99_us is None else f"{last.p99_us:,}",
            "waiting": status["pending"],
            "serves since": when(status["since"]),
            "path": status["path"],
            "warm": ", ".join(status["warm_versions"]),
        }
        for fact, value in shown.items():
            self._values[fact].set_text("–" if value in (None, "") else str(value))
        said = _tags(status)
        if said != self._said:
            self._said = said
            self._tags.clear()
            with self._tags:
                for words, kind in said:
                    tag(words, kind)()
        charts.fill(self._rate.options, self._latency.options, points, swaps)
        self._rate.update()
        self._latency.update()


def _tags(status: Mapping[str, Any]) -> list[tuple[str, str]]:
    found = [("serving", "good") if status["version"] is not None else ("not serving", "bad")]
    if status["trial"] is not None:
        found.append((f"trial of {status['trial']['version']}: {status['trial']['state']}", ""))
    if status["held"] is not None:
        found.append((f"held: {status['held']}", ""))
    if status["last_rejection"] is not None:
        rejected = status["last_rejection"]
        found.append((f"rejected {rejected['version']}: {rejected['reason']}", "bad"))
    return found + [(warning, "") for warning in status["warnings"]]


class _Live:
    """The view. `refresh` brings everything up to date; what hasn't changed isn't drawn again."""

    def __init__(self, visit: Visit) -> None:
        self._visit = visit
        self._told: list[tuple[str, str]] = []
        self._events: list[dict[str, Any]] | None = None
        self._models: dict[str, _Model] = {}
        self._notices = element("div", "notices", **{"aria-live": "polite"})
        self._panels = element("div", "panels")
        with panel("Events"):
            self._list = element("div")
        self.refresh()

    def refresh(self) -> None:
        visit = self._visit
        try:
            visit.visitor.check(READ)
        except ApiError:
            ui.navigate.reload()  # the token has ended: the login says so
            return
        visit.sampler.watch()
        seen = visit.sampler.seen
        models = {each["model_name"]: each for each in seen.status.get("models", ())}
        self._tell(_problems(seen.problem, seen.answered_at, seen.status, models))
        if models.keys() != self._models.keys():
            self._panels.clear()
            with self._panels:
                self._models = {name: _Model(name) for name in models}
        for name, status in models.items():
            swaps = [
                (_ms(event["at"]), str(event.get("to")))
                for event in seen.events
                if event["model_name"] == name and event["kind"] in _MOVES
            ]
            self._models[name].show(status, visit, swaps)
        if seen.events != self._events:
            self._events = seen.events
            self._list.clear()
            with self._list:
                _event_table(seen.events[:_EVENTS])

    def _tell(self, told: list[tuple[str, str]]) -> None:
        if told == self._told:
            return
        self._told = told
        self._notices.clear()
        with self._notices:
            for words, kind in told:
                notice(words, kind)


def _problems(
    problem: str | None, answered_at: float | None, status: Mapping[str, Any], models: Mapping[str, Any]
) -> list[tuple[str, str]]:
    if problem is not None:
        last = (
            ""
            if answered_at is None
            else f" Below is what it said at {time.strftime('%H:%M:%SZ', time.gmtime(answered_at))}."
        )
        return [(f"The daemon doesn't answer: {problem} It is asked again every second.{last}", "bad")]
    told = [(f"Degraded: {reason}", "") for reason in status["degraded"]]
    if not models:
        hint = "Register a version and promote it: modelreg promote NAME:VERSION --reason WHY."
        told.append((f"The daemon runs and serves no model yet. {hint}", ""))
    return told


def _event_table(events: Sequence[Mapping[str, Any]]) -> None:
    kinds = {"swap": "good", "rollback": "", "rejected": "bad"}
    table(
        [("When", "keep"), ("What", ""), ("Model", ""), ("From", ""), ("To", ""), ("Who", ""), ("Why", "")],
        [
            (
                when(each["at"]), tag(each["kind"], kinds.get(each["kind"], "plain")), each["model_name"],
                each.get("from"), each.get("to"), each.get("actor"), each.get("reason"),
            )
            for each in events
        ],
        "No event is known of since the daemon started.",
    )  # fmt: skip


def _ms(moment: str) -> int:
    return int(dt.datetime.fromisoformat(moment).timestamp() * 1000)


async def live(visit: Visit) -> None:
    with visit.frame("Live", "Live"):
        text("h1", "Live")
        visit.sampler.watch()
        view = _Live(visit)
        ui.timer(_REFRESH_S, view.refresh)
