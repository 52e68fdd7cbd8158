"""The load generator and the echo, as the processes that they are."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest
from tests.support import wait_until

from modeld.bench.errors import BenchError
from modeld.bench.lines import Helper, pinned
from modeld.bench.load import Job, write_messages
from modeld.bench.measure import Loader
from modeld.demo.processes import runtime_directory

REQUESTS = [[b"{header}", b"\x00" * 24], [b"{header}", b"\x02" * 24]]
ANSWER = [b'{"outputs": []}', b"\x01" * 8]


@pytest.fixture
def directory() -> Iterator[Path]:
    """Short enough for a unix socket."""
    with runtime_directory(longest="standin.sock") as path:
        write_messages(path / "requests", REQUESTS)
        yield path


@pytest.fixture
def loader(directory: Path) -> Iterator[Loader]:
    """A load generator."""
    with Helper("load generator", [sys.executable, "-m", "modeld.bench.load"]) as helper:
        yield Loader(helper, directory)


@contextmanager
def echo(directory: Path, answer: list[bytes] = ANSWER, endpoint: str | None = None) -> Iterator[str]:
    """An echo that gives this answer; its endpoint."""
    write_messages(directory / "reply", [answer])
    command = [sys.executable, "-m", "modeld.bench.echo", endpoint or f"ipc://{directory}/echo.sock"]
    with Helper("echo", [*command, str(directory / "reply")]) as helper:
        yield helper.hear()["endpoint"]


def job(directory: Path, endpoint: str, **more: Any) -> Job:
    """A short job."""
    fields = {"seconds": 0.05, "warmup_s": 0.01, "error_mark": '"code":'} | more
    return Job(endpoint=endpoint, messages=str(directory / "requests"), log="", **fields)


@pytest.mark.parametrize("transport", ["ipc", "tcp"])
@pytest.mark.parametrize("clients", [1, 3])
def test_a_closed_loop_has_a_latency_for_every_reply(
    directory: Path, loader: Loader, clients: int, transport: str
) -> None:
    """Over both transports and with one or several clients: no errors, none lost, times in order."""
    endpoint = "tcp://127.0.0.1:*" if transport == "tcp" else None
    with echo(directory, endpoint=endpoint) as at:
        sample = loader.run(job(directory, at, clients=clients))
    assert len(sample.latency_ns) == len(sample.started_ns) > 0
    assert (sample.latency_ns > 0).all()
    assert (sample.errors, sample.lost, len(sample.late_ns)) == (0, 0, 0)


def test_an_open_loop_sends_what_is_due_and_no_more(directory: Path, loader: Loader) -> None:
    """200 a second for a tenth of a second are twenty requests, evenly due, over several connections."""
    with echo(directory) as at:
        sample = loader.run(job(directory, at, clients=3, rate=200.0, seconds=0.1))
    assert len(sample.latency_ns) == len(sample.late_ns) == 20
    assert set((sample.started_ns[1:] - sample.started_ns[:-1]).tolist()) == {5_000_000}
    assert (sample.late_ns >= 0).all()


@pytest.mark.parametrize("more", [{"clients": 1}, {"clients": 3}, {"rate": 200.0}])
def test_error_replies_are_counted(directory: Path, loader: Loader, more: dict[str, Any]) -> None:
    """A reply whose header has the mark is an error, in every kind of loop."""
    with echo(directory, [b'{"code":"BUSY"}']) as at:
        sample = loader.run(job(directory, at, **more))
    assert sample.errors == len(sample.latency_ns) > 0


def test_a_job_ends_when_it_sees_what_it_waits_for(directory: Path, loader: Loader) -> None:
    """The first reply with the bytes ends it, and the time of that reply is told."""
    with echo(directory) as at:
        loader.begin(job(directory, at, seconds=60.0, until="outputs"))
        sample, seen_ns = loader.end()
    assert len(sample.latency_ns) == 1
    assert seen_ns == sample.started_ns[0] + sample.latency_ns[0]


def test_jobs_follow_each_other_in_one_process(directory: Path, loader: Loader) -> None:
    """A job leaves nothing behind that the next one would meet."""
    with echo(directory) as at:
        for clients in (1, 4, 1):
            assert loader.run(job(directory, at, clients=clients)).lost == 0


def test_a_helper_that_dies_is_told_with_its_status() -> None:
    """Nobody waits for ever for a process that is gone."""
    with (
        Helper("helper", [sys.executable, "-c", "raise SystemExit(3)"]) as helper,
        pytest.raises(BenchError, match="helper ended by itself with status 3"),
    ):
        helper.ask({})


def test_a_job_that_cannot_be_done_is_an_error_of_its_own(directory: Path, loader: Loader) -> None:
    """A bad endpoint is told, and the generator is there for the next job."""
    with pytest.raises(BenchError, match="nonsense"):
        loader.run(job(directory, "nonsense://x"))
    with echo(directory) as at:
        assert loader.run(job(directory, at)).errors == 0


def test_a_pinned_helper_and_this_process_have_their_own_cores() -> None:
    """A helper gets the cores it was started for; this process keeps its own."""
    before = psutil.Process().cpu_affinity()
    core = before[-1:]
    sleeper = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with Helper("pinned", sleeper, core) as helper:
        wait_until(lambda: psutil.Process(helper.pid).cpu_affinity() == core)
        assert psutil.Process().cpu_affinity() == before
    with pinned(None):
        assert psutil.Process().cpu_affinity() == before


def test_a_stopped_helper_is_gone() -> None:
    """Leaving the block ends the process, one that is waiting for input as well."""
    with Helper("load generator", [sys.executable, "-m", "modeld.bench.load"]) as helper:
        pid = helper.pid
    assert not psutil.pid_exists(pid)
