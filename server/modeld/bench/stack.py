"""A whole stack for the benchmark's own use: a model, a registry, and real daemons one after another.

Everything goes through the installed commands, as a user's would: `modelreg init`, `register`, `promote`, and
`modeld --config F serve`. All of it is below one temporary directory.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import yaml

from modeld.bench.errors import BenchError
from modeld.bench.lines import pinned
from modeld.bench.target import Target
from modeld.client import AdminClient, Client
from modeld.client.errors import ModeldError
from modeld.demo.processes import await_that, child, run, script
from modeld.front.planned import PROVING

#: The one model's name.
MODEL = "reference"
#: Seconds until the daemon has to be ready.
READY_TIMEOUT_S = 60.0
#: Below the runtime directory; the longest of them bounds that directory's length.
DATA_SOCKET, ADMIN_SOCKET, EVENTS_SOCKET = "data/predict.sock", "admin/admin.sock", "data/events.sock"


@dataclass(slots=True)
class Stack:
    """The files of one run.

    Attributes:
        directory: temporary; short enough for unix sockets below it.
        settings: `key=value` for each daemon that is started.
        description: the model's sizes, once it is there.
    """

    directory: Path
    settings: Sequence[str] = ()
    description: str = ""
    _versions: list[str] = field(default_factory=list)

    @property
    def model_file(self) -> Path:
        """The model as LightGBM text."""
        return self.directory / "model" / "model.txt"

    @property
    def rows_file(self) -> Path:
        """The rows to ask for."""
        return self.directory / "model" / "rows.npy"

    @property
    def admin(self) -> str:
        """The admin socket of the daemon that runs."""
        return f"ipc://{self.directory}/run/{ADMIN_SOCKET}"

    @property
    def records(self) -> Path:
        """The model's commit log in the registry."""
        return self.directory / "registry" / MODEL / "log"

    def prepare(self, model: Path | None, rows: int) -> None:
        """Train the reference model, or take the one given; register it and promote it.

        Raises:
            DemoError: a command failed; the message has what it said.
        """
        command = [
            sys.executable,
            "-m",
            "modeld.bench.model",
            str(self.directory / "model"),
            "--rows",
            str(rows),
        ]
        if model is not None:
            command += ["--from", str(model)]
        self.description = run(command).strip()
        self._modelreg("init")
        self.promote(self.register())

    def register(self) -> str:
        """Register the model once more, as a new version; returns its name."""
        version = f"1.{len(self._versions)}.0"
        self._modelreg("register", MODEL, str(self.model_file), "--version", version)
        self._versions.append(version)
        return version

    def promote(self, version: str) -> None:
        """Make a version production."""
        self._modelreg("promote", f"{MODEL}:{version}", "--reason", "benchmark")

    @contextmanager
    def daemon(self, cpus: Sequence[int] | None) -> Iterator[Target]:
        """A daemon that serves the promoted version; on these cores with all its children, or wherever.

        Raises:
            BenchError: it didn't get ready; the message has the end of its log.
        """
        endpoints = {
            "ipc": f"ipc://{self.directory}/run/{DATA_SOCKET}",
            "tcp": f"tcp://127.0.0.1:{_free_port()}",
        }
        log = self.directory / "modeld.log"
        command = [script("modeld"), "--config", str(self._write_config(endpoints))]
        for setting in self.settings:
            command += ["--set", setting]
        with pinned(cpus):
            starting = child("daemon", [*command, "serve"], log)
            daemon = starting.__enter__()
        try:
            with Client(endpoints["ipc"], timeout_s=1.0) as client:
                try:
                    await_that("modeld is ready", lambda: _ready(client), [daemon], timeout_s=READY_TIMEOUT_S)
                except Exception as error:
                    end = "\n".join(log.read_text(errors="replace").splitlines()[-20:])
                    raise BenchError(f"{error}\nthe end of the daemon's log:\n{end}") from error
            with AdminClient(self.admin) as admin:
                # What is measured is the daemon at rest, not the proof of its plan.
                await_that("the plan is proved", lambda: _proved(admin), [daemon], timeout_s=READY_TIMEOUT_S)
            yield self.target(endpoints)
        finally:
            starting.__exit__(None, None, None)

    def target(self, endpoints: dict[str, str]) -> Target:
        """What is measured at these endpoints."""
        model = self.directory / "model"
        rows, expected = np.load(model / "rows.npy"), np.load(model / "expected.npy")
        return Target(endpoints, MODEL, rows, expected, self.description)

    def _write_config(self, endpoints: dict[str, str]) -> Path:
        runtime = self.directory / "run"
        (self.directory / "state").mkdir(exist_ok=True)
        path = self.directory / "modeld.yaml"
        settings = {
            "runtime_dir": str(runtime),
            "state_dir": str(self.directory / "state"),
            "source": {"kind": "registry", "root": str(self.directory / "registry"), "channel": "production"},
            "endpoints": {
                "data": list(endpoints.values()),
                "admin": self.admin,
                "events": f"ipc://{runtime}/{EVENTS_SOCKET}",
            },
        }
        path.write_text(yaml.safe_dump(settings, sort_keys=False))
        return path

    def _modelreg(self, *arguments: str) -> str:
        return run([script("modelreg"), "--root", str(self.directory / "registry"), *arguments])


def _ready(client: Client) -> bool:
    with suppress(ModeldError):
        return client.ready(MODEL)
    return False


def _proved(admin: AdminClient) -> bool:
    return all(model["path_reason"] != PROVING for model in admin.status()["models"])


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
