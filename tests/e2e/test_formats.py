"""Versions that aren't one LightGBM text file."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import joblib
import numpy as np
import pytest
from sklearn.linear_model import Ridge
from sklearn.preprocessing import RobustScaler, StandardScaler
from tests.e2e.conftest import Daemon
from tests.registry.conftest import FEATURES, Trained, features_and_returns
from tests.support import wait_until

from modeld.client.errors import Rejected
from modelreg import Registry


@pytest.fixture
def ridge(tmp_path: Path) -> tuple[Path, Ridge]:
    """A linear model on real returns, pickled."""
    matrix, target = features_and_returns("HD", 400)
    model = Ridge().fit(matrix, target)
    path = tmp_path / "ridge.joblib"
    joblib.dump(model, path)
    return path, model


def test_a_pickle_is_served_only_where_its_digest_is_allowed(
    make_daemon: Callable[..., Daemon],
    registry: Registry,
    ridge: tuple[Path, Ridge],
    rows: np.ndarray,
) -> None:
    """A pickle is code: by default it is rejected before it is loaded, and the message names the way out."""
    version = registry.register("alpha", ridge[0], version="2.0.0", features=FEATURES, allow_joblib=True)
    registry.register("alpha", ridge[0], version="2.0.1", features=FEATURES, allow_joblib=True, notes="again")
    daemon = make_daemon(registry.root, trial={"allow_joblib": [version.digest]}).start()
    registry.promote("alpha:2.0.1", reason="not allowed")
    with daemon.operator() as operator, daemon.client() as client:
        with pytest.raises(Rejected, match=r"trial\.allow_joblib"):
            operator.reload("alpha")
        registry.promote("alpha:2.0.0", reason="allowed")
        assert operator.reload("alpha")["version"] == "2.0.0"
        for row in rows[:20]:
            assert client.predict(row).values[0] == ridge[1].predict(row[None])[0]
        assert client.predict(rows).values.tobytes() == ridge[1].predict(rows).tobytes()


def test_a_bundle_of_horizons_is_served_as_one(
    make_daemon: Callable[..., Daemon], registry: Registry, trained: dict[str, Trained], rows: np.ndarray
) -> None:
    """One output tensor for each estimator, named as registered, all from one version."""
    files = {"1d": trained["1.0.0"].path, "7d": trained["1.1.0"].path}
    registry.register("horizons", files, version="1.0.0")
    registry.promote("horizons:1.0.0", reason="first")
    daemon = make_daemon(registry.root, source={"models": ["horizons"]}).start(ready=False)
    with daemon.client(timeout_s=20) as client:
        wait_until(lambda: client.ready("horizons"), 20)
        for count in (1, 5, 60):
            outputs = client.predict(rows[:count], model="horizons").outputs
            assert list(outputs) == ["1d", "7d"]
            for name, version in (("1d", "1.0.0"), ("7d", "1.1.0")):
                offline = trained[version].booster.predict(rows[:count], num_threads=1)
                assert outputs[name].tobytes() == offline.tobytes()


@pytest.mark.parametrize(("kind", "path"), [(StandardScaler, "plan"), (RobustScaler, "worker")])
def test_a_scaler_is_part_of_the_plan_where_it_is_a_standard_scaler(
    make_daemon: Callable[..., Daemon],
    registry: Registry,
    trained: dict[str, Trained],
    rows: np.ndarray,
    tmp_path: Path,
    kind: type,
    path: str,
) -> None:
    """Allowed by its digest, a bundle with a scaler answers as scikit-learn and LightGBM do offline, by either path."""
    scaler = kind().fit(features_and_returns("HD", 400)[0])
    joblib.dump(scaler, tmp_path / "scaler.joblib")
    files = {"1d": trained["1.0.0"].path, "7d": trained["1.1.0"].path}
    version = registry.register(
        "horizons", files, version="1.0.0", scaler=tmp_path / "scaler.joblib", allow_joblib=True
    )
    registry.promote("horizons:1.0.0", reason="first")
    settings = {"source": {"models": ["horizons"]}, "trial": {"allow_joblib": [version.digest]}}
    daemon = make_daemon(registry.root, **settings).start(ready=False)
    with daemon.client(timeout_s=20) as client:
        wait_until(lambda: client.ready("horizons"), 60)
        daemon.await_plan("horizons")
        for count in (1, 5, 60):
            outputs = client.predict(rows[:count], model="horizons").outputs
            for name, offline in (("1d", "1.0.0"), ("7d", "1.1.0")):
                wanted = trained[offline].booster.predict(scaler.transform(rows[:count]), num_threads=1)
                assert outputs[name].tobytes() == wanted.tobytes()
    (line,) = daemon.status()["models"]
    assert line["path"] == path
    assert (line["path_reason"] is None) == (path == "plan")


class _Bomb:
    """Unpickling it runs `code`."""

    def __init__(self, code: str) -> None:
        self.code = code

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return exec, (self.code,)


BOMBS = {
    "exit": "import os; os._exit(0)",
    "segfault": "import ctypes; ctypes.string_at(0)",
    "spin": "while True: pass",
    "fork": "import os\nwhile True: os.fork()",
    "memory": "x = bytearray(1 << 40)",
    "kill": "import os, signal; os.kill(os.getppid(), signal.SIGKILL)",
    "network": "import socket; socket.socket()",
}


def test_pickles_that_mean_harm_end_with_their_worker(
    make_daemon: Callable[..., Daemon], registry: Registry, tmp_path: Path, rows: np.ndarray
) -> None:
    """Even where an operator allowed them: each is rejected, and daemon, zygote and answers are as before."""
    digests = []
    for number, (name, code) in enumerate(BOMBS.items()):
        path = tmp_path / f"{name}.joblib"
        joblib.dump(_Bomb(code), path)
        version = registry.register(
            "alpha", path, version=f"3.0.{number}", features=FEATURES, golden=False, allow_joblib=True
        )
        digests.append(version.digest)
    daemon = make_daemon(registry.root, trial={"allow_joblib": digests, "timeout_s": 2}).start()
    before = daemon.status()
    with daemon.operator() as operator, daemon.client() as client:
        for number in range(len(BOMBS)):
            registry.promote(f"alpha:3.0.{number}", reason="boom")
            with pytest.raises(Rejected):
                operator.reload("alpha")
            assert client.predict(rows[0]).version == "1.0.0"
    after = daemon.status()
    assert (after["pid"], after["zygote_pid"]) == (before["pid"], before["zygote_pid"])
    assert len(after["workers"]) == 1
