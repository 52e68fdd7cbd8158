"""What is asked for is what is measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modeld.bench.cases import CLIENTS, DEFAULT, ROWS, TRANSPORTS, WIRES, Case, fits, grid
from modeld.bench.options import BenchOptions, parse


def test_without_options_the_default_cases_are_measured() -> None:
    """A bare `modeld bench` is the default run."""
    options = parse([])
    assert options == BenchOptions()
    assert (options.cases(), options.selected) == (DEFAULT, False)


def test_dimensions_that_are_not_named_stay_at_one() -> None:
    """`--clients 1 8` measures two cases, each with one raw row over ipc."""
    assert parse(["--clients", "8", "1"]).cases() == (Case(clients=1), Case(clients=8))


def test_the_whole_grid_has_every_combination_once_and_pinned_ones_first() -> None:
    """`--full` is complete, each case has a label of its own, and placements aren't mixed."""
    cases = parse(["--full"]).cases()
    assert len({case.label for case in cases}) == len(cases)
    assert len(cases) == 2 * len(CLIENTS) * len(ROWS) * len(TRANSPORTS) * len(WIRES)
    placements = [case.pinned for case in cases]
    assert placements == sorted(placements, reverse=True)


def test_a_running_daemon_is_measured_over_its_own_transport() -> None:
    """With an endpoint, the default run and the grid use that transport alone."""
    default = parse(["--endpoint", "tcp://127.0.0.1:5555"])
    full = parse(["--endpoint", "tcp://127.0.0.1:5555", "--full"])
    assert {case.transport for case in (*default.cases(), *full.cases())} == {"tcp"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"rounds": 0},
        {"seconds": 0},
        {"rate": -1},
        {"clients": (0,)},
        {"rows": (1, -2)},
        {"endpoint": "/tmp/x"},
    ],
)
def test_what_cannot_be_measured_is_refused_by_name(wrong: dict[str, Any]) -> None:
    """A mistake names its option."""
    with pytest.raises(ValueError, match=f"--{next(iter(wrong))}"):
        BenchOptions(**wrong)


def test_a_mistake_on_the_command_line_exits_with_status_2(capsys: pytest.CaptureFixture[str]) -> None:
    """The usual status for a usage error, and the reason on stderr."""
    with pytest.raises(SystemExit, match="2"):
        parse(["--rounds", "0"])
    assert "--rounds 0: at least 1" in capsys.readouterr().err


def test_all_options_reach_the_dataclass() -> None:
    """Every option of the command line has its place."""
    line = "--model m.txt --model-name a --set a.b=1 --set c=2 --loop open --rate 10 --json --picture p.png"
    options = parse(line.split())
    assert options == BenchOptions(
        model=Path("m.txt"),
        model_name="a",
        settings=("a.b=1", "c=2"),
        loops=("open",),
        rate=10,
        json=True,
        picture=Path("p.png"),
    )


def test_cases_that_would_only_measure_busy_do_not_fit() -> None:
    """64 clients with 4,096 rows of 158 features are more than the daemon's queue holds; everything else fits."""
    misfits = {(case.clients, case.rows) for case in grid() if not fits(case, 158)}
    assert misfits == {(64, 4096)}
