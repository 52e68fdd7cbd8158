"""A real daemon on a real registry, and clients in this process."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import psutil
import pytest
import yaml
import zmq
from tests.e2e.protocol import BUNDLE, MAX_MESSAGE_BYTES, MAX_ROWS, OUTPUTS, WIDE, WIDTH, Served, connected
from tests.registry.conftest import FEATURES, Trained, features_and_returns, train
from tests.support import wait_until

from modeld.client import AdminClient, Client
from modeld.front.planned import PROVING
from modelreg import Registry

MODELD = Path(sys.executable).with_name("modeld")


class Daemon:
    """`modeld serve` on its own registry and runtime directory."""

    def __init__(self, directory: Path, root: Path, **settings: Any) -> None:
        self.directory = directory
        self.run = directory / "run"
        self.config = directory / "modeld.yaml"
        self.config.write_text(
            yaml.safe_dump(
                {
                    "runtime_dir": str(self.run),
                    "state_dir": str(directory / "state"),
                    "source": {"root": str(root), **settings.pop("source", {})},
                    "endpoints": {"data": ["ipc://{runtime_dir}/data/predict.sock"]},
                    "watch": {"poll_interval_s": 0.1},
                    **settings,
                }
            )
        )
        self.data = f"ipc://{self.run}/data/predict.sock"
        self.admin = f"ipc://{self.run}/admin/admin.sock"
        self.events = f"ipc://{self.run}/data/events.sock"
        self.log = directory / "daemon.log"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *, env: dict[str, str] | None = None, ready: bool = True) -> Daemon:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [MODELD, "--config", self.config, "--set", "logging.format=json", "serve"],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **(env or {})},
            )
        if ready:
            with self.client(timeout_s=60) as client:
                wait_until(lambda: self.exited or client.ready(), 60)
            assert not self.exited, self.log.read_text()
        return self

    @property
    def exited(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def client(self, **options: Any) -> Client:
        return Client(self.data, **{"timeout_s": 5.0, **options})

    def operator(self) -> AdminClient:
        return AdminClient(self.admin, timeout_s=10.0)

    def status(self) -> dict[str, Any]:
        with self.operator() as operator:
            reply: dict[str, Any] = operator.status()
        return reply

    def model(self, name: str = "alpha") -> dict[str, Any]:
        found: dict[str, Any] = next(m for m in self.status()["models"] if m["model_name"] == name)
        return found

    def await_plan(self, name: str = "alpha") -> None:
        """Wait until the proof of plans beside the version that serves is over."""
        wait_until(lambda: self.model(name)["path_reason"] != PROVING, 30)

    def signal(self, number: signal.Signals) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def wait(self, timeout_s: float = 15.0) -> int:
        assert self.process is not None
        return self.process.wait(timeout_s)

    def logged(self, event: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == event]

    def children(self) -> list[psutil.Process]:
        return psutil.Process(self.pid).children(recursive=True)

    def close(self) -> None:
        if self.process is None:
            return
        below = [] if self.exited else self.children()
        if not self.exited:
            self.signal(signal.SIGTERM)
        try:
            self.wait()
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise
        gone, alive = psutil.wait_procs(below, 3)
        for process in alive:
            process.kill()
        assert not alive, f"{alive} outlived the daemon; {len(gone)} did not"


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trained]:
    """Three versions on real prices, and one of three classes."""
    directory = tmp_path_factory.mktemp("trained")
    made = {
        version: train(directory / f"{version}.txt", column=column, seed=seed)
        for seed, (version, column) in enumerate({"1.0.0": "AAPL", "1.1.0": "KO", "1.2.0": "XOM"}.items())
    }
    made["classes"] = train(directory / "classes.txt", column="JPM", objective="multiclass")
    return made


@pytest.fixture(scope="session")
def rows() -> np.ndarray:
    """Real feature rows, float64 [200, 4]."""
    return np.ascontiguousarray(features_and_returns("MSFT", 300)[0][:200])


@pytest.fixture(scope="session")
def template(tmp_path_factory: pytest.TempPathFactory, trained: dict[str, Trained]) -> Path:
    """The registry that every test gets a copy of: a registry can be copied."""
    root = tmp_path_factory.mktemp("template") / "models"
    registry = Registry.init(root, actor="tester")
    for version in ("1.0.0", "1.1.0", "1.2.0"):
        registry.register("alpha", trained[version].path, version=version, golden=rows_for_golden())
    registry.promote("alpha:1.0.0", reason="first")
    return root


@pytest.fixture
def registry(tmp_path: Path, template: Path) -> Registry:
    """alpha 1.0.0 in production, 1.1.0 and 1.2.0 registered."""
    return Registry(shutil.copytree(template, tmp_path / "models", symlinks=True), actor="tester")


def rows_for_golden() -> np.ndarray:
    return np.ascontiguousarray(features_and_returns("PEP", 200)[0][:32])


def register_truncated(registry: Registry, trained: Trained, directory: Path, version: str) -> None:
    """A version whose model file was cut, sealed without being loaded."""
    path = directory / f"{version}-cut.txt"
    path.write_bytes(trained.path.read_bytes()[: trained.path.stat().st_size * 6 // 10])
    registry.register("alpha", path, version=version, golden=False, features=FEATURES)


def register_killer(registry: Registry, trained: Trained, directory: Path, version: str) -> None:
    """A version that looks whole and kills the process that loads it: a child index far outside its tree."""
    path = directory / f"{version}-killer.txt"
    lines = trained.path.read_text().splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith("left_child="))
    children = lines[at].removeprefix("left_child=").split(" ")
    children[0] = "9" * len(children[0])
    lines[at] = "left_child=" + " ".join(["99999999", *children[1:]])
    text = "\n".join(lines) + "\n"
    sizes = next(line for line in lines if line.startswith("tree_sizes="))
    first = int(sizes.removeprefix("tree_sizes=").split(" ")[0])
    grown = first + len(lines[at]) - len("left_child=" + trained_children(trained))
    path.write_text(text.replace(sizes, sizes.replace(f"={first} ", f"={grown} ", 1)))
    registry.register("alpha", path, version=version, golden=False, features=FEATURES)


def trained_children(trained: Trained) -> str:
    line = next(line for line in trained.path.read_text().splitlines() if line.startswith("left_child="))
    return line.removeprefix("left_child=")


@pytest.fixture
def make_daemon(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    """Starts daemons in short directories (socket paths have 107 bytes) and takes them down."""
    made: list[Daemon] = []
    directories: list[Path] = []

    def make(root: Path | None = None, **settings: Any) -> Daemon:
        directory = Path(tempfile.mkdtemp(prefix="md-"))
        directories.append(directory)
        daemon = Daemon(directory, root or tmp_path / "models", **settings)
        made.append(daemon)
        return daemon

    yield make
    try:
        for daemon in made:
            daemon.close()
    finally:
        for directory in directories:
            shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def free_port() -> int:
    """A TCP port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@pytest.fixture
def daemon(registry: Registry, make_daemon: Callable[..., Daemon]) -> Daemon:
    """A ready daemon that serves alpha 1.0.0."""
    return make_daemon(registry.root).start()


@pytest.fixture(scope="module")
def served(template: Path, trained: dict[str, Trained]) -> Iterator[Served]:
    """alpha 1.1.0 with 1.0.0 warm, a bundle of a regression and a classifier, and a model of 64 features."""
    directory = Path(tempfile.mkdtemp(prefix="md-"))
    registry = Registry(shutil.copytree(template, directory / "models", symlinks=True), actor="tester")
    registry.register(BUNDLE, dict(zip(OUTPUTS, (trained["1.0.0"].path, trained["classes"].path), strict=True)),
                      version="1.0.0")  # fmt: skip
    registry.promote(f"{BUNDLE}:1.0.0", reason="first")
    wide = directory / "wide.txt"
    chance = np.random.default_rng(1)
    lightgbm.train(
        {"verbosity": -1, "num_leaves": 4, "num_threads": 1},
        lightgbm.Dataset(chance.normal(size=(200, WIDTH)), chance.normal(size=200)),
        2,
    ).save_model(wide)
    registry.register(WIDE, wide, version="1.0.0", golden=False)
    registry.promote(f"{WIDE}:1.0.0", reason="first")
    daemon = Daemon(
        directory, registry.root, limits={"max_rows": MAX_ROWS, "max_message_bytes": MAX_MESSAGE_BYTES}
    )
    try:
        daemon.start()
        wait_until(lambda: all(model["version"] for model in daemon.status()["models"]), 30)
        registry.promote("alpha:1.1.0", reason="next")
        wait_until(lambda: daemon.model()["version"] == "1.1.0", 30)
        with (
            zmq.Context() as context,
            connected(context, zmq.DEALER, daemon.data) as sock,
            connected(context, zmq.DEALER, daemon.admin) as admin,
        ):
            yield Served(daemon, registry, sock, admin)
    finally:
        daemon.close()
        shutil.rmtree(directory, ignore_errors=True)
