"""A real gateway before a real daemon and a real registry; clients in this process."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gevent
import httpx
import pytest
from tests.e2e.conftest import MODELD, Daemon, rows, template, trained
from tests.support import wait_until

from modeld.config import JwtSettings
from modeld.http.tokens import SCOPES, issue
from modelreg import Registry

__all__ = ["rows", "template", "trained"]


@pytest.fixture(scope="session", autouse=True)
def _loop_of_gevent() -> None:
    """tritonclient's event loop stays until the interpreter ends: start it before a test is blamed for it."""
    gevent.get_hub().loop  # noqa: B018 (reading it makes it)
    gevent.sleep(0)


class Gateway:
    """`modeld http` before a daemon, with a secret for tokens."""

    def __init__(self, daemon: Daemon, *settings: str, key: bool = True) -> None:
        self.daemon = daemon
        self.log = daemon.directory / "http.log"
        self.key = daemon.directory / "key"
        self.key.write_text("a secret that only this test knows, not short")
        self.key.chmod(0o600)
        secret = [f"http.jwt.key_file={self.key}"] if key else []
        command = [str(MODELD), "--config", str(daemon.config)]
        for setting in (*secret, "logging.format=json", "http.max_upload_mb=1", *settings):
            command += ["--set", setting]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*command, "http", "--port", "0"], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        wait_until(lambda: self._listening() or self.process.poll() is not None, 30)
        assert self.process.poll() is None, self.log.read_text()
        self.url: str = self._listening()[0]["url"]
        # No connection outlives its request: a test would be blamed for it.
        options: dict[str, Any] = {"base_url": self.url, "timeout": 60, "trust_env": False}
        options["limits"] = httpx.Limits(max_keepalive_connections=0)
        self.client = httpx.Client(**options)
        self.operator = httpx.Client(**options, headers=self.bearer())

    def _listening(self) -> list[dict[str, Any]]:
        return self.logged("listening")

    def logged(self, event: str) -> list[dict[str, Any]]:
        lines = [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]
        return [line for line in lines if line["event"] == event]

    @property
    def address(self) -> str:
        return self.url.removeprefix("http://")

    def bearer(self, *scopes: str, subject: str = "trader") -> dict[str, str]:
        token = issue(JwtSettings(), self.key, subject, scopes or SCOPES, 600)
        return {"Authorization": f"Bearer {token}"}

    def close(self) -> None:
        self.client.close()
        self.operator.close()
        self.process.send_signal(signal.SIGTERM)
        try:
            assert self.process.wait(20) in (0, -signal.SIGTERM), self.log.read_text()
        finally:
            self.process.kill()
            self.process.wait()


Serve = Callable[..., Gateway]


def _maker(directories: list[Path], made: list[Gateway], template: Path) -> Serve:
    def serve(*settings: str, start: bool = True, key: bool = True, **daemon_settings: Any) -> Gateway:
        directory = Path(tempfile.mkdtemp(prefix="mh-"))
        directories.append(directory)
        root = shutil.copytree(template, directory / "models", symlinks=True)
        daemon = Daemon(directory, root, **daemon_settings)
        if start:
            daemon.start()
        gateway = Gateway(daemon, *settings, key=key)
        made.append(gateway)
        return gateway

    return serve


def _take_down(directories: list[Path], made: list[Gateway]) -> None:
    try:
        for gateway in made:
            gateway.close()
            gateway.daemon.close()
    finally:
        for directory in directories:
            shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def serve(template: Path) -> Iterator[Serve]:
    """Starts a daemon on a registry of its own and a gateway before it, with these settings for the gateway."""
    directories: list[Path] = []
    made: list[Gateway] = []
    yield _maker(directories, made, template)
    _take_down(directories, made)


@pytest.fixture(scope="module")
def gateway(template: Path) -> Iterator[Gateway]:
    """One for the tests of a module that leave it as it is, or make versions of their own."""
    directories: list[Path] = []
    made: list[Gateway] = []
    try:
        yield _maker(directories, made, template)()
    finally:
        _take_down(directories, made)


@pytest.fixture
def registry(gateway: Gateway) -> Registry:
    """The gateway's registry, from this process."""
    return Registry(gateway.daemon.directory / "models", actor="tester")
