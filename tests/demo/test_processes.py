"""The demo leaves nothing behind and touches nothing that isn't its own."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import psutil
import pytest
from tests.support import wait_until

from modeld.demo.layout import MARKER, Layout, clear
from modeld.demo.processes import (
    SOCKET_PATH_BYTES,
    Child,
    DemoError,
    await_that,
    child,
    run,
    runtime_directory,
)

#: Says where its own child is, ignores SIGTERM, and so does that child.
STUBBORN = (
    "import signal, subprocess, sys\n"
    "signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
    "grandchild = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)'])\n"
    "print('grandchild', grandchild.pid, 'there', flush=True)\n"
    "signal.pause()\n"
)


def test_a_child_that_ignores_sigterm_is_killed_with_its_own_children(tmp_path: Path) -> None:
    """After `stop` neither the child nor what it started is left."""
    stubborn = Child("stubborn", [sys.executable, "-c", STUBBORN], tmp_path / "log")
    wait_until(lambda: stubborn.said("there"), timeout_s=20)
    grandchild = int((tmp_path / "log").read_text().split()[1])
    assert stubborn.stop(grace_s=0.1) == -9
    wait_until(lambda: _gone(grandchild))
    assert stubborn.stop() == -9


def _gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


def test_a_child_ends_when_the_block_is_left_by_an_exception(tmp_path: Path) -> None:
    """A failure inside the block still stops the child."""
    with (
        pytest.raises(KeyboardInterrupt),
        child("sleeper", [sys.executable, "-c", "import time; time.sleep(60)"], tmp_path / "log") as sleeper,
    ):
        raise KeyboardInterrupt
    assert sleeper.status is not None


def test_a_child_that_ends_early_ends_the_wait(tmp_path: Path) -> None:
    """Waiting for a dead process to do something is told at once, with its status."""
    with (
        child("daemon", [sys.executable, "-c", "raise SystemExit(3)"], tmp_path / "log") as dead,
        pytest.raises(DemoError, match="the daemon ended by itself with status 3"),
    ):
        await_that("anything", lambda: False, [dead], timeout_s=30)


def test_a_wait_in_vain_says_for_what() -> None:
    """A step that never happens is named."""
    with pytest.raises(DemoError, match=r"in vain: pigs to fly"):
        await_that("pigs to fly", lambda: False, [], timeout_s=0.05)


def test_a_command_that_fails_says_why() -> None:
    """The end of what a command said, and its status, are in the error."""
    with pytest.raises(DemoError, match="status 4: no such thing"):
        run([sys.executable, "-c", "import sys; print('no such thing', file=sys.stderr); sys.exit(4)"])


def test_the_runtime_directory_fits_a_socket_and_is_removed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even where TMPDIR is deep, a socket's path below the directory fits into `sun_path`."""
    deep = tmp_path / ("d" * 120)
    deep.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(deep))
    with runtime_directory("admin/admin.sock") as directory:
        assert len(os.fsencode(directory / "admin/admin.sock")) <= SOCKET_PATH_BYTES
        assert directory.stat().st_mode & 0o777 == 0o700
    assert not directory.exists()


def test_an_earlier_run_is_cleared_and_nothing_else(tmp_path: Path) -> None:
    """The demo's own directory is emptied, sealed parts too; a directory of somebody else's is refused."""
    out = clear(tmp_path / "demo")
    sealed = out / "registry" / "sealed"
    sealed.mkdir(parents=True)
    (sealed / "model.txt").touch()
    sealed.chmod(0o555)
    assert sorted(path.name for path in clear(out).iterdir()) == [MARKER, "state"]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").touch()
    with pytest.raises(DemoError, match="isn't an earlier demo's"):
        clear(tmp_path / "mine")
    assert (tmp_path / "mine" / "thesis.tex").exists()


def test_the_configuration_has_unix_sockets_only(tmp_path: Path) -> None:
    """No port is opened, so two demos can run on one machine."""
    text = Layout(tmp_path, tmp_path / "run").write_config().read_text()
    assert "tcp" not in text
    assert f"ipc://{tmp_path}/run/data/predict.sock" in text
