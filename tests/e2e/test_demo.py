"""The demo, whole: the first thing that a stranger runs."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from tests.e2e.conftest import MODELD


@pytest.mark.timeout(180)
def test_the_demo_keeps_every_promise(tmp_path: Path) -> None:
    """It trains, serves, swaps, rejects and rolls back; it ends with 0, an account and a picture."""
    out = tmp_path / "demo"
    done = subprocess.run(
        [MODELD, "demo", "--out", out, "--seconds-per-phase", "0.5"],
        capture_output=True,
        text=True,
        timeout=170,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "every promise was kept" in done.stdout
    assert (out / "latency.png").read_bytes().startswith(b"\x89PNG")
