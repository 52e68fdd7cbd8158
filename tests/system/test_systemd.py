"""The unit under a real systemd, PID 1 of a throw-away container over this machine's root."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.registry.conftest import train

HERE = Path(__file__).parent
SOURCES = HERE.parents[1]

pytestmark = [pytest.mark.system, pytest.mark.timeout(600)]


@pytest.fixture
def payload(tmp_path: Path) -> Path:
    """The wheel and what it needs, the unit, two good models and a truncated one, and the script."""
    pay = tmp_path / "pay"
    shutil.copytree(HERE / "payload", pay)
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", tmp_path / "wheel", SOURCES], check=True)
    (wheel,) = (tmp_path / "wheel").glob("modeld-*.whl")
    subprocess.run(
        [*pip, "install", "--constraint", SOURCES / "constraints.txt", "--target", pay / "site", wheel],
        check=True,
    )
    shutil.copy(SOURCES / "systemd/modeld.service", pay)
    for name, column in (("m1", "AAPL"), ("m2", "KO")):
        train(pay / f"{name}.txt", column=column)
    (pay / "m3.txt").write_bytes((pay / "m2.txt").read_bytes()[:6000])
    return pay


def test_the_unit_lives_through_a_day(payload: Path, tmp_path: Path) -> None:
    """Ready with the first version; reload waits and fails for a bad one; SIGKILL and SIGSTOP; nothing is left."""
    out = tmp_path / "out"
    out.mkdir()
    done = subprocess.run(
        [HERE / "real-systemd.sh", payload, out], capture_output=True, text=True, timeout=500, check=False
    )
    log = (out / "log").read_text() if (out / "log").exists() else done.stdout + done.stderr
    assert done.returncode == 0, log
    assert log.splitlines()[-1] == "all-good"
