"""The whole command, against a stand-in daemon and once against a real one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from modeld.bench import picture
from modeld.bench.cases import Case, Wire
from modeld.bench.errors import BenchError
from modeld.bench.measure import placement
from modeld.bench.model import sizes, train
from modeld.bench.options import BenchOptions
from modeld.bench.rows import REQUESTS, starts
from modeld.bench.run import run_bench
from modeld.bench.target import ERROR_MARKS, Target, check_reply, probe, request_frames
from modeld.demo.processes import runtime_directory

from .standin import FEATURES, StandIn, predict, serving

ROWS = np.arange(12.0).reshape(4, FEATURES)


@pytest.fixture
def directory() -> Iterator[Path]:
    """Short enough for a unix socket."""
    with runtime_directory(longest="standin.sock") as path:
        yield path


def target(endpoint: str) -> Target:
    """The stand-in as a target whose predictions are known."""
    return Target({"ipc": endpoint}, "alpha", ROWS, predict(ROWS), "")


@pytest.mark.parametrize("encoding", ["raw", "msgpack", "json"])
def test_a_reply_is_checked_bit_for_bit_before_it_is_measured(directory: Path, encoding: Wire) -> None:
    """In every encoding: the right prediction passes, one that is off by a bit doesn't, nor one too few."""
    case = Case(rows=3, encoding=encoding)
    with serving(directory, StandIn()) as endpoint:
        probed = probe(target(endpoint), case, directory)
    assert probed.request_bytes > 0
    reply = StandIn().reply(request_frames(ROWS[:3], "alpha", encoding))
    expected = predict(ROWS)
    check_reply(reply, rows=3, expected=expected)
    expected[1] = np.nextafter(expected[1], np.inf)
    with pytest.raises(BenchError, match="1 of 3 rows differ"):
        check_reply(reply, rows=3, expected=expected)
    with pytest.raises(BenchError, match="3 rows of 4"):
        check_reply(reply, rows=4, expected=None)


@pytest.mark.parametrize("encoding", ["raw", "msgpack", "json"])
def test_the_error_mark_tells_errors_from_predictions(encoding: Wire) -> None:
    """What the load generator looks for is in every error's header and in no prediction's."""
    mark = ERROR_MARKS[encoding].encode("latin-1")
    request = request_frames(ROWS, "alpha", encoding)
    assert mark not in StandIn().reply(request)[0]
    refused = StandIn(refuse=lambda _: True).reply(request)
    assert mark in refused[0]
    with pytest.raises(BenchError, match="BUSY"):
        check_reply(refused, rows=4, expected=None)


def test_a_running_daemon_is_measured_beside_the_echo(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both loops, one JSON document: every figure there, daemon and echo, in each of the rounds."""
    with serving(directory, StandIn()) as endpoint:
        options = BenchOptions(
            endpoint=endpoint,
            loops=("closed", "open"),
            clients=(1, 2),
            rate=500.0,
            rounds=2,
            seconds=0.05,
            json=True,
        )
        assert run_bench(options) == 0
    document = json.loads(capsys.readouterr().out)
    assert len(document["cases"]) == 4
    for case in document["cases"]:
        assert case["subjects"].keys() == {"daemon", "echo"}
        assert all(len(subject["rounds"]) == 2 for subject in case["subjects"].values())
        assert case["ratio"]["echo"]["p50"] > 0
        assert (case["errors"], case["lost"]) == (0, 0)


def test_the_default_run_prints_what_matters(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One line for each figure that was measured, and a note about what isn't known of a running daemon."""
    with serving(directory, StandIn()) as endpoint:
        assert run_bench(BenchOptions(endpoint=endpoint, rounds=1, seconds=0.05)) == 0
    shown = capsys.readouterr().out
    for line in (
        "one row, one client, ipc: p50",
        "one row, 8 clients",
        "4,096 rows, ipc",
        "one row beside a client",
    ):
        assert line in shown
    assert "promote" not in shown
    assert "note: a running daemon stays on its own cores" in shown


def test_error_replies_make_the_run_fail_and_are_shown(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A figure with refusals in it is no figure: status 1."""
    with serving(directory, StandIn(refuse=lambda number: number > REQUESTS)) as endpoint:
        assert run_bench(BenchOptions(endpoint=endpoint, clients=(1,), rounds=1, seconds=0.05)) == 1
    assert "ERROR REPLIES" in capsys.readouterr().out


def test_a_picture_without_matplotlib_is_refused_before_anything_is_measured(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """One clear sentence that says what to install."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    assert run_bench(BenchOptions(picture=tmp_path / "p.png")) == 1
    assert picture.MISSING in capsys.readouterr().err


@pytest.mark.parametrize(
    ("available", "rows", "count"), [(4096, 1, REQUESTS), (4096, 1500, 2), (4096, 4096, 1), (3, 4, 0)]
)
def test_requests_differ_as_far_as_there_are_rows(available: int, rows: int, count: int) -> None:
    """Blocks of rows don't overlap, don't end outside, and aren't more than REQUESTS."""
    begins = list(starts(available, rows))
    assert len(begins) == count
    assert all(at % rows == 0 and at + rows <= available for at in begins)


def test_every_request_is_checked_before_it_is_measured(directory: Path) -> None:
    """A wrong prediction for any of the rows is found, not only for the first."""
    wrong = predict(ROWS)
    wrong[-1] += 1.0
    with serving(directory, StandIn()) as endpoint, pytest.raises(BenchError, match="1 of 1 rows differ"):
        probe(Target({"ipc": endpoint}, "alpha", ROWS, wrong, ""), Case(), directory)


@pytest.mark.parametrize(("available", "shared"), [({3}, True), ({1, 0}, False), (set(), False)])
def test_client_and_server_share_a_core_only_where_there_is_one(available: set[int], shared: bool) -> None:
    """Two cores are split; one is shared, and that is known; none means that nobody can be pinned."""
    assert placement(available).shared == shared


def test_the_model_has_exactly_the_sizes_it_says() -> None:
    """Trees, leaves and features are counted in the result, not taken from the settings."""
    assert sizes(train(3, 7, 5)) == (3, 7, 7, 5)


def test_a_model_that_cannot_have_its_sizes_is_refused() -> None:
    """4,000 rows can't fill 300 leaves of at least 20."""
    with pytest.raises(ValueError, match="300 leaves"):
        train(1, 300, 5)


def test_a_real_daemon_is_started_measured_and_taken_down(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Register, promote, serve, measure, draw: with a small model, through the installed commands."""
    model = tmp_path / "model.txt"
    small = f"from modeld.bench.model import train; train(3, 7, 5).save_model({str(model)!r})"
    subprocess.run([sys.executable, "-c", small], check=True, timeout=60)
    options = BenchOptions(
        model=model,
        rows=(1, 300),
        transports=("tcp",),
        encodings=("json",),
        rounds=1,
        seconds=0.05,
        picture=tmp_path / "picture.png",
    )
    status = run_bench(options)
    shown = capsys.readouterr()
    assert status == 0, shown.err
    assert "3 trees × 7 leaves × 5 features" in shown.out
    assert "÷ offline" in shown.out
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")
