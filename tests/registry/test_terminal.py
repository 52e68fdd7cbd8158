"""On a terminal: tables, progress bars on stderr for what is large, and a question before what can't be undone."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from modelreg.cli.shared import LARGE_BYTES

Terminal = Callable[..., tuple[int, str]]


@pytest.fixture
def terminal(root: Path) -> Terminal:
    """Runs ``modelreg`` on a terminal, types an answer, and gives the exit status and all that it showed."""

    def run(*arguments: str | Path, types: str = "") -> tuple[int, str]:
        ours, theirs = pty.openpty()
        command = [str(Path(sys.executable).with_name("modelreg")), "--root", str(root), *map(str, arguments)]
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "160"}
        process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment)
        os.close(theirs)
        os.write(ours, types.encode())
        shown = b""
        try:
            while data := os.read(ours, 65536):
                shown += data
        except OSError:  # the terminal's other end is closed: the command has ended
            pass
        finally:
            os.close(ours)
        return process.wait(60), shown.decode()

    return run


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A model file that takes a moment to read; nothing loads it."""
    path = tmp_path / "large.onnx"
    with path.open("wb") as stream:
        stream.truncate(LARGE_BYTES + 1)
    return path


def test_a_bar_for_what_is_large(terminal, run, large, tmp_path):
    """Registering, checking and importing large files show how far they are; small ones and pipes show nothing."""
    run("init")
    arguments = ("register", "m", large, "--no-golden", "--features", "a")
    assert "reading m" in terminal(*arguments, "--version", "1.0.0")[1]
    key = tmp_path / "key.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", key], check=True, timeout=20)
    run("sign", "m:1.0.0", "--key", key)
    status, shown = terminal("verify", "m:1.0.0", "--key", key)
    assert (status, "verifying m:1.0.0" in shown) == (0, True)
    status, shown = terminal("verify", "m:1.0.0", "--key", key, "--quiet")
    assert (status, shown.split()) == (0, ["m:1.0.0"])
    piped = run(*arguments, "--version", "1.1.0")
    assert (piped.out, piped.err) == ("m:1.1.0\n", "")
    theirs = tmp_path / "theirs/20240101_000000"
    theirs.mkdir(parents=True)
    os.link(large, theirs / "model.onnx")
    status, shown = terminal("import", tmp_path / "theirs", "--no-golden")
    assert (status, "importing" in shown, "theirs:20240101_000000" in shown) == (0, True, True)
    assert "m" in terminal("doctor")[1]
    assert terminal("backup", tmp_path / "b.tar")[0] == 0


@pytest.mark.usefixtures("two")
def test_a_question_before_something_is_deleted(terminal, run):
    """ "No" ends it with status 1 and changes nothing; "yes" does it; tables are drawn."""
    status, shown = terminal("gc", "--keep", "1", types="n\n")
    assert (status, "Delete 1 versions" in shown) == (1, True)
    assert len(run("list", "-q").out.split()) == 2
    assert terminal("delete", "momentum:1.0.0", types="y\n")[0] == 0
    status, shown = terminal("list", "momentum")
    assert (status, "1.1.0" in shown, "1.0.0" in shown) == (0, True, False)
