"""The limits of a worker on trial, and of one that serves."""

from __future__ import annotations

import json
import subprocess
import sys

CODE = """
import json, os, resource
from modeld.work import ipc, worker
out = os.dup(1)
worker._confine(ipc.Trial([], "alpha", "1.0.0", "sha256:0", 1e-9, 7.5, 512, 1 << 20))
names = ("AS", "CPU", "NOFILE", "FSIZE", "CORE")
on_trial = {name: resource.getrlimit(getattr(resource, "RLIMIT_" + name))[0] for name in names}
worker._serve_without_end()
on_trial["serving"] = resource.getrlimit(resource.RLIMIT_CPU)
on_trial["status"] = open("/proc/self/status").read()
os.write(out, json.dumps(on_trial).encode())
"""


def test_a_trial_is_limited_and_what_serves_may_take_its_time() -> None:
    """Memory, CPU time, files, no core, no new privileges; a worker that passed has no end of its CPU time."""
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, timeout=60, check=True)
    found = json.loads(done.stdout)
    assert {name: found[name] for name in ("AS", "CPU", "NOFILE", "FSIZE", "CORE")} == {
        "AS": 512 << 20, "CPU": 9, "NOFILE": 64, "FSIZE": 0, "CORE": 0,
    }  # fmt: skip
    soft, hard = found["serving"]
    assert soft == hard
    assert "NoNewPrivs:\t1" in found["status"]
