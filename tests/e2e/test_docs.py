"""What the documentation shows, run as it is shown."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from tests.e2e.conftest import Daemon

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
