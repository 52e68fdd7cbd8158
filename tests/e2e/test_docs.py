"""What the documentation shows, run as it is shown."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.e2e.conftest import Daemon

from modeld.config import load
from modeld.front.guard import Guard
from modelreg import Registry

PAGE = Path(__file__).parents[2] / "docs/client.md"
SNIPPETS = re.findall(r"^```python\n(.*?)^```", PAGE.read_text(), re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("snippet", SNIPPETS, ids=[f"snippet-{at}" for at in range(len(SNIPPETS))])
def test_a_snippet_of_the_client_page_runs(daemon: Daemon, snippet: str) -> None:
    """In an interpreter of its own, against a real daemon in the place of /run/modeld."""
    code = snippet.replace("/run/modeld", str(daemon.run))
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


SECURITY = (Path(__file__).parents[2] / "docs/security.md").read_text()


def blocks(kind: str) -> list[str]:
    return re.findall(rf"^```{kind}\n(.*?)^```", SECURITY, re.MULTILINE | re.DOTALL)


def test_the_security_page_sets_up_what_it_says(registry: Registry, tmp_path: Path) -> None:
    """Its commands, lists and settings as they are shown, below another directory than /etc/modeld."""
    keygen, _, sign, openssl = (block.replace("/etc/modeld", str(tmp_path)) for block in blocks("sh"))
    listed, network, trial = (block.replace("/etc/modeld", str(tmp_path)) for block in blocks("yaml"))
    environ = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "MODELREG_ROOT": str(registry.root),
    }

    def run(script: str, directory: Path) -> str:
        done = subprocess.run(
            ["bash", "-ec", script], cwd=directory, env=environ, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    told = run(keygen, tmp_path)
    assert told.count("roles: [predict]") == told.count("roles: [read, operate]") == 1
    run(sign, tmp_path)
    shutil.copy(tmp_path / "approver.pub", registry.root)
    told = run(openssl, registry.root)
    assert "Signature Verified Successfully" in told
    assert "model.txt: OK" in told
    (tmp_path / "allow.yaml").write_text(listed)
    (tmp_path / "modeld.yaml").write_text(network + trial)
    Guard.open(load(tmp_path / "modeld.yaml", environ={}))
