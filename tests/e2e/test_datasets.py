"""Data sets: a version is compared with the current ones before it serves for the first time, and only then."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.e2e.conftest import Daemon
from tests.registry.conftest import Trained
from tests.support import wait_until

from modelreg import Registry


@pytest.fixture
def current(tmp_path: Path) -> Path:
    """The file that tells the current data sets."""
    path = tmp_path / "datasets.json"
    path.write_text(json.dumps({"prices": "2024-01"}))
    return path


@pytest.fixture
def trained_on(registry: Registry, trained: dict[str, Trained]) -> Callable[[str, list[str]], None]:
    """Registers and promotes a version of alpha that was trained on these data sets."""

    def register(version: str, datasets: list[str]) -> None:
        registry.register(
            "alpha",
            trained["1.1.0"].path,
            version=version,
            golden=False,
            meta={"dataset_version_ids": datasets},
        )
        registry.promote(f"alpha:{version}", reason="next")

    return register


def settings(how: str, current: Path, **more: Any) -> dict[str, Any]:
    if how == "file":
        return {"file": str(current), **more}
    told = f"import pathlib; print(pathlib.Path({str(current)!r}).read_text())"
    return {"command": [sys.executable, "-c", told], **more}


def rejection(daemon: Daemon) -> dict[str, Any]:
    return daemon.model()["last_rejection"] or {}


@pytest.mark.parametrize("how", ["file", "command"])
def test_drift_is_a_rejection_that_names_the_data_set(
    make_daemon: Callable[..., Daemon], registry: Registry, current: Path, trained_on, how: str
) -> None:
    """Strict: a version of other data never serves; one of the current data does, also after the data went on."""
    daemon = make_daemon(registry.root, datasets=settings(how, current)).start()
    assert daemon.model()["version"] == "1.0.0"  # it says nothing of data sets
    trained_on("2.0.0", ["prices@2023-12"])
    wait_until(lambda: rejection(daemon).get("version") == "2.0.0", 15)
    assert (
        rejection(daemon)["reason"]
        == "verifying: data set 'prices' is at 2024-01; the model was trained on 2023-12"
    )
    wait_until(lambda: registry.state("alpha").channels["production"].version == "1.0.0")
    trained_on("2.1.0", ["prices@2024-01"])
    wait_until(lambda: daemon.model()["version"] == "2.1.0", 15)


def test_lenient_drift_is_a_warning(
    make_daemon: Callable[..., Daemon], registry: Registry, current: Path, trained_on
) -> None:
    """It serves, the log and status say what drifted, and nothing is degraded; a missing data set still rejects."""
    daemon = make_daemon(registry.root, datasets=settings("file", current, strict=False)).start()
    trained_on("2.0.0", ["prices@2023-12"])
    wait_until(lambda: daemon.model()["version"] == "2.0.0", 15)
    warning = "data set 'prices' is at 2024-01; the model was trained on 2023-12"
    assert daemon.model()["warnings"] == [warning]
    assert [line["warning"] for line in daemon.logged("dataset_drift")] == [warning]
    assert daemon.status()["degraded"] == []
    trained_on("2.1.0", ["volumes@1"])
    wait_until(lambda: "'volumes' is missing" in rejection(daemon).get("reason", ""), 15)


def test_a_restart_serves_what_served_whatever_the_data_are_by_now(
    make_daemon: Callable[..., Daemon], registry: Registry, current: Path, trained_on
) -> None:
    """Data sets go on every day: neither a restart nor a new worker is a reason to be without the version."""
    trained_on("2.0.0", ["prices@2024-01"])
    daemon = make_daemon(registry.root, datasets=settings("file", current), probation={"seconds": 0}).start()
    wait_until(lambda: (daemon.directory / "state/good/alpha.json").exists())
    current.write_text(json.dumps({"prices": "2024-02"}))
    daemon.close()
    daemon.start()
    assert daemon.model()["version"] == "2.0.0"


def test_while_the_current_data_sets_are_not_known_a_version_waits(
    make_daemon: Callable[..., Daemon], registry: Registry, current: Path, trained_on
) -> None:
    """That says nothing about the version: it is tried again, degraded until then."""
    told = current.read_text()
    current.unlink()
    daemon = make_daemon(registry.root, datasets=settings("file", current)).start()
    trained_on("2.0.0", ["prices@2024-01"])
    wait_until(lambda: any("can't be told" in why for why in daemon.status()["degraded"]), 15)
    assert daemon.model()["version"] == "1.0.0"
    current.write_text(told)
    wait_until(lambda: daemon.model()["version"] == "2.0.0", 20)
    wait_until(lambda: daemon.status()["degraded"] == [])
