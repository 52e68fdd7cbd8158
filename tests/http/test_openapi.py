"""The registry API's description, and schemathesis, which believes it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from tests.http.conftest import Gateway, Serve


def test_everything_is_described(gateway: Gateway):
    """Each operation has a summary, its parameters' meaning, the problems it may answer, and needs a token."""
    described = gateway.client.get("/api/v1/openapi.json").json()
    operations = {
        f"{method} {path}": operation
        for path, methods in described["paths"].items()
        for method, operation in methods.items()
    }
    assert len(operations) == 14
    for name, operation in operations.items():
        assert operation["description"], name
        assert operation["security"] == [{"HTTPBearer": []}], name
        assert {"401", "403", "404", "503"} <= operation["responses"].keys(), name
        assert "application/problem+json" in operation["responses"]["404"]["content"]


@pytest.mark.timeout(400)
def test_schemathesis_finds_nothing(serve: Serve):
    """Hundreds of right and wrong requests: no 5xx, and every answer is as described."""
    gateway = serve(start=False)
    done = subprocess.run(
        [sys.executable, "-m", "schemathesis.cli", "--config-file", str(Path(__file__).with_name("schemathesis.toml")),
         "run", f"{gateway.url}/api/v1/openapi.json", "-H", f"Authorization: {gateway.bearer()['Authorization']}",
         "--phases", "coverage", "--seed", "1", "--no-color", "--request-timeout", "60",
         # Each of these takes a process that loads a model, or a daemon.
         "--exclude-path-regex", "validate$|reload$"],
        cwd=gateway.daemon.directory, capture_output=True, text=True, timeout=380, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-6000:] + done.stderr
    assert gateway.logged("incident") == []
