"""What a run found, as text for people and as one JSON document for machines."""

from __future__ import annotations

import json
import statistics
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from modeld.bench.cases import Case
from modeld.bench.extras import Neighbour, Promotion
from modeld.bench.figures import PERCENTILES
from modeld.bench.measure import DAEMON, ECHO, OFFLINE, CaseResult

#: The JSON document's `format`: raised when a field changes its meaning.
FORMAT = 1


@dataclass(slots=True)
class Results:
    """Everything that one run found. `machine` and `notes` are lines for people."""

    model: str
    machine: str
    rounds: int
    seconds: float
    cases: list[CaseResult] = field(default_factory=list)
    neighbour: Neighbour | None = None
    promotions: list[Promotion] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    def find(self, *, rows: int, clients: int, loop: str = "closed") -> CaseResult | None:
        """The raw case of these sizes, if it was measured."""
        for result in self.cases:
            case = result.case
            if (case.rows, case.clients, case.loop, case.encoding) == (rows, clients, loop, "raw"):
                return result
        return None

    @property
    def failures(self) -> int:
        """Error replies and lost requests in all cases and promotions."""
        in_cases = sum(result.errors + result.lost for result in self.cases)
        return in_cases + sum(one.errors for one in self.promotions)


def text(results: Results) -> str:
    """The tables, then the lines that matter."""
    lines = [
        f"model: {results.model}",
        f"machine: {results.machine}",
        f"{results.rounds} rounds of {results.seconds:g} s for each subject in turn; medians over the rounds "
        "(max: of all), latencies in µs",
    ]
    for result in results.cases:
        lines += ["", *_table(result)]
    summary = list(highlights(results))
    if summary:
        lines += ["", *summary]
    lines += [f"note: {note}" for note in results.notes]
    return "\n".join(lines)


def highlights(results: Results) -> Iterator[str]:
    """One line for each figure that the targets speak of, as far as it was measured."""
    if (one := results.find(rows=1, clients=1)) is not None:
        p50, p99 = (one.median(DAEMON).percentiles_us[name] for name in ("p50", "p99"))
        yield (
            f"one row, one client, {one.case.transport}: p50 {_us(p50)} µs = {_times(one.ratio('p50'))} the echo's, "
            f"p99 {_us(p99)} µs = {_times(one.ratio('p99'))}"
        )
    for clients in (8, 64):
        if (many := results.find(rows=1, clients=clients)) is not None:
            made, ratio = many.median(DAEMON).per_second, many.ratio("per_second")
            line = f"one row, {clients} clients, {many.case.transport}: {made:,.0f} requests/s"
            yield f"{line} = {_fraction(ratio)} of the echo's"
    if (matrix := results.find(rows=4096, clients=1)) is not None:
        line = f"4,096 rows, {matrix.case.transport}: {matrix.median(DAEMON).per_second * 4096:,.0f} rows/s"
        if (ratio := matrix.ratio("per_second", OFFLINE)) is not None:
            line += f" = {ratio:.0%} of Booster.predict(num_threads=1) in a process of its own"
        yield line
    if (neighbour := results.neighbour) is not None:
        quiet, beside = (neighbour.median(quiet=quiet).percentiles_us["p99"] for quiet in (True, False))
        yield (
            f"one row beside a client that sends 4,096-row matrices: p99 {_us(beside)} µs = "
            f"{_times(neighbour.ratio('p99'))} quiet ({_us(quiet)} µs); nobody pinned"
        )
    if results.promotions:
        commit = statistics.median(one.from_commit_s for one in results.promotions)
        command = statistics.median(one.from_command_s for one in results.promotions)
        yield (
            f"promote → first reply by the new version: {commit * 1000:,.0f} ms from the commit, "
            f"{command * 1000:,.0f} ms from the start of the command (median of {len(results.promotions)})"
        )
        longest = max(one.swap_max_us for one in results.promotions)
        errors = sum(one.errors for one in results.promotions)
        yield f"  meanwhile: longest reply {_us(longest)} µs, {errors} errors"


def document(results: Results) -> str:
    """The JSON document."""
    return json.dumps(
        {
            "format": FORMAT,
            "model": results.model,
            "machine": results.machine,
            "rounds": results.rounds,
            "seconds": results.seconds,
            "cases": [_case(result) for result in results.cases],
            "neighbour": _neighbour(results.neighbour),
            "promotions": [asdict(one) for one in results.promotions],
            "notes": results.notes,
        },
        indent=1,
        ensure_ascii=False,
    )


def _table(result: CaseResult) -> Iterator[str]:
    names = list(PERCENTILES)
    case: Case = result.case
    rate = "" if result.rate is None else f" · {result.rate:,.0f} requests/s"
    yield f"{case.label}{rate} · {result.request_bytes:,} B out, {result.reply_bytes:,} B back"
    yield " " * 14 + "".join(f"{name:>12}" for name in (*names, "max", "requests/s"))
    for subject in result.samples:
        figures = result.median(subject)
        cells = [_us(figures.percentiles_us[name]) for name in names]
        cells += [_us(figures.max_us), f"{figures.per_second:,.1f}"]
        yield f"  {subject:<12}" + "".join(f"{cell:>12}" for cell in cells)
    for other in (ECHO, OFFLINE):
        if other in result.samples:
            cells = [_times(result.ratio(name, other)) for name in names]
            cells += ["", _fraction(result.ratio("per_second", other))]
            yield f"  {'÷ ' + other:<12}" + "".join(f"{cell:>12}" for cell in cells)
    late = np.concatenate([one.late_ns for one in result.samples[DAEMON]])
    if len(late):
        yield f"  the generator sent {np.quantile(late, 0.99) / 1000:,.0f} µs late (p99): in the figures"
    if result.errors or result.lost:
        yield f"  {result.errors} ERROR REPLIES, {result.lost} LOST"


def _case(result: CaseResult) -> dict[str, Any]:
    subjects = {
        name: {"median": asdict(result.median(name)), "rounds": [asdict(one) for one in rounds]}
        for name, rounds in result.summaries.items()
    }
    figures = [*PERCENTILES, "per_second"]
    return {
        **asdict(result.case),
        "pinned": result.case.pinned,
        "rate": result.rate,
        "request_bytes": result.request_bytes,
        "reply_bytes": result.reply_bytes,
        "errors": result.errors,
        "lost": result.lost,
        "subjects": subjects,
        "ratio": {
            other: {figure: result.ratio(figure, other) for figure in figures}
            for other in (ECHO, OFFLINE)
            if other in subjects
        },
    }


def _neighbour(neighbour: Neighbour | None) -> dict[str, Any] | None:
    if neighbour is None:
        return None
    return {
        "quiet": asdict(neighbour.median(quiet=True)),
        "beside": asdict(neighbour.median(quiet=False)),
        "ratio": {name: neighbour.ratio(name) for name in PERCENTILES},
    }


def _us(value: float | None) -> str:
    return "–" if value is None else f"{value:,.1f}" if value < 100 else f"{value:,.0f}"


def _times(ratio: float | None) -> str:
    return "–" if ratio is None else f"{ratio:.2f}×"


def _fraction(ratio: float | None) -> str:
    return "–" if ratio is None else f"{ratio:.3g}"
