"""Many processes at once: one winner each, no lost record, with locks and without."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from random import Random

import pytest

from modelreg import Registry
from modelreg.sealed import read_sealed

CONTENDER = """
import fcntl, json, sys
from pathlib import Path
if sys.argv[4] == "stub":
    fcntl.flock = lambda *_: None
from modelreg import ConflictError, Registry
root, model, number = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
registry = Registry(root, actor=f"p{number}")
print("ready", flush=True)
sys.stdin.readline()
won = []
for version in ("5.0.0", "5.1.0"):
    try:
        registry.register("m", model, version=version, golden=False)
        won.append(version)
    except ConflictError:
        pass
seqs = [registry.promote("m:5.0.0", to=f"lane-{number}-{turn}", reason="go").seq for turn in "ab"]
print(json.dumps({"won": won, "seqs": seqs}), flush=True)
"""


@pytest.mark.parametrize("locks", ["flock", "stub"])
def test_32_processes_register_and_promote_at_once(registry, root, models, locks):
    """Each version has one winner, each promotion its own record, the sequence has no gap; flock is a courtesy."""
    registry.register("m", models["a"].path, version="1.0.0", golden=False)
    contenders = [
        subprocess.Popen(
            [sys.executable, "-c", CONTENDER, root, models["ab"[number % 2]].path, str(number), locks],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        for number in range(32)
    ]  # fmt: skip
    for process in contenders:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
    done = []
    for process in contenders:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    for process in contenders:
        done.append(json.loads(process.communicate(timeout=100)[0]))
        assert process.returncode == 0
    assert sorted(version for each in done for version in each["won"]) == ["5.0.0", "5.1.0"]
    promoted = sorted(seq for each in done for seq in each["seqs"])
    assert len(set(promoted)) == 64
    state = Registry(root).state("m")
    assert (state.broken, state.seq) == (None, 1 + 2 + 64)
    entries = registry.history("m")
    assert sorted(e.seq for e in entries) == list(range(1, 68))
    assert {(e.seq, e.actor) for e in entries if e.seq in promoted} == {
        (seq, f"p{number}") for number, each in enumerate(done) for seq in each["seqs"]
    }
    for version in state.versions.values():
        read_sealed(registry.version_dir("m", version.version), expect_digest=version.digest)
    assert registry.doctor() == []


WORKER = """
import itertools, sys
from pathlib import Path
from modelreg import ConflictError, Registry
registry = Registry(sys.argv[1])
for i in itertools.count(registry.state("m").seq):
    made = registry.register("m", Path(sys.argv[2]), version=f"2.{i}.0", golden=False)
    print(made.ref, flush=True)
    registry.promote(made.ref, reason="x")
    registry.gc(keep=2)
"""


def test_sigkill_at_random_moments(registry, root, models, campaign):
    """A process that registers, promotes and collects is killed; what it acknowledged is there, all is sound."""
    registry.register("m", models["a"].path, version="1.0.0", golden=False)
    random = Random(7)
    for _ in range(5 * campaign):
        process = subprocess.Popen(
            [sys.executable, "-c", WORKER, root, models["b"].path], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        acknowledged = process.stdout.readline().strip()
        time.sleep(random.random() * 0.2)  # the moment is what is random here
        process.send_signal(signal.SIGKILL)
        rest, _ = process.communicate()
        acknowledged = [acknowledged, *rest.split()][-1]
        reopened = Registry(root)
        assert acknowledged.partition(":")[2] in reopened.state("m").versions
        assert reopened.doctor() == []
