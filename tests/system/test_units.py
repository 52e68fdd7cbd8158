"""The systemd units, judged by systemd's own tools."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).parents[2] / "systemd"
SERVICES = sorted(path.name for path in UNITS.glob("*.service"))

pytestmark = pytest.mark.system


@pytest.fixture
def units(tmp_path: Path) -> Path:
    """All units with a program that exists here: where the venv goes is the installer's business."""
    for path in UNITS.glob("*.*"):
        if path.is_file():
            text = re.sub(r"/opt/modeld/venv/bin/\w+", "/bin/true", path.read_text())
            (tmp_path / path.name).write_text(text)
    shutil.copy(tmp_path / "modeld@.service", tmp_path / "modeld@b.service")
    return tmp_path


def test_systemd_accepts_the_units(units: Path) -> None:
    """`systemd-analyze verify` has nothing to say."""
    names = [path for path in sorted(units.iterdir()) if path.is_file() and path.name != "modeld@.service"]
    done = subprocess.run(["systemd-analyze", "verify", *names], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_hardened(units: Path, name: str) -> None:
    """The exposure score is at most 1.5."""
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", units / name],
        capture_output=True,
        text=True,
        check=False,
    )
    score = re.search(r"exposure level for \S+: ([0-9.]+)", done.stdout)
    assert score is not None, done.stdout + done.stderr
    assert float(score[1]) <= 1.5


def test_the_instances_are_hardened_as_the_one_is() -> None:
    """`modeld@.service` differs from `modeld.service` in its names and directories alone."""

    def settings(name: str) -> list[str]:
        lines = (UNITS / name).read_text().replace("modeld-%i", "modeld").replace("%i.yaml", "modeld.yaml")
        return [
            line
            for line in lines.splitlines()
            if "=" in line and line[0] != "#" and "Description" not in line
        ]

    assert [
        line for line in settings("modeld@.service") if not line.startswith("ReadWritePaths=")
    ] == settings("modeld.service")
