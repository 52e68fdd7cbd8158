"""What a worker can't do, tried in a process that has put the filter on."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROLOGUE = """
import ctypes, os, socket, subprocess, threading
from modeld.work import prctl, seccomp
prctl.no_new_privileges()
assert seccomp.restrict()
"""


def outcome(code: str) -> str:
    """The last line that the process printed."""
    done = subprocess.run(
        [sys.executable, "-c", PROLOGUE + code], capture_output=True, text=True, timeout=30, check=False
    )
    return (
        (done.stdout + done.stderr).strip().splitlines()[-1]
        if done.stdout + done.stderr
        else f"exit {done.returncode}"
    )


@pytest.mark.parametrize(
    "code",
    [
        "socket.socket()",
        "socket.socketpair()",
        "os.fork()",
        "os.system('true') and print('PermissionError: no shell')",
        "os.execv('/bin/true', ['true'])",
        "os.kill(os.getppid(), 0)",
        "subprocess.run(['true'])",
    ],
)
def test_a_worker_reaches_no_other_process_and_no_network(code: str) -> None:
    """Sockets, programs, processes and signals to others are refused with EPERM."""
    assert "PermissionError" in outcome(code)


def test_a_worker_computes_and_makes_threads() -> None:
    """What libraries need still works: threads, files that are open, aborting."""
    code = """
import numpy as np
out = []
thread = threading.Thread(target=lambda: out.append(np.ones(3).sum()))
thread.start(); thread.join()
print(out, os.memfd_create("x") > 0)
"""
    assert outcome(code) == "[np.float64(3.0)] True"
    assert outcome("os.abort()") == "exit -6"
