"""Plans in a running daemon: which path answers, that it answers the same, and what happens without one."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from tests.e2e.conftest import Daemon
from tests.registry.conftest import Trained

from modeld.client import Client
from modeld.client.errors import NonFinite
from modeld.forest import kernel
from modelreg import Registry


def ask(daemon: Daemon, rows: np.ndarray) -> tuple[np.ndarray, dict[str, Any]]:
    """Predictions and the reply's parameters, as any client sees them."""
    import zmq

    with zmq.Context() as context, context.socket(zmq.REQ) as sock:
        sock.setsockopt(zmq.LINGER, 0)
        sock.setsockopt(zmq.RCVTIMEO, 20_000)
        sock.connect(daemon.data)
        sock.send(json.dumps({"model_name": "alpha", "features": rows.tolist()}).encode())
        reply = json.loads(sock.recv())
    assert "error" not in reply, reply
    return np.array(reply["outputs"][0]["data"]), reply["parameters"]


def metadata_path(daemon: Daemon) -> str:
    with Client(daemon.data) as client:
        found: str = client.metadata("alpha")["parameters"]["path"]
        return found


def test_the_front_scores_few_rows_and_workers_many(
    daemon: Daemon, trained: dict[str, Trained], rows: np.ndarray
) -> None:
    """Up to plan.inline_rows rows are scored in the front, more in a worker, to the same bits as offline."""
    kernel.load()
    daemon.await_plan()
    many = np.resize(rows, (600, rows.shape[1]))
    offline = trained["1.0.0"].booster.predict(many, num_threads=1)
    for n, path in ((1, "plan"), (2, "plan"), (32, "plan"), (33, "worker"), (600, "worker")):
        values, parameters = ask(daemon, many[:n])
        assert values.tobytes() == offline[:n].tobytes()
        assert parameters["path"] == path
    (line,) = daemon.status()["models"]
    assert (line["path"], line["path_reason"]) == ("plan", None)
    assert metadata_path(daemon) == "plan"


@pytest.mark.parametrize("n", [1, 8, 9, 32, 33, 600])
def test_an_infinity_is_refused_whoever_computes(daemon: Daemon, rows: np.ndarray, n: int) -> None:
    """One row or many, by the plan or by a worker."""
    daemon.await_plan()
    many = np.resize(rows, (n, rows.shape[1]))
    many[n - 1, 2] = np.inf
    with Client(daemon.data) as client, pytest.raises(NonFinite, match=f"row {n - 1}"):
        client.predict(many)


@pytest.mark.parametrize(
    ("settings", "environment", "reason"),
    [
        ({"plan": {"inline_rows": 0}}, {}, "plan.inline_rows is 0"),
        ({}, {"MODELD_NO_KERNEL": "1"}, "MODELD_NO_KERNEL is set"),
    ],
)
def test_without_a_plan_workers_answer_everything(
    make_daemon: Callable[..., Daemon],
    registry: Registry,
    trained: dict[str, Trained],
    rows: np.ndarray,
    settings: dict[str, Any],
    environment: dict[str, str],
    reason: str,
) -> None:
    """Switched off, or in an install without a C compiler: the same answers, by workers, and the status says why."""
    daemon = make_daemon(registry.root, **settings).start(env=environment)
    daemon.await_plan()
    offline = trained["1.0.0"].booster.predict(rows, num_threads=1)
    for n in (1, 16):
        values, parameters = ask(daemon, rows[:n])
        assert values.tobytes() == offline[:n].tobytes()
        assert parameters["path"] == "worker"
    (line,) = daemon.status()["models"]
    assert (line["path"], line["path_reason"]) == ("worker", reason)
    assert metadata_path(daemon) == "worker"


def test_few_rows_are_answered_while_there_is_no_worker(
    daemon: Daemon, trained: dict[str, Trained], rows: np.ndarray
) -> None:
    """A plan needs no worker: one that was killed is not missed by one-row requests."""
    import os
    import signal

    offline = trained["1.0.0"].booster.predict(rows[:1], num_threads=1)
    daemon.await_plan()
    for worker in daemon.status()["workers"]:
        os.kill(worker["pid"], signal.SIGKILL)
    for _ in range(50):
        values, parameters = ask(daemon, rows[:1])
        assert values.tobytes() == offline.tobytes()
        assert parameters["path"] == "plan"


def test_the_front_imports_no_compiler_of_plans() -> None:
    """What the front process imports can check and score a plan, and can't read a model."""
    script = (
        "import sys, modeld.front.daemon\n"
        "bad = {'lightgbm', 'modeld.forest.compile', 'modeld.forest.lgbmodel', 'modeld.forest.forest'}\n"
        "print(sorted(bad & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
