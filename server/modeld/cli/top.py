"""`modeld top`: what a daemon does, as a picture that is drawn again and again."""

from __future__ import annotations

import contextlib
import select
import sys
import termios
import time
import tty
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from rich import box
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from modeld.cli.observe import describe, quantiles
from modeld.cli.shared import cell
from modeld.client import AdminClient
from modeld.client.errors import ModeldError

#: Events that are shown.
_EVENTS = 8
#: Columns where stdout is no terminal.
_WIDE = 160
#: Columns of text that the whole table needs; a narrower terminal gets what is looked at first.
_WHOLE = 112
_NUMBERS = ("GEN", "REQ/S", "ERR/S", "P50 µs", "P99 µs", "WAITING", "REQUESTS")
_LESS = ("WARM", "TRIAL", "WORKERS", "REQUESTS")


@dataclass
class Sample:
    """What a daemon said at a time of the monotonic clock, in seconds."""

    at: float
    status: dict[str, Any]
    stats: dict[str, Any]
    events: list[dict[str, Any]]


def take(admin: AdminClient) -> Sample:
    """Ask for everything that a picture needs."""
    return Sample(
        time.monotonic(),
        admin.status(),
        admin.call("stats"),
        admin.call("history", limit=_EVENTS)["history"],
    )


def picture(before: Sample, now: Sample, width: int = _WIDE) -> Group:
    """Rates and latencies are those between the two samples, the rest is as of the later one."""
    status = now.status
    reasons = [f"degraded: {why}" for why in status["degraded"]]
    word = "not ready" if not status["ready"] else "degraded" if reasons else "healthy"
    table = Table(box=box.SIMPLE_HEAD, padding=0, pad_edge=False)
    rows = [_row(line, before, now) for line in status["models"]]
    for name in ("MODEL", "VERSION", "STATE", "WARM", "TRIAL", "WORKERS", *_NUMBERS):
        if width >= _WHOLE or name not in _LESS:
            number = name in _NUMBERS
            table.add_column(name, justify="right" if number else "left", no_wrap=number, overflow="fold")
    for row in rows:
        table.add_row(*(row[str(column.header)] for column in table.columns))
    return Group(
        Text(f"modeld, pid {status['pid']}, up {now.stats['uptime_s']:.0f} s: {word}", "bold"),
        *(Text(why, "yellow") for why in reasons),
        table,
        *(Text(describe(event), no_wrap=True, overflow="ellipsis") for event in now.events),
    )


def _row(line: dict[str, Any], before: Sample, now: Sample) -> dict[str, str]:
    """What stands under each heading."""
    name = line["model_name"]
    new, old = now.stats["models"].get(name, {}), before.stats["models"].get(name, {})
    if now.status["pid"] != before.status["pid"]:
        old = {}  # another process, which counts from zero
    seconds = max(now.at - before.at, 1e-9)
    earlier = old.get("latency_us", {})
    window = {at: count - earlier.get(at, 0) for at, count in new.get("latency_us", {}).items()}
    errors = sum(new.get("errors", {}).values()) - sum(old.get("errors", {}).values())
    trial = line["trial"]
    p50, p99 = map(cell, quantiles(window, (0.5, 0.99)))
    return {
        "MODEL": name,
        "VERSION": cell(line["version"]),
        "GEN": cell(line["generation"]),
        "STATE": cell(line["state"]),
        "WARM": cell(line["warm"]),
        "TRIAL": "-" if trial is None else f"{trial['version']} {trial['state']}",
        "WORKERS": str(
            sum(w["model_name"] == name and w["state"] == "serving" for w in now.status["workers"])
        ),
        "REQ/S": f"{(new.get('requests', 0) - old.get('requests', 0)) / seconds:.0f}",
        "ERR/S": f"{errors / seconds:.0f}",
        "P50 µs": p50,
        "P99 µs": p99,
        "WAITING": str(line["pending"]),
        "REQUESTS": str(line["requests"]),
    }


def watch(admin: AdminClient, interval_s: float, once: bool) -> None:
    """Draw until q, Ctrl-C, or, where stdout is no terminal or with `once`, a first picture."""
    console = Console(highlight=False)
    with contextlib.suppress(KeyboardInterrupt):
        _watch(admin, console, interval_s, once)


def _watch(admin: AdminClient, console: Console, interval_s: float, once: bool) -> None:
    before = take(admin)
    if once or not console.is_terminal:
        time.sleep(interval_s)
        wide = console if console.is_terminal else Console(highlight=False, width=_WIDE)
        wide.print(picture(before, take(admin), wide.width))
        return
    with _keys() as quit_within, Live(console=console, screen=True, auto_refresh=False) as live:
        while not quit_within(interval_s):
            try:
                now = take(admin)
            except ModeldError as e:
                live.update(Text(f"{e}", "red"), refresh=True)  # it may come back: a restart, say
                continue
            live.update(picture(before, now, console.width), refresh=True)
            before = now


@contextlib.contextmanager
def _keys() -> Iterator[Any]:
    """A function that waits so many seconds and tells whether to quit: q, or the end of the input."""
    descriptor = sys.stdin.fileno()
    there = sys.stdin.isatty()
    kept = termios.tcgetattr(descriptor) if there else None

    def quit_within(seconds: float) -> bool:
        try:
            if not there:
                time.sleep(seconds)
                return False
            return bool(select.select([descriptor], [], [], seconds)[0]) and sys.stdin.read(1) in (
                "q",
                "Q",
                "",
            )
        except KeyboardInterrupt:
            return True

    try:
        if kept is not None:
            tty.setcbreak(descriptor)
        yield quit_within
    finally:
        if kept is not None:
            termios.tcsetattr(descriptor, termios.TCSADRAIN, kept)
