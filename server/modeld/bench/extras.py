"""Two measurements beside the cases: a neighbour with large matrices, and a promotion under load."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from modeld.bench.cases import Case
from modeld.bench.errors import BenchError
from modeld.bench.figures import Sample, Summary, median_ratio, median_summary, summarise
from modeld.bench.measure import Loader, Measurer
from modeld.bench.stack import Stack

#: The client whose latency is looked at, and the neighbour.
ONE_ROW, MATRICES = Case(), Case(rows=4096)
#: The neighbour goes on for so long after the one-row client should be over. Seconds.
MARGIN_S = 0.5
#: Seconds of one-row requests before a promotion, and that the new version's first reply may take.
STEADY_S, PROMOTION_TIMEOUT_S = 1.0, 60.0


@dataclass(frozen=True, slots=True)
class Neighbour:
    """One-row requests alone and beside another client that sends 4,096-row matrices without a pause."""

    quiet: list[Summary]
    beside: list[Summary]

    def median(self, *, quiet: bool) -> Summary:
        """The medians over the rounds."""
        return median_summary(self.quiet if quiet else self.beside)

    def ratio(self, percentile: str) -> float | None:
        """Beside ÷ quiet: the median of the rounds' ratios."""
        return median_ratio(
            [one.percentiles_us[percentile] for one in self.beside],
            [one.percentiles_us[percentile] for one in self.quiet],
        )


@dataclass(frozen=True, slots=True)
class Promotion:
    """One promotion while a client asks without a pause.

    Attributes:
        from_command_s: from the start of `modelreg promote` to the first reply by the new version.
        from_commit_s: from the registry's commit, as its record's file is dated, to that reply.
        steady_p99_us: before the command.
        swap_p99_us: from the start of the command to that reply. The command takes a core for most of it.
        swap_max_us: the longest in that time.
        errors: error replies in all that time.
    """

    version: str
    from_command_s: float
    from_commit_s: float
    steady_p99_us: float | None
    swap_p99_us: float | None
    swap_max_us: float
    errors: int


def beside_matrices(measurer: Measurer, other: Loader, rounds: int) -> Neighbour:
    """One-row latency quiet and beside matrices, in turn; both clients are left to the scheduler."""
    one, many = measurer.probe(ONE_ROW), measurer.probe(MATRICES)
    one_job, many_job = measurer.job(ONE_ROW, one), measurer.job(MATRICES, many)
    one_job.cpus = many_job.cpus = None
    many_job.seconds = one_job.seconds + one_job.warmup_s + MARGIN_S
    quiet, beside = [], []
    for _ in range(rounds):
        quiet.append(summarise(measurer.loader.run(one_job)))
        other.begin(many_job)
        sample = measurer.loader.run(one_job)
        neighbour, _ = other.end()
        busy_until = int(neighbour.started_ns[-1] + neighbour.latency_ns[-1])
        beside.append(summarise(between(sample, 0, busy_until)))
        if sample.errors or neighbour.errors:
            raise BenchError("error replies while a client sent matrices: the daemon is past a limit")
    return Neighbour(quiet, beside)


def promotion(measurer: Measurer, stack: Stack, version: str) -> Promotion:
    """Promote a registered version under one-row requests.

    Raises:
        BenchError: the new version gave no reply within PROMOTION_TIMEOUT_S.
    """
    probed = measurer.probe(ONE_ROW)
    job = measurer.job(ONE_ROW, probed, seconds=PROMOTION_TIMEOUT_S, until=version)
    job.cpus = None
    records = set(stack.records.iterdir())
    measurer.loader.begin(job)
    time.sleep(STEADY_S)
    command_ns = time.monotonic_ns()
    stack.promote(version)
    sample, seen_ns = measurer.loader.end()
    if not seen_ns:
        raise BenchError(f"no reply by {version} within {PROMOTION_TIMEOUT_S:g} s of promoting it")
    steady = summarise(between(sample, 0, command_ns))
    swap = summarise(between(sample, command_ns, seen_ns))
    return Promotion(
        version=version,
        from_command_s=(seen_ns - command_ns) / 1e9,
        from_commit_s=(seen_ns - _committed_ns(stack, records)) / 1e9,
        steady_p99_us=steady.percentiles_us["p99"],
        swap_p99_us=swap.percentiles_us["p99"],
        swap_max_us=swap.max_us,
        errors=sample.errors,
    )


def between(sample: Sample, begin_ns: int, end_ns: int) -> Sample:
    """The part of a sample whose requests were sent in `[begin_ns, end_ns)`; its errors aren't known."""
    inside = (sample.started_ns >= begin_ns) & (sample.started_ns < end_ns)
    started, latency = sample.started_ns[inside], sample.latency_ns[inside]
    seconds = float((started + latency).max() - started.min()) / 1e9 if len(started) else 0.0
    return Sample(started, latency, max(seconds, 1e-9), 0, 0, np.empty(0, np.int64))


def _committed_ns(stack: Stack, before: set[Path]) -> int:
    """When the registry's new record was written, on the monotonic clock: files bear the wall clock only."""
    new = sorted(path for path in stack.records.iterdir() if path not in before and path.suffix == ".json")
    if not new:
        raise BenchError(f"no new record in {stack.records} after a promotion")
    return new[0].stat().st_mtime_ns - (time.time_ns() - time.monotonic_ns())
