"""The command that tells the current data sets: it is nothing without the worker that asks it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
from tests.support import wait_until


def test_the_command_ends_with_the_worker_that_asked(tmp_path: Path):
    """A worker whose trial is over is killed: its command doesn't go on alone."""
    told = tmp_path / "pid"
    script = (
        f"import os, time; open({str(told)!r} + '~', 'w').write(str(os.getpid()));"
        f" os.rename({str(told)!r} + '~', {str(told)!r}); time.sleep(60)"
    )
    asks = (
        "import sys; from modeld.work.datasets import CurrentDatasets; from modelreg.settings import DatasetSettings;"
        " CurrentDatasets.tell(DatasetSettings(command=[sys.executable, '-c', sys.argv[1]]), 60)"
    )
    with subprocess.Popen([sys.executable, "-c", asks, script]) as worker:
        try:
            wait_until(told.exists)
            command = psutil.Process(int(told.read_text()))
        finally:
            worker.kill()
    wait_until(lambda: not command.is_running() or command.status() == psutil.STATUS_ZOMBIE)
