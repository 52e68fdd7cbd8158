"""`modeld bench`: what is measured in which order, and what is printed at the end."""

from __future__ import annotations

import os
import platform
import sys
import threading
from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path

import zmq

from modeld.bench import extras, picture, report
from modeld.bench.cases import Case, fits
from modeld.bench.errors import BenchError
from modeld.bench.lines import Helper
from modeld.bench.measure import Loader, Measurer, placement
from modeld.bench.options import BenchOptions, parse
from modeld.bench.rows import ROWS
from modeld.bench.stack import ADMIN_SOCKET, Stack
from modeld.bench.target import Target, running
from modeld.client.errors import ModeldError
from modeld.demo.processes import DemoError, runtime_directory, sigterm_as_interrupt

#: Promotions in a default run.
PROMOTIONS = 2
#: Load average from which on the machine wasn't ours.
BUSY_LOAD = 0.5
#: Rounds of the measurement beside matrices: each has two turns and a margin.
NEIGHBOUR_ROUNDS = 3


def run_bench(options: BenchOptions) -> int:
    """Measure, print, and leave nothing running.

    Returns:
        0; 1 when the benchmark couldn't go on, or when there were error replies or lost requests; 130 when
        interrupted.
    """
    try:
        if options.picture is not None:
            picture.check()
        with ExitStack() as stack:
            if threading.current_thread() is threading.main_thread():
                stack.enter_context(sigterm_as_interrupt())
            directory = stack.enter_context(runtime_directory(longest=f"run/{ADMIN_SOCKET}"))
            results = _Run(options, directory).measure()
        print(report.document(results) if options.json else report.text(results), flush=True)
        if options.picture is not None:
            picture.draw(results.cases, options.picture)
            _say(f"picture: {options.picture}")
    except (BenchError, DemoError, ModeldError) as error:
        print(f"the benchmark couldn't go on: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("interrupted; every process of the benchmark is stopped", file=sys.stderr)
        return 130
    return 1 if results.failures else 0


def main(argv: list[str] | None = None) -> int:
    """`run_bench` with arguments."""
    return run_bench(parse(argv))


class _Run:
    """One run of the benchmark: its options, its directory, and where processes are placed."""

    def __init__(self, options: BenchOptions, directory: Path) -> None:
        self._options = options
        self._directory = directory
        self._available = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
        self._placement = placement(self._available)

    def measure(self) -> report.Results:
        options = self._options
        cases = options.cases()
        rows = max(ROWS, *(case.rows for case in cases))
        with ExitStack() as stack:
            loader = stack.enter_context(self._loader())
            results = report.Results("", machine(), options.rounds, options.seconds)
            if self._placement.shared:
                results.notes.append(
                    "there is one core only: client and server share it, the echo isn't split"
                )
            if (load := _load()) is not None and load > BUSY_LOAD:
                results.notes.append(
                    f"other processes were busy (load average {load:.1f} before): figures are disturbed"
                )
            if self._placement.client is None:
                results.notes.append(
                    "this system can't pin processes to cores: client and server are left to it"
                )
            if options.endpoint is not None:
                self._running(options.endpoint, cases, rows, loader, results)
            else:
                self._own(cases, rows, loader, results)
        return results

    def _running(
        self, endpoint: str, cases: Sequence[Case], rows: int, loader: Helper, results: report.Results
    ) -> None:
        target = running(endpoint, self._options.model_name, rows)
        results.model = target.description
        results.notes.append(
            "a running daemon stays on its own cores; the echo is a local one on the last core"
        )
        measurer = self._measurer(target, loader, None)
        self._cases(measurer, cases, results)
        if not self._options.selected:
            self._neighbour(measurer, results)

    def _own(self, cases: Sequence[Case], rows: int, loader: Helper, results: report.Results) -> None:
        stack = Stack(self._directory, self._options.settings)
        _say(
            "training the reference model" if self._options.model is None else f"taking {self._options.model}"
        )
        stack.prepare(self._options.model, rows)
        versions = [] if self._options.selected else [stack.register() for _ in range(PROMOTIONS)]
        results.model = stack.description
        for pinned in (True, False):
            those = [case for case in cases if case.pinned == pinned]
            if not those and (pinned or self._options.selected):
                continue
            _say(
                "starting modeld serve" + (f" on core {self._placement.server}" if pinned else ", not pinned")
            )
            with stack.daemon(self._placement.server if pinned else None) as target:
                measurer = self._measurer(target, loader, stack)
                self._cases(measurer, those, results)
                if not pinned and not self._options.selected:
                    self._neighbour(measurer, results)
                for version in () if pinned else versions:
                    _say(f"promoting {version} under load")
                    results.promotions.append(extras.promotion(measurer, stack, version))

    def _cases(self, measurer: Measurer, cases: Sequence[Case], results: report.Results) -> None:
        for case in cases:
            if not fits(case, measurer.target.features):
                results.notes.append(f"{case.label}: left out, more than the daemon's queue holds")
                continue
            _say(case.label)
            results.cases.append(measurer.case(case))

    def _neighbour(self, measurer: Measurer, results: report.Results) -> None:
        _say("one row, quiet and beside 4,096-row matrices")
        with self._loader() as other:
            rounds = min(self._options.rounds, NEIGHBOUR_ROUNDS)
            results.neighbour = extras.beside_matrices(measurer, Loader(other, self._directory), rounds)

    def _measurer(self, target: Target, loader: Helper, stack: Stack | None) -> Measurer:
        def offline(cpus: Sequence[int] | None) -> Helper:
            assert stack is not None
            command = [
                sys.executable,
                "-m",
                "modeld.bench.offline",
                str(stack.model_file),
                str(stack.rows_file),
            ]
            return Helper("offline predictor", command, cpus)

        return Measurer(
            target,
            Loader(loader, self._directory),
            self._directory,
            self._placement,
            rounds=self._options.rounds,
            seconds=self._options.seconds,
            rate=self._options.rate,
            offline=None if stack is None else offline,
        )

    @staticmethod
    def _loader() -> Helper:
        return Helper("load generator", [sys.executable, "-m", "modeld.bench.load"])


def machine() -> str:
    """What was measured on."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return (
        f"{platform.system()} {platform.release()}, {cores} cores, Python {platform.python_version()}, "
        f"pyzmq {zmq.pyzmq_version()}, libzmq {zmq.zmq_version()}"
    )


def _load() -> float | None:
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else None


def _say(text: str) -> None:
    print(f"— {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
