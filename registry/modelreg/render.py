"""How the command shows its data: tables for people, JSON for machines, names alone with ``--quiet``."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from modelreg.history import HistoryEntry
from modelreg.metrics import flatten


def print_json(value: Any) -> None:
    """One JSON document on stdout."""
    print(json.dumps(value, indent=2, ensure_ascii=False))


def say(message: str) -> None:
    """A message for people, on stderr; each of its lines says whose it is."""
    for line in message.splitlines() or [""]:
        print(f"modelreg: {line}", file=sys.stderr)


def print_table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """A table on stdout; as wide as it needs where stdout isn't a terminal, so that nothing is cut off."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        table.add_row(*row)
    console = Console(markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        console = Console(markup=False, highlight=False, emoji=False, width=10_000)
        with console.capture() as capture:
            console.print(table)
        print("\n".join(line.rstrip() for line in capture.get().splitlines()))
        return
    console.print(table)


@contextmanager
def progress_bar(total: int) -> Iterator[Callable[[str], None]]:
    """A bar on stderr; the function that it gives moves it on by one, and names what is being done."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=total)

        def tick(doing: str) -> None:
            progress.update(task, advance=1, description=doing)

        yield tick


@contextmanager
def byte_bar(doing: str, total: int) -> Iterator[Callable[[int], None]]:
    """A bar on stderr; the function that it gives moves it on by so many bytes."""
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(doing, total=total)
        yield lambda count: progress.update(task, advance=count)


def version_rows(rows: Iterable[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Cells for ``list``: name, version, status, channels, registered, metrics, tags."""
    return [
        (
            row["name"],
            row["version"],
            "damaged" if row.get("problem") else row["status"],
            ", ".join(row["channels"]) or "-",
            row["at"][:19].replace("T", " "),
            _metrics((row["metadata"] or {}).get("metrics", {})) or "-",
            ", ".join(row["tags"]) or "-",
        )
        for row in rows
    ]


def version_facts(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Cells for ``show``: a field and its value, empty ones left out."""
    metadata = dict(row["metadata"] or {})
    metadata["metrics"] = _metrics(metadata.get("metrics", {}))
    features = metadata.pop("features", [])
    if features:
        shown = ", ".join(features[:8]) + (f", … ({len(features)} in all)" if len(features) > 8 else "")
        metadata["features"] = shown
    facts = {key: value for key, value in row.items() if key != "metadata"}
    for key, value in metadata.items():
        facts.setdefault(key, value)
    return [(key, _text(value)) for key, value in facts.items() if value not in (None, [], {}, "", ())]


def _metrics(metrics: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value:g}" for name, value in flatten(metrics).items())


def _text(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(item, str) for item in value):
        return ", ".join(value)
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def cell(value: Any) -> str:
    """Any value in a table's cell."""
    return "-" if value is None else _text(value)


def what_happened(entry: HistoryEntry) -> str:
    """One record's operations in words."""
    moves = iter(entry.changes)
    told = []
    for op in entry.ops:
        match op.get("op"):
            case "channel":
                move = next(moves)
                told.append(f"{move.channel}: {move.from_version or '-'} → {move.to_version or '-'}")
                if op.get("overridden"):
                    told.append(f"overridden: {', '.join(op['overridden'])}")
            case "register":
                told.append(f"register {op.get('version')}")
            case "status":
                told.append(f"{op.get('version')} {op.get('status')}")
            case kind:
                told.append(f"{kind} {op.get('version', '')} {op.get('tag', '')}".strip())
    return "; ".join(told)
