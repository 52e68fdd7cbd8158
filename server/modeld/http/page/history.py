"""*History*: the audit trail with filters, and what ran at a moment."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from nicegui import ui

from modeld.http.page.frame import Cell, Refused, Visit, element, link, notice, panel, table, text, when
from modelreg import HistoryEntry
from modelreg.clock import parse_moment

#: So many records are shown at first, and so many more each time.
_PAGE = 50
_ALL = "all"
#: What a record does → how the filter calls it.
_KINDS = {
    "register": "registered", "channel": "channel moved", "status": "status changed", "tag": "tagged",
    "untag": "untagged", "approve": "approved", "export": "exported",
}  # fmt: skip


@dataclass(slots=True)
class Filter:
    """What is asked for; empty is everything. `since`, `until`: texts as `parse_moment` takes them."""

    model: str = _ALL
    kind: str = _ALL
    actor: str = _ALL
    words: str = ""
    since: str = ""
    until: str = ""


def pick(entries: Iterable[HistoryEntry], wanted: Filter) -> list[HistoryEntry]:
    """The records that pass, in their order.

    Raises:
        UsageError: a moment isn't one.
    """
    since = parse_moment(_start(wanted.since)) if wanted.since.strip() else None
    until = parse_moment(wanted.until) if wanted.until.strip() else None
    words = wanted.words.lower().split()
    found = []
    for entry in entries:
        at = dt.datetime.fromisoformat(entry.at)
        told = f"{entry.name} {entry.actor} {entry.reason or ''} {'; '.join(told_of(entry))}".lower()
        if (
            wanted.actor in (_ALL, entry.actor)
            and (wanted.kind == _ALL or any(op["op"] == wanted.kind for op in entry.ops))
            and (since is None or at >= since)
            and (until is None or at <= until)
            and all(word in told for word in words)
        ):
            found.append(entry)
    return found


def told_of(entry: HistoryEntry) -> list[str]:
    """What a record did, a line for each operation."""
    changes = {change.channel: change for change in entry.changes}
    lines = []
    for op in entry.ops:
        match op["op"]:
            case "register":
                lines.append(f"registered {op['version']}")
            case "channel":
                change = changes[op["channel"]]
                line = f"{change.channel}: {change.from_version or 'none'} → {change.to_version or 'none'}"
                if op.get("overridden"):
                    line += f", gates overridden: {'; '.join(op['overridden'])}"
                lines.append(line)
            case "status":
                lines.append(f"{op['version']} is {op['status']}")
            case "tag" | "untag":
                sign = "+" if op["op"] == "tag" else "−"
                lines.append(f"{op['version']}: {sign}{op['tag']}")
            case "approve":
                lines.append(f"{op['version']} approved")
            case "export":
                lines.append(f"{op['version']} exported as {op['format']}")
            case other:
                lines.append(str(other))
    return lines


def _start(day: str) -> str:
    """A date alone means its beginning here, not its end."""
    return f"{day.strip()}T00:00:00Z" if len(day.strip()) == len("2024-01-15") else day


class _Trail:
    def __init__(self, visit: Visit, models: list[str], entries: list[HistoryEntry]) -> None:
        self._visit = visit
        self._filter = Filter()
        self._shown = _PAGE
        with panel("Audit trail"):
            with element("div", "line fields"):
                self._select("Model", "model", {name: name for name in models})
                self._select("What", "kind", _KINDS)
                self._select("Who", "actor", {actor: actor for actor in sorted({e.actor for e in entries})})
                self._input("Words", "words")
                self._input("From (UTC)", "since", "2026-01-15")
                self._input("To (UTC)", "until", "2026-01-15T12:30")
            self._list = element("div", **{"aria-live": "polite"})
        self._draw(entries)

    def _select(self, label: str, field: str, options: Mapping[str, str]) -> None:
        ui.select({_ALL: "all", **options}, label=label, value=_ALL, on_change=self._again).bind_value_to(
            self._filter, field
        )

    def _input(self, label: str, field: str, example: str = "") -> None:
        made = ui.input(label, placeholder=example, on_change=self._again).bind_value_to(self._filter, field)
        made.props["debounce"] = "300"

    async def _again(self) -> None:
        self._shown = _PAGE
        await self._load()

    async def _load(self) -> None:
        model = None if self._filter.model == _ALL else self._filter.model
        try:
            entries = await self._visit.read(lambda: self._visit.gateway.registry().history(model))
            found = await self._visit.read(pick, entries, self._filter)
        except Refused as refused:
            self._list.clear()
            with self._list:
                notice(str(refused))
            return
        self._draw(found)

    def _draw(self, found: list[HistoryEntry]) -> None:
        self._list.clear()
        with self._list:
            text("p", f"{len(found)} records" if len(found) != 1 else "1 record", "quiet")
            table(
                [("When", "keep"), ("Model", ""), ("Record", "num"), ("What", ""), ("Who", ""), ("Why", "")],
                [_row(entry) for entry in found[: self._shown]],
                "No record passes these filters.",
            )
            if len(found) > self._shown:

                async def more() -> None:
                    self._shown += _PAGE
                    await self._load()

                text("button", f"Show {_PAGE} more", "plainbtn", type="button").on("click", more)


def _row(entry: HistoryEntry) -> list[Cell]:
    def what() -> None:
        for line in told_of(entry):
            text("div", line)

    return [
        when(entry.at),
        link(entry.name, "registry", entry.name),
        entry.seq,
        what,
        entry.actor,
        entry.reason,
    ]


class _Moment:
    """What each channel held at a moment."""

    def __init__(self, visit: Visit) -> None:
        self._visit = visit
        with panel("What ran at this time?"):
            with element("div", "line fields"):
                now = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S")
                self._at = ui.input("Moment (UTC)", value=now).on("keydown.enter", self.ask)
                text("button", "Look", "plainbtn", type="button").on("click", self.ask)
            self._found = element("div", **{"aria-live": "polite"})

    async def ask(self, _event: Any = None) -> None:
        registry = self._visit.gateway.registry
        self._found.clear()
        try:
            held = await self._visit.read(lambda: registry().at(parse_moment(self._at.value)))
        except Refused as refused:
            with self._found:
                notice(str(refused))
            return
        with self._found:
            table(
                [("Model", ""), ("Channel", ""), ("Version", ""), ("Since", "keep"), ("Who", ""), ("Why", "")],
                [
                    (
                        each.name, each.channel, link(each.version, "registry", each.name, each.version),
                        when(each.at), each.actor, each.reason,
                    )
                    for each in held
                ],
                "No channel held a version then.",
            )  # fmt: skip


async def history(visit: Visit) -> None:
    with visit.frame("History", "History"):
        text("h1", "History")
        registry = await visit.read(visit.gateway.registry)
        models = await visit.read(registry.models)
        entries = await visit.read(registry.history)
        await _Moment(visit).ask()
        _Trail(visit, models, entries)
