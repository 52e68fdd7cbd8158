"""The demo: train, register, serve, swap, break, roll back, and account for every single request.

Everything is real: the commands are the installed ones, the daemon and the client are processes of their own,
and what is printed at the end is computed from the client's log and from predictions made offline. This
process starts and watches the others; it never loads a model.
"""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np

from modeld.client import AdminClient, Client
from modeld.client.errors import ModeldError
from modeld.demo import picture, report
from modeld.demo.account import Account, Fact, Step, make_account
from modeld.demo.layout import ADMIN_SOCKET, MODEL, Layout, clear
from modeld.demo.processes import (
    Child,
    DemoError,
    await_that,
    child,
    hold,
    run,
    runtime_directory,
    script,
    sigterm_as_interrupt,
)
from modeld.demo.stream_log import StreamLog

#: The versions: two that were trained, and the second's file cut off.
FIRST, SECOND, BROKEN = "1.0.0", "1.1.0", "1.2.0"
#: What the daemon and the client say, below the output directory.
DAEMON_LOG, CLIENT_LOG = "modeld.log", "client.log"
#: How much of the second model's file the broken one keeps. LightGBM dies of SIGSEGV when it loads it.
KEPT = 0.6
#: Seconds of streaming between two steps.
SECONDS_PER_PHASE = 2.0
#: Seconds until the daemon has to be ready, and until a step has to be over.
START_TIMEOUT_S, STEP_TIMEOUT_S = 60.0, 45.0


def run_demo(out: Path, seconds_per_phase: float = SECONDS_PER_PHASE) -> int:
    """Run the whole scenario; everything it started is gone when it returns.

    Args:
        out: a directory for the registry, logs and the picture; an earlier demo's is cleared first.
        seconds_per_phase: how long the client streams between two steps.

    Returns:
        0 when every promise was kept, 1 when one wasn't or the demo couldn't go on, 130 when interrupted.
    """
    try:
        with ExitStack() as stack:
            if threading.current_thread() is threading.main_thread():
                stack.enter_context(sigterm_as_interrupt())
            runtime = stack.enter_context(runtime_directory(longest=ADMIN_SOCKET))
            return _run(Layout(clear(out), runtime), seconds_per_phase)
    except (DemoError, ModeldError) as error:
        print(f"\nthe demo couldn't go on: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted; every process of the demo is stopped", file=sys.stderr)
        return 130


def main(argv: list[str] | None = None) -> int:
    """`run_demo` with arguments."""
    parser = argparse.ArgumentParser(
        prog="modeld demo", description="Train, serve, swap, break and roll back."
    )
    parser.add_argument(
        "--out", type=Path, default=Path("demo-output"), help="directory for what the demo leaves"
    )
    parser.add_argument(
        "--seconds-per-phase", type=float, default=SECONDS_PER_PHASE, help="seconds between steps"
    )
    arguments = parser.parse_args(argv)
    return run_demo(arguments.out, arguments.seconds_per_phase)


def _run(layout: Layout, seconds: float) -> int:
    started = time.monotonic()
    _say("training two models on real prices, walk-forward")
    run([sys.executable, "-m", "modeld.demo.train", str(layout.models)], echo=True)
    _say(f"registering {FIRST}, {SECOND}, and {BROKEN}: {SECOND}'s file cut at {KEPT:.0%}; promoting {FIRST}")
    _register(layout)
    stream_log = layout.out / "stream.npz"
    command = [script("modeld"), "--config", str(layout.write_config()), "serve"]
    try:
        with child("daemon", command, layout.out / DAEMON_LOG) as daemon:
            _say("starting modeld serve")
            steps, facts = _stream_and_swap(layout, daemon, stream_log, seconds)
            facts.append(Fact("the daemon drains and exits 0 on SIGTERM", daemon.stop() == 0))
        account = _judge(layout, stream_log, steps, facts)
    except (DemoError, ModeldError):
        _print_log_ends(layout)
        raise
    print(report.render(account))
    drawn = picture.draw(StreamLog.load(stream_log), account, layout.out / "latency.png")
    print(f"picture: {layout.out / 'latency.png'}" if drawn else picture.MISSING)
    print(f"logs and registry: {layout.out}  ({time.monotonic() - started:.0f} s)")
    print(report.verdict(account), flush=True)
    if account.broken:
        _print_log_ends(layout)
    return 1 if account.broken else 0


def _print_log_ends(layout: Layout, lines: int = 25) -> None:
    for name in (DAEMON_LOG, CLIENT_LOG):
        with suppress(OSError):
            end = (layout.out / name).read_text(errors="replace").splitlines()[-lines:]
            print(f"\nthe end of {layout.out / name}:", *end, sep="\n", file=sys.stderr)


def _register(layout: Layout) -> None:
    whole = layout.model_file(SECOND).read_bytes()
    layout.model_file(BROKEN).write_bytes(whole[: int(len(whole) * KEPT)])
    _modelreg(layout, "init")
    for version in (FIRST, SECOND):
        metrics = f"@{layout.models / version}.metrics.json"
        file = str(layout.model_file(version))
        _modelreg(layout, "register", MODEL, file, "--version", version, "--metrics", metrics)
    _modelreg(layout, "register", MODEL, str(layout.model_file(BROKEN)), "--version", BROKEN, "--no-golden")
    _promote(layout, FIRST, "first model")


def _stream_and_swap(
    layout: Layout, daemon: Child, stream_log: Path, seconds: float
) -> tuple[list[Step], list[Fact]]:
    """The scenario proper: returns what was done and what was seen, once the stream has ended."""
    command = [sys.executable, "-m", "modeld.demo.stream", "--model", MODEL]
    command += ["--endpoint", layout.data_endpoint, "--rows", str(layout.held_out), "--log", str(stream_log)]
    with ExitStack() as stack:
        client = stack.enter_context(Client(layout.data_endpoint))
        admin = stack.enter_context(AdminClient(layout.admin_endpoint, timeout_s=10))
        await_that("modeld is ready", lambda: _ready(client), [daemon], timeout_s=START_TIMEOUT_S)
        stream = stack.enter_context(child("client", command, layout.out / CLIENT_LOG))
        both = [daemon, stream]
        await_that("the first reply", lambda: stream.said("streaming"), both, timeout_s=START_TIMEOUT_S)
        _say("a client in another process streams held-out rows, one a request")
        facts: list[Fact] = []
        steps: list[Step] = []

        def settle(what: str, predicate: Callable[[], object]) -> None:
            await_that(what, predicate, both, timeout_s=STEP_TIMEOUT_S)

        hold(seconds, both)
        _say(f"promoting {SECOND}")
        begun = _Begun(layout)
        _promote(layout, SECOND, "second model")
        settle(f"modeld serves {SECOND}", lambda: _served(admin)["version"] == SECOND)
        steps.append(begun.step("swap", SECOND, serves=SECOND))

        hold(seconds, both)
        _say(f"promoting {BROKEN}, the truncated one")
        begun = _Begun(layout)
        _promote(layout, BROKEN, "looks good on paper")
        settle(f"modeld rejects {BROKEN}", lambda: _rejection(admin).get("version") == BROKEN)
        note = str(_rejection(admin).get("reason", ""))
        steps.append(begun.step("rejection", BROKEN, serves=SECOND, note=note))
        settle(f"the registry is rolled back to {SECOND}", lambda: _production(layout) == SECOND)
        failed = _show(layout, f"{MODEL}:{BROKEN}").get("status")
        facts.append(Fact(f"the registry marks {BROKEN} as failed", failed == "failed"))

        hold(seconds, both)
        _say("an operator sends a rollback message")
        begun = _Begun(layout)
        reply = admin.rollback(
            MODEL, reason="drift in the live account", expect_generation=int(_served(admin)["generation"])
        )
        settle(f"modeld serves {FIRST}", lambda: _served(admin)["version"] == FIRST)
        steps.append(begun.step("rollback", FIRST, serves=FIRST))
        said = (reply.get("rolled_back"), reply.get("from"), reply.get("to"))
        facts.append(
            Fact(f"the rollback's reply says from {SECOND} to {FIRST}", said == (True, SECOND, FIRST))
        )
        settle(f"the registry says that {FIRST} is production", lambda: _production(layout) == FIRST)

        hold(seconds, both)
        if (status := stream.stop()) != 0:
            raise DemoError(f"the client ended with status {status}")
        return steps, facts


def _judge(layout: Layout, stream_log: Path, steps: Sequence[Step], facts: Sequence[Fact]) -> Account:
    offline_file = layout.out / "offline.npz"
    pairs = [f"{version}={layout.model_file(version)}" for version in (FIRST, SECOND)]
    run([sys.executable, "-m", "modeld.demo.offline", str(layout.held_out), str(offline_file), *pairs])
    with np.load(offline_file) as file:
        offline = {str(version): file["values"][index] for index, version in enumerate(file["versions"])}
    return make_account(StreamLog.load(stream_log), offline, FIRST, steps, facts)


class _Begun:
    """A step that has begun: knows when, and finds the registry's record of it afterwards."""

    def __init__(self, layout: Layout) -> None:
        self._directory = layout.records
        self._before = set(self._records())
        self._started_ns = time.monotonic_ns()

    def step(self, kind: Any, version: str, *, serves: str, note: str = "") -> Step:
        """The step, now that it is over."""
        settled_ns = time.monotonic_ns()
        new = [path for path in self._records() if path not in self._before]
        committed_ns = None
        if new:
            # A record's file is written just before its commit; only the wall clock is kept with a file.
            wall_minus_monotonic_ns = time.time_ns() - time.monotonic_ns()
            committed_ns = new[0].stat().st_mtime_ns - wall_minus_monotonic_ns
        return Step(kind, version, serves, self._started_ns, committed_ns, settled_ns, note)

    def _records(self) -> list[Path]:
        return sorted(self._directory.glob("[0-9]*.json"))


def _modelreg(layout: Layout, *arguments: str) -> str:
    return run([script("modelreg"), "--root", str(layout.registry), *arguments])


def _promote(layout: Layout, version: str, reason: str) -> None:
    _modelreg(layout, "promote", f"{MODEL}:{version}", "--reason", reason)


def _show(layout: Layout, reference: str) -> dict[str, Any]:
    shown = json.loads(_modelreg(layout, "--json", "show", reference))
    if not isinstance(shown, dict):
        raise DemoError(f"`modelreg --json show {reference}` printed no object: {shown!r}")
    return shown


def _production(layout: Layout) -> str:
    return str(_show(layout, f"{MODEL}:production").get("version"))


def _served(admin: AdminClient) -> dict[str, Any]:
    for model in admin.status()["models"]:
        if model["model_name"] == MODEL:
            return dict(model)
    raise DemoError(f"modeld's status doesn't know {MODEL}")


def _rejection(admin: AdminClient) -> dict[str, Any]:
    return _served(admin).get("last_rejection") or {}


def _ready(client: Client) -> bool:
    with suppress(ModeldError):
        return client.ready(MODEL)
    return False


def _say(text: str) -> None:
    print(f"— {text}", flush=True)


if __name__ == "__main__":
    raise SystemExit(main())
