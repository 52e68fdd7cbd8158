"""The verbs that look: status, stats, history, events, top; and incidents that the log knows."""

from __future__ import annotations

import io
import json
import os
import pty
import signal
import subprocess
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pytest
from rich.console import Console
from tests.e2e.conftest import MODELD, Daemon
from tests.support import wait_until

from modeld.cli.observe import KINDS, describe
from modeld.cli.top import Sample, picture
from modeld.client.errors import Internal
from modelreg import Registry


def run(daemon: Daemon, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [MODELD, "--config", daemon.config, *arguments],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        check=False,
    )


def test_status_tells_by_its_exit_status(
    make_daemon: Callable[..., Daemon], daemon: Daemon, registry: Registry, tmp_path: Path
) -> None:
    """0 healthy, 1 degraded and why, 3 not ready, 7 nobody answers."""
    done = run(daemon, "status")
    assert done.returncode == 0
    assert "healthy" in done.stdout
    assert json.loads(run(daemon, "status", "--json").stdout)["ready"] is True
    registry.root.rename(registry.root.with_name("away"))
    wait_until(lambda: daemon.status()["degraded"])
    done = run(daemon, "status")
    assert done.returncode == 1
    assert "degraded: source" in done.stdout
    empty = Registry.init(tmp_path / "empty", actor="tester")
    waiting = make_daemon(empty.root, source={"require_model": False}).start(ready=False)
    with waiting.client(timeout_s=20) as client:
        assert client.live()
    done = run(waiting, "status")
    assert done.returncode == 3
    assert "not ready" in done.stdout
    assert run(daemon, "--endpoint", f"ipc://{tmp_path}/none", "status").returncode == 7


def test_a_failing_prediction_is_found_in_the_log_by_its_incident(
    make_daemon: Callable[..., Daemon], registry: Registry, tmp_path: Path
) -> None:
    """A model that is proved and overflows all the same: the reply's incident is the log line's."""
    rows = np.random.default_rng(1).uniform(-1, 1, size=(400, 2))
    parameters = {"verbosity": -1, "num_leaves": 2, "num_threads": 1}
    booster = lightgbm.train(parameters, lightgbm.Dataset(rows, rows[:, 0]), 2)
    below = rows[rows[:, 0] < -0.5][:20]
    sound = int(booster.predict(below[:1], pred_leaf=True)[0][0])
    for tree in (0, 1):
        booster.set_leaf_output(tree, 1 - sound, 1.7e308)
    path = tmp_path / "overflows.txt"
    booster.save_model(path)
    registry.register("beta", path, version="1.0.0", golden=below)
    registry.promote("beta:1.0.0", reason="first")
    daemon = make_daemon(registry.root, source={"models": ["beta"]}).start()
    with daemon.client() as client:
        client.predict(below[0])
        with pytest.raises(Internal) as caught:
            client.predict([0.9, 0.0])
    (line,) = daemon.logged("incident")
    assert line["incident"] == caught.value.parameters["incident"]
    assert (line["model"], line["version"]) == ("beta", "1.0.0")


def test_counters_events_and_the_picture_tell_the_same_story(
    daemon: Daemon, registry: Registry, rows: np.ndarray
) -> None:
    """Requests, errors by code, a swap: in stats, in events as they happen, in history and in top."""
    follower = subprocess.Popen(
        [MODELD, "--config", daemon.config, "events", "swap", "--json", "--count", "1"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert follower.stdout is not None
    assert follower.stderr is not None
    with follower:
        for line in follower.stderr:
            if "connected" in line:
                break
        with daemon.client() as client, daemon.operator() as operator:
            for row in rows[:50]:
                client.predict(row)
            with pytest.raises(Exception, match="features"):
                client.predict([1.0])
            for at in range(100):  # a subscription takes a moment to arrive, so one promotion may be missed
                registry.promote(f"alpha:{'1.1.0' if at % 2 == 0 else '1.0.0'}", reason=f"number {at}")
                operator.reload("alpha")
                with suppress(subprocess.TimeoutExpired):
                    follower.wait(3)
                    break
        (line,) = follower.stdout.read().splitlines()
    event = json.loads(line)
    assert (event["kind"], event["model_name"]) == ("swap", "alpha")
    assert event["reason"] in run(daemon, "history").stdout
    stats = json.loads(run(daemon, "stats", "--json").stdout)["models"]["alpha"]
    assert stats["requests"] == 50
    assert sum(stats["latency_us"].values()) == 50
    assert stats["events"]["swap"] >= 2
    assert stats["pending"] == 0
    table = run(daemon, "stats").stdout
    assert "event swap" in table
    assert "p99.9" in table
    drawn = run(daemon, "top", "--once", "--interval", "0.1").stdout
    assert "healthy" in drawn
    assert event["reason"] in drawn


def test_top_fits_a_terminal_of_80_columns() -> None:
    """What is looked at first stands on one line, whole; a wide terminal has the rest."""
    line = {
        "model_name": "alpha-momentum",
        "version": "20261121_181212",
        "generation": 1234,
        "state": "serving",
    }
    line |= {"warm": "20261120_181212", "trial": None, "pending": 3, "requests": 123456789}
    status = {"pid": 12345, "ready": True, "degraded": [], "models": [line], "workers": []}
    sample = Sample(0, status, {"uptime_s": 3, "models": {}}, [])

    def drawn(width: int) -> list[str]:
        console = Console(width=width, file=io.StringIO())
        with console.capture() as capture:
            console.print(picture(sample, sample, width))
        return capture.get().splitlines()

    first = next(line for line in drawn(80) if "alpha-momentum" in line).split()
    assert first == ["alpha-momentum", "20261121_181212", "serving", "1234", "0", "0", "-", "-", "3"]
    wide = "\n".join(drawn(160))
    assert "20261120_181212" in wide
    assert "123456789" in wide


@pytest.mark.parametrize("how", ["q", "Ctrl-C"])
def test_top_is_drawn_until_it_is_told_to_end(daemon: Daemon, how: str) -> None:
    """On a terminal: pictures follow each other; q and Ctrl-C end it with status 0 and leave the terminal as it was."""
    ours, theirs = pty.openpty()
    try:
        top = subprocess.Popen(
            [MODELD, "--config", daemon.config, "top", "--interval", "0.1"],
            stdin=theirs,
            stdout=theirs,
            stderr=theirs,
            env={**os.environ, "TERM": "xterm", "COLUMNS": "150", "LINES": "40"},
        )
        os.close(theirs)
        seen = b""
        while seen.count(b"healthy") < 2:
            seen += os.read(ours, 65536)
        if how == "q":
            os.write(ours, b"q")
        else:
            top.send_signal(signal.SIGINT)
        try:
            while os.read(ours, 65536):
                pass
        except OSError:  # the terminal's other end is closed
            pass
        assert top.wait(10) == 0
    finally:
        os.close(ours)


@pytest.mark.parametrize(
    ("event", "told"),
    [
        ({"kind": "state", "from": "1.0.0", "to": "1.0.0"}, "state  alpha  generation 7"),
        ({"kind": "hold", "held": True, "reason": "the open"}, "hold  alpha  generation 7  the open"),
        ({"kind": "hold", "held": False}, "hold (released)  alpha  generation 7"),
        ({"kind": "swap", "from": "1.0.0", "to": "1.1.0"}, "swap  alpha  1.0.0 → 1.1.0  generation 7"),
    ],
)
def test_events_are_shown_by_the_names_that_the_command_takes(event: dict[str, Any], told: str) -> None:
    """The first word of a line is one of `modeld events KIND`."""
    line = describe({"at": "2026-01-01T00:00:00Z", "model_name": "alpha", "generation": 7, **event})
    assert line.endswith(told)
    assert told.split()[0] in KINDS


def test_an_unknown_kind_of_event_is_named(daemon: Daemon) -> None:
    """Exit status 2, and which kinds there are."""
    done = run(daemon, "events", "explosion")
    assert done.returncode == 2
    assert "swap, rollback, rejected, hold, state" in done.stderr
