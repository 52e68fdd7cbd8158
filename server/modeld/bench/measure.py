"""Measuring one case: the daemon, the echo and, for matrices, `Booster.predict` offline, turn by turn."""

from __future__ import annotations

import itertools
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import msgspec
import numpy as np

from modeld.bench.cases import Case
from modeld.bench.figures import Sample, Summary, median_ratio, median_summary, summarise
from modeld.bench.lines import Helper
from modeld.bench.load import Done, Job
from modeld.bench.schedule import Measure, interleave
from modeld.bench.target import ERROR_MARKS, Probed, Target, probe

#: The subjects' names.
DAEMON, ECHO, OFFLINE = "daemon", "echo", "offline"
#: Rows from which on the offline predictor takes part: below, the messages are what is measured.
OFFLINE_ROWS = 256


@dataclass(frozen=True, slots=True)
class Placement:
    """The cores of client and server in a pinned case; None where the system can't pin."""

    client: list[int] | None
    server: list[int] | None

    @property
    def shared(self) -> bool:
        """Whether client and server have to share a core: then it is no split echo."""
        return self.client is not None and self.client == self.server


@dataclass(frozen=True, slots=True, eq=False)
class CaseResult:
    """What one case gave: each subject's samples by round."""

    case: Case
    samples: dict[str, list[Sample]]
    request_bytes: int
    reply_bytes: int
    rate: float | None = None
    summaries: dict[str, list[Summary]] = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(
            self,
            "summaries",
            {name: [summarise(one) for one in rounds] for name, rounds in self.samples.items()},
        )

    def median(self, subject: str) -> Summary:
        """A subject's figures: the medians over the rounds."""
        return median_summary(self.summaries[subject])

    def ratio(self, figure: str, to: str = ECHO) -> float | None:
        """The daemon's figure (`p50`, …, `per_second`) ÷ another subject's; None where unknown."""
        if to not in self.summaries:
            return None
        return median_ratio(_figures(self.summaries[DAEMON], figure), _figures(self.summaries[to], figure))

    @property
    def errors(self) -> int:
        """Error replies of the daemon."""
        return sum(one.errors for one in self.samples[DAEMON])

    @property
    def lost(self) -> int:
        """Requests without a reply from the daemon."""
        return sum(one.lost for one in self.samples[DAEMON])


class Loader:
    """The load generator's process, and the files that it leaves its arrays in."""

    def __init__(self, helper: Helper, directory: Path) -> None:
        self._helper = helper
        self._directory = directory
        self._numbers = itertools.count()
        self._log = Path()

    def run(self, job: Job) -> Sample:
        """Do a job from beginning to end."""
        self.begin(job)
        return self.end()[0]

    def begin(self, job: Job) -> None:
        """Start a job and return when its warm-up is over."""
        self._log = self._directory / f"load-{self._helper.pid}-{next(self._numbers)}.npz"
        self._helper.ask(msgspec.structs.replace(job, log=str(self._log)))

    def end(self) -> tuple[Sample, int]:
        """Wait for the end of the job; its sample, and when it saw `until` (0 where it didn't)."""
        answer = self._helper.hear()
        done = Done(**answer)
        with np.load(self._log) as file:
            sample = Sample(
                started_ns=file["started_ns"],
                latency_ns=file["latency_ns"],
                seconds=done.seconds,
                errors=done.errors,
                lost=done.lost,
                late_ns=file["late_ns"],
            )
        self._log.unlink()
        return sample, done.seen_ns


class Measurer:
    """Measures cases against one target; owns the load generator and starts an echo for each case."""

    def __init__(
        self,
        target: Target,
        loader: Loader,
        directory: Path,
        placement: Placement,
        *,
        rounds: int,
        seconds: float,
        rate: float | None = None,
        offline: Callable[[Sequence[int] | None], Helper] | None = None,
    ) -> None:
        self.target = target
        self.loader = loader
        self.rounds = rounds
        self.seconds = seconds
        self._directory = directory
        self._placement = placement
        self._rate = rate
        self._offline = offline

    def case(self, case: Case) -> CaseResult:
        """Measure one case.

        Raises:
            BenchError: the daemon answers with an error or a wrong prediction, or not at all.
        """
        probed = self.probe(case)
        server = self._placement.server if case.pinned else None
        rate = self._choose_rate(case, probed)
        with ExitStack() as stack:
            echo = stack.enter_context(self.echo(case, probed))
            subjects: dict[str, Measure] = {
                DAEMON: lambda: self.loader.run(self.job(case, probed, rate=rate)),
                ECHO: lambda: self.loader.run(self.job(case, probed, endpoint=echo, rate=rate)),
            }
            if case.rows >= OFFLINE_ROWS and case.loop == "closed" and self._offline is not None:
                helper = stack.enter_context(self._offline(server))
                subjects[OFFLINE] = lambda: _offline_sample(helper, case.rows, self.seconds)
            samples = interleave(subjects, self.rounds)
        return CaseResult(case, samples, probed.request_bytes, probed.reply_bytes, rate)

    def probe(self, case: Case) -> Probed:
        """Ask the target for this case's rows, and keep the frames."""
        return probe(self.target, case, self._directory)

    def job(
        self,
        case: Case,
        probed: Probed,
        *,
        endpoint: str | None = None,
        rate: float | None = None,
        seconds: float | None = None,
        until: str | None = None,
    ) -> Job:
        """The load generator's part of a case; at the target unless another endpoint is given."""
        return Job(
            endpoint=endpoint or self.target.endpoints[case.transport],
            messages=str(probed.requests),
            log="",
            error_mark=ERROR_MARKS[case.encoding],
            clients=case.clients,
            seconds=seconds or self.seconds,
            rate=rate,
            until=until,
            cpus=self._placement.client if case.pinned else None,
        )

    @contextmanager
    def echo(self, case: Case, probed: Probed) -> Iterator[str]:
        """An echo server for a case, on the server's core if that is pinned; its endpoint."""
        endpoint = "tcp://127.0.0.1:*" if case.transport == "tcp" else f"ipc://{self._directory}/echo.sock"
        command = [sys.executable, "-m", "modeld.bench.echo", endpoint, str(probed.reply)]
        with Helper("echo server", command, self._placement.server if case.pinned else None) as helper:
            yield str(helper.hear()["endpoint"])

    def _choose_rate(self, case: Case, probed: Probed) -> float | None:
        """An open loop's rate: the one asked for, else half of what the daemon makes in a closed loop."""
        if case.loop == "closed":
            return None
        if self._rate is not None:
            return self._rate
        closed = replace(case, loop="closed")
        quick = self.loader.run(self.job(closed, probed, seconds=min(self.seconds, 0.5)))
        return max(round(summarise(quick).per_second / 2, -1), 1.0)


def placement(available: set[int]) -> Placement:
    """The first core for the client, the last for the server, of those available.

    An unpinned pair is bimodal: 25 µs where the scheduler happens to put both on one core, 100 µs where it
    doesn't. On a core each, the figure means something. An empty set stands for a system that can't pin.
    """
    ordered = sorted(available)
    return Placement(ordered[:1] or None, ordered[-1:] or None)


def _figures(rounds: Sequence[Summary], figure: str) -> list[float | None]:
    if figure == "per_second":
        return [one.per_second for one in rounds]
    return [one.percentiles_us[figure] for one in rounds]


def _offline_sample(helper: Helper, rows: int, seconds: float) -> Sample:
    answer = helper.ask({"rows": rows, "seconds": seconds})
    started, replied = np.array(answer["started_ns"]), np.array(answer["replied_ns"])
    nothing = np.empty(0, np.int64)
    return Sample(started, replied - started, float(replied[-1] - started[0]) / 1e9, 0, 0, nothing)
