"""A daemon that follows somebody else's pointer."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.e2e.conftest import Daemon
from tests.registry.conftest import Trained
from tests.support import wait_until

from modeld.client.errors import Rejected


@pytest.fixture
def models(tmp_path: Path, trained: dict[str, Trained]) -> Path:
    """models/<timestamp>/model.txt and production/latest, as a training system lays them out."""
    for stamp, version in (("20240101_120000", "1.0.0"), ("20240201_120000", "1.1.0")):
        directory = tmp_path / "models" / stamp
        directory.mkdir(parents=True)
        (directory / "model.txt").write_bytes(trained[version].path.read_bytes())
    broken = tmp_path / "models/20240301_120000"
    broken.mkdir()
    (broken / "model.txt").write_bytes(trained["1.1.0"].path.read_bytes()[:5000])
    (tmp_path / "production").mkdir()
    (tmp_path / "production/latest").symlink_to("../models/20240101_120000")
    return tmp_path


def point(pointer: Path, target: str) -> None:
    temporary = pointer.with_name(".next")
    temporary.symlink_to(target)
    os.replace(temporary, pointer)


def test_a_symlink_is_followed_and_pointed_back(
    make_daemon: Callable[..., Daemon], models: Path, trained: dict[str, Trained], rows: np.ndarray
) -> None:
    """Swap on a rename, rejection of a truncated file with the symlink pointed back, an operator's rollback."""
    pointer = models / "production/latest"
    daemon = make_daemon(pointer, source={"kind": "path", "models": ["alpha"]}).start()
    with daemon.client() as client, daemon.operator() as operator:
        assert (
            client.predict(rows[0]).values[0] == trained["1.0.0"].booster.predict(rows[:1], num_threads=1)[0]
        )
        point(pointer, "../models/20240201_120000")
        wait_until(lambda: daemon.model()["version"].startswith("20240201_120000"))
        assert (
            client.predict(rows[0]).values[0] == trained["1.1.0"].booster.predict(rows[:1], num_threads=1)[0]
        )
        point(pointer, "../models/20240301_120000")
        with pytest.raises(Rejected, match="truncated"):
            operator.reload("alpha")
        wait_until(lambda: os.readlink(pointer) == "../models/20240201_120000")
        reply = operator.rollback("alpha", reason="spread widened")
        assert reply["to"].startswith("20240101_120000")
        assert os.readlink(pointer) == "../models/20240101_120000"
        assert client.predict(rows[0]).generation == reply["generation"]


def test_a_file_written_in_place_and_a_dangling_pointer(
    make_daemon: Callable[..., Daemon], tmp_path: Path, trained: dict[str, Trained], rows: np.ndarray
) -> None:
    """New content is a new version; a pointer that leads nowhere is degraded, and what served goes on."""
    path = tmp_path / "alpha.txt"
    path.write_bytes(trained["1.0.0"].path.read_bytes())
    daemon = make_daemon(path, source={"kind": "path"}).start()
    first = daemon.model()["version"]
    path.write_bytes(trained["1.1.0"].path.read_bytes())
    wait_until(lambda: daemon.model()["version"] != first, 10)
    path.unlink()
    os.mkfifo(path)
    wait_until(lambda: daemon.status()["degraded"])
    with daemon.client() as client:
        assert (
            client.predict(rows[0]).values[0] == trained["1.1.0"].booster.predict(rows[:1], num_threads=1)[0]
        )
    path.unlink()
    path.write_bytes(trained["1.0.0"].path.read_bytes())
    wait_until(lambda: daemon.model()["version"] == first and not daemon.status()["degraded"], 10)


def test_a_kubernetes_volume_is_followed(
    make_daemon: Callable[..., Daemon], tmp_path: Path, trained: dict[str, Trained]
) -> None:
    """A mount whose `..data` is swapped under the file's own symlink."""
    for number, version in enumerate(("1.0.0", "1.1.0")):
        directory = tmp_path / f"..{number}"
        directory.mkdir()
        (directory / "alpha.txt").write_bytes(trained[version].path.read_bytes())
    (tmp_path / "..data").symlink_to("..0")
    (tmp_path / "alpha.txt").symlink_to("..data/alpha.txt")
    daemon = make_daemon(tmp_path / "alpha.txt", source={"kind": "path"}).start()
    first = daemon.model()["digest"]
    point(tmp_path / "..data", "..1")
    wait_until(lambda: daemon.model()["digest"] != first, 10)


def test_an_operator_goes_back_where_nothing_can_be_pointed_back(
    make_daemon: Callable[..., Daemon], tmp_path: Path, trained: dict[str, Trained], rows: np.ndarray
) -> None:
    """A plain file says what it says: the warm version serves, degraded with the reason, until there is new content."""
    path = tmp_path / "alpha.txt"
    path.write_bytes(trained["1.0.0"].path.read_bytes())
    daemon = make_daemon(path, source={"kind": "path"}).start()
    first = daemon.model()["version"]
    path.write_bytes(trained["1.1.0"].path.read_bytes())
    wait_until(lambda: daemon.model()["version"] != first, 10)
    with daemon.client() as client, daemon.operator() as operator:
        reply = operator.rollback("alpha", reason="spread widened")
        assert (reply["to"], reply["written"]) == (first, False)
        assert client.predict(rows[0]).version == first
        wait_until(lambda: any("no symlink" in why for why in daemon.status()["degraded"]))
        path.write_bytes(trained["1.2.0"].path.read_bytes())
        wait_until(lambda: daemon.model()["version"] != first and not daemon.status()["degraded"], 10)
