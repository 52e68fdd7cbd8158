"""One table in one run: modeld beside a naive ZeroMQ loop, FastAPI and a bare echo, all with the same model.

    python tests/bench/peers.py [--rounds N] [--seconds S] [--without-fastapi]

Prints markdown. FastAPI lives in tests/bench/.venv, which is made at the first run. Rounds are interleaved; one
client: it has the first core and the server the last; eight clients: nobody is pinned. Every server's answer is
checked against `Booster.predict` before it is measured.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import psutil

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from tests.bench import http_load  # noqa: E402

from modeld.bench.cases import Case  # noqa: E402
from modeld.bench.errors import BenchError  # noqa: E402
from modeld.bench.figures import Sample, Summary, median_ratio, median_summary, summarise  # noqa: E402
from modeld.bench.lines import Helper  # noqa: E402
from modeld.bench.load import Job, write_messages  # noqa: E402
from modeld.bench.measure import Loader, Measurer, placement  # noqa: E402
from modeld.bench.rows import REQUESTS  # noqa: E402
from modeld.bench.run import machine  # noqa: E402
from modeld.bench.schedule import Measure, interleave  # noqa: E402
from modeld.bench.stack import ADMIN_SOCKET, Stack  # noqa: E402
from modeld.bench.target import ERROR_MARKS, exchange  # noqa: E402
from modeld.demo.processes import DemoError, runtime_directory, sigterm_as_interrupt  # noqa: E402

ECHO = "bare ZeroMQ echo (raw)"
CLIENTS = 8


@dataclass(frozen=True, slots=True)
class Row:
    """One server's figures: one client and eight clients, by round; its memory (proportional set size)."""

    one: list[Summary]
    many: list[Summary]
    memory_mb: float


def table(rows: dict[str, Row]) -> str:
    """Markdown; ratios are medians of the rounds' ratios to the echo."""
    lines = [
        f"| server | p50 µs | p99 µs | p50 ÷ echo | p99 ÷ echo | {CLIENTS} clients, requests/s | ÷ echo | memory, MB |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    echo = rows[ECHO]
    for name, row in rows.items():
        one, many = median_summary(row.one), median_summary(row.many)
        cells = [_number(one.percentiles_us[figure], "{:,.0f}") for figure in ("p50", "p99")]
        for figure in ("p50", "p99"):
            ours, theirs = ([each.percentiles_us[figure] for each in side] for side in (row.one, echo.one))
            cells.append(_number(median_ratio(ours, theirs), "{:.2f}"))
        ratio = median_ratio([each.per_second for each in row.many], [each.per_second for each in echo.many])
        cells += [f"{many.per_second:,.0f}", _number(ratio, "{:.2f}"), f"{row.memory_mb:,.0f}"]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def measure(directory: Path, rounds: int, seconds: float, *, fastapi: bool) -> str:
    """Train, serve, measure; the table and a line about where it was taken."""
    python = peers_python() if fastapi else None
    stack = Stack(directory)
    _say("training and registering the reference model")
    stack.prepare(None, REQUESTS)
    phases: list[dict[str, list[Sample]]] = []
    memory: dict[str, float] = {}
    for clients in (1, CLIENTS):
        _say(f"{clients} client{'s' if clients > 1 else ''}: starting every server")
        with ExitStack() as exits:
            phase = _Phase(stack, exits, Case(clients=clients), seconds)
            phase.start(python)
            _say("measuring in turn")
            phases.append(interleave(phase.subjects, rounds))
            memory = {name: _memory_mb(pid) for name, pid in phase.pids.items()}
    one, many = (
        {name: [_checked(name, each) for each in found] for name, found in phase.items()} for phase in phases
    )
    rows = {name: Row(one[name], many[name], memory[name]) for name in one}
    return f"{table(rows)}\n\n{stack.description}, one row; {machine()}; {rounds} rounds of {seconds:g} s"


class _Phase:
    """Every server, running; what to measure of each, and their process ids."""

    def __init__(self, stack: Stack, exits: ExitStack, case: Case, seconds: float) -> None:
        self.subjects: dict[str, Measure] = {}
        self.pids: dict[str, int] = {}
        self._stack, self._exits, self._case, self._seconds = stack, exits, case, seconds
        self._placement = placement(os.sched_getaffinity(0))
        self._cpus = self._placement.server if case.pinned else None
        self._rows = [row.reshape(1, -1) for row in np.load(stack.rows_file)]
        self._expected = np.load(stack.rows_file.with_name("expected.npy"))

    def start(self, python: Path | None) -> None:
        """Start them all, one after another; each answer is checked once."""
        loader = Loader(
            self._helper("load generator", ["-m", "modeld.bench.load"], None), self._stack.directory
        )
        before = set(psutil.Process().children())
        target = self._exits.enter_context(self._stack.daemon(self._cpus))
        (daemon,) = (child for child in psutil.Process().children() if child not in before)
        measurer = Measurer(
            target, loader, self._stack.directory, self._placement, rounds=1, seconds=self._seconds
        )
        probed = measurer.probe(self._case)
        reply = self._stack.directory / "echo.reply"
        reply.write_bytes(probed.reply.read_bytes())
        endpoint = f"ipc://{self._stack.directory}/echo.sock"
        echo = self._helper("echo", ["-m", "modeld.bench.echo", endpoint, str(reply)], self._cpus)
        self._add(ECHO, echo.pid, loader, measurer.job(self._case, probed, endpoint=echo.hear()["endpoint"]))
        for encoding in ("raw", "json"):
            case = replace(self._case, encoding=encoding)
            job = measurer.job(case, measurer.probe(case))
            self._add(f"modeld ({'raw float64' if encoding == 'raw' else 'JSON'})", daemon.pid, loader, job)
        as_json = [json.dumps({"id": 1, "features": row.tolist()}).encode() for row in self._rows]
        as_pickle = [pickle.dumps({"id": 1, "features": row}) for row in self._rows]
        self._naive("pickle", as_pickle, pickle.loads, loader)
        self._naive("JSON", as_json, json.loads, loader)
        if python is not None:
            self._fastapi(python, as_json)

    def _naive(
        self, encoding: str, requests: list[bytes], decode: Callable[[bytes], object], loader: Loader
    ) -> None:
        endpoint = f"ipc://{self._stack.directory}/naive-{encoding}.sock"
        command = [str(HERE / "naive.py"), endpoint, str(self._stack.model_file), encoding]
        helper = self._helper(f"naive {encoding} loop", command, self._cpus)
        helper.hear()
        self._check([decode(reply[0]) for reply in exchange(endpoint, [[request] for request in requests])])
        job = self._job(endpoint, encoding, requests, rep=True)
        self._add(f"hand-written REP loop ({encoding})", helper.pid, loader, job)

    def _fastapi(self, python: Path, bodies: list[bytes]) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        command = [str(HERE / "http_peer.py"), str(port), str(self._stack.model_file)]
        helper = self._helper("FastAPI", command, self._cpus, python)
        endpoint = helper.hear()["endpoint"]
        head = (
            "POST /predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: "
        )
        requests = [f"{head}{len(body)}\r\n\r\n".encode() + body for body in bodies]
        self._check([json.loads(body) for body in http_load.exchange(endpoint, requests)])
        generator = self._helper("HTTP load generator", ["-m", "tests.bench.http_load"], None)
        loader = Loader(generator, self._stack.directory)
        self._add("FastAPI + uvicorn (JSON)", helper.pid, loader, self._job(endpoint, "http", requests))

    def _helper(
        self, name: str, arguments: list[str], cpus: Sequence[int] | None, python: Path | None = None
    ) -> Helper:
        return self._exits.enter_context(Helper(name, [str(python or sys.executable), *arguments], cpus))

    def _job(self, endpoint: str, name: str, requests: list[bytes], *, rep: bool = False) -> Job:
        messages = self._stack.directory / f"{name}.peer"
        write_messages(messages, [[request] for request in requests])
        return Job(
            endpoint=endpoint,
            messages=str(messages),
            log="",
            error_mark=ERROR_MARKS["json"],
            clients=self._case.clients,
            seconds=self._seconds,
            cpus=self._placement.client if self._case.pinned else None,
            for_rep=rep,
        )

    def _add(self, name: str, pid: int, loader: Loader, job: Job) -> None:
        self.subjects[name] = lambda: loader.run(job)
        self.pids[name] = pid

    def _check(self, answers: list[object]) -> None:
        values = [answer.get("predictions") if isinstance(answer, dict) else None for answer in answers]
        if values != self._expected.reshape(-1, 1).tolist():
            raise BenchError(
                f"a peer doesn't predict what Booster.predict does; its first answer: {answers[0]}"
            )


def peers_python() -> Path:
    """The interpreter of FastAPI's virtual environment, which is made if it isn't there."""
    python = HERE / ".venv" / "bin" / "python"
    stamp = HERE / ".venv" / "installed"
    requirements = HERE / "requirements.txt"
    if not stamp.exists() or stamp.stat().st_mtime < requirements.stat().st_mtime:
        _say(f"installing {requirements.name} into {HERE / '.venv'}")
        subprocess.run([sys.executable, "-m", "venv", str(HERE / ".venv")], check=True)
        subprocess.run(
            [
                str(python),
                "-m",
                "pip",
                "install",
                "-q",
                "--disable-pip-version-check",
                "-r",
                str(requirements),
            ],
            check=True,
        )
        stamp.touch()
    return python


def _checked(name: str, sample: Sample) -> Summary:
    if sample.errors:
        raise BenchError(f"{name}: {sample.errors} error replies")
    return summarise(sample)


def _memory_mb(pid: int) -> float:
    root = psutil.Process(pid)
    return float(sum(one.memory_full_info().pss for one in [root, *root.children(recursive=True)])) / 1e6


def _number(value: float | None, form: str) -> str:
    return "–" if value is None else form.format(value)


def _say(text: str) -> None:
    print(f"— {text}", file=sys.stderr, flush=True)


def main() -> int:
    """Measure and print; 1 when something failed."""
    parser = argparse.ArgumentParser(description="modeld beside its peers: one table in one run.")
    parser.add_argument(
        "--rounds", type=int, default=5, help="how often each server has its turn (%(default)s)"
    )
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a turn (%(default)s)")
    parser.add_argument("--without-fastapi", action="store_true", help="nothing is installed")
    given = parser.parse_args()
    os.chdir(HERE.parents[1])
    try:
        with sigterm_as_interrupt(), runtime_directory(longest=f"run/{ADMIN_SOCKET}") as directory:
            print(measure(directory, given.rounds, given.seconds, fastapi=not given.without_fastapi))
    except (BenchError, DemoError, subprocess.CalledProcessError) as error:
        print(f"the benchmark couldn't go on: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
