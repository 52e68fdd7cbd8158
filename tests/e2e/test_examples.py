"""The example clients, built as their heads say and run against a real daemon."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import yaml
from tests.e2e.conftest import Daemon
from tests.registry.conftest import Trained

from modeld import keys

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"

Command = list[str | Path]


@pytest.fixture(scope="session")
def c_client(tmp_path_factory: pytest.TempPathFactory) -> Command:
    """Compiled without a warning."""
    program = tmp_path_factory.mktemp("c") / "predict"
    source = EXAMPLES / "c/predict.c"
    flags = ["-O2", "-Wall", "-Wextra", "-Wpedantic", "-Werror"]
    subprocess.run(["cc", *flags, "-o", program, source, "-lzmq"], check=True)
    return [program]


@pytest.fixture(scope="session")
def node_client(tmp_path_factory: pytest.TempPathFactory) -> Command:
    """A copy with the pinned zeromq beside it."""
    directory = tmp_path_factory.mktemp("node")
    for name in ("package.json", "predict.js"):
        shutil.copy(EXAMPLES / "node" / name, directory)
    quiet = ["--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error"]
    subprocess.run(["npm", "install", *quiet], cwd=directory, check=True)
    return ["node", directory / "predict.js"]


@pytest.fixture(scope="session")
def python_client() -> Command:
    return [sys.executable, EXAMPLES / "python/predict.py"]


@pytest.fixture(
    params=[
        pytest.param("c_client", marks=pytest.mark.system),
        pytest.param("node_client", marks=pytest.mark.system),
        "python_client",
    ]
)
def command(request: pytest.FixtureRequest) -> Command:
    found: Command = request.getfixturevalue(request.param)
    return found


def run(command: Command, *arguments: object, **env: str) -> subprocess.CompletedProcess[str]:
    words = [*map(str, command), *map(str, arguments)]
    environ = {**os.environ, **env}
    return subprocess.run(words, capture_output=True, text=True, timeout=30, check=False, env=environ)


def test_an_example_predicts_to_the_bit(
    command: Command, daemon: Daemon, trained: dict[str, Trained], rows: np.ndarray
) -> None:
    """Value, version and generation; a missing value too."""
    row = rows[0].copy()
    for missing in (False, True):
        if missing:
            row[1] = np.nan
        done = run(command, daemon.data, "alpha", *map(repr, row.tolist()))
        assert (done.returncode, done.stderr) == (0, "")
        value, version, generation = done.stdout.split()
        assert float(value) == trained["1.0.0"].booster.predict(row[None], num_threads=1)[0]
        assert (version, generation) == ("1.0.0", "4")


@pytest.mark.usefixtures("registry")
def test_an_example_predicts_over_tcp(
    command: Command, make_daemon: Callable[..., Daemon], free_port: int
) -> None:
    """The same over the network's socket."""
    endpoint = f"tcp://127.0.0.1:{free_port}"
    make_daemon(endpoints={"data": ["ipc://{runtime_dir}/data/predict.sock", endpoint]}).start()
    assert run(command, endpoint, "alpha", 0.1, 0.2, 0.3, 0.4).returncode == 0


@pytest.mark.usefixtures("registry")
def test_an_example_speaks_curve(
    command: Command, make_daemon: Callable[..., Daemon], free_port: int, tmp_path: Path
) -> None:
    """With a listed key it predicts; with none it gets no reply."""
    server, client = keys.generate(), keys.generate()
    _, secret = keys.write_pair(tmp_path, "server", server)
    listed = {"keys": [{"key": client.public, "name": "engine", "roles": ["predict"]}]}
    (tmp_path / "allow.yaml").write_text(yaml.safe_dump(listed))
    endpoint = f"tcp://127.0.0.1:{free_port}"
    make_daemon(
        endpoints={"data": ["ipc://{runtime_dir}/data/predict.sock", endpoint]},
        security={"curve_secret_file": str(secret), "allow_list": str(tmp_path / "allow.yaml")},
    ).start()
    given = {
        "MODELD_SERVER_KEY": server.public,
        "MODELD_PUBLIC_KEY": client.public,
        "MODELD_SECRET_KEY": client.secret,
    }
    done = run(command, endpoint, "alpha", 0.1, 0.2, 0.3, 0.4, **given)
    assert (done.returncode, done.stderr) == (0, "")
    assert run(command, endpoint, "alpha", 0.1, 0.2, 0.3, 0.4).returncode == 2


def test_an_example_tells_errors(command: Command, daemon: Daemon, tmp_path: Path) -> None:
    """Status 1 with the code for a refusal, 2 where nobody answers."""
    refused = run(command, daemon.data, "alpha", 1, 2, 3)
    assert refused.returncode == 1
    assert "SHAPE_MISMATCH" in refused.stderr
    assert run(command, f"ipc://{tmp_path}/nobody", "alpha", 1, 2, 3, 4).returncode == 2


@pytest.mark.parametrize("name", ["c/predict.c", "node/predict.js", "python/predict.py"])
def test_the_page_shows_the_files(name: str) -> None:
    """docs/wire.md has each example as it is."""
    assert (EXAMPLES / name).read_text() in (ROOT / "docs/wire.md").read_text()
