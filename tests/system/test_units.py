"""The systemd units, judged by systemd's own tools."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

UNITS = Path(__file__).parents[2] / "systemd"

pytestmark = pytest.mark.system


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with a program that exists here: where the venv goes is the installer's business."""
    text = (UNITS / "modeld.service").read_text()
    path = tmp_path / "modeld.service"
    path.write_text(text.replace("/opt/modeld/venv/bin/modeld", "/bin/true"))
    return path


def test_systemd_accepts_the_unit(unit: Path) -> None:
    """`systemd-analyze verify` has nothing to say."""
    done = subprocess.run(["systemd-analyze", "verify", unit], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_the_unit_is_hardened(unit: Path) -> None:
    """The exposure score is at most 1.5."""
    done = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--no-pager", unit],
        capture_output=True,
        text=True,
        check=False,
    )
    score = re.search(r"exposure level for \S+: ([0-9.]+)", done.stdout)
    assert score is not None, done.stdout + done.stderr
    assert float(score[1]) <= 1.5
