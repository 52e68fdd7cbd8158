"""Real models on a slice of the real prices, and the real command as a subprocess.

No model is loaded here.
"""

from __future__ import annotations

import csv
import gzip
import importlib.resources
import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lightgbm
import numpy as np
import pytest

from modelreg import Registry
from modelreg.cli import main

PRICES = Path(str(importlib.resources.files("modeld.demo"))) / "sp500_closes.csv.gz"
FEATURES = ("ret_1d", "ret_5d", "ret_20d", "vol_20d")


@dataclass(frozen=True)
class Trained:
    """A model's file, and the booster that it was saved from."""

    path: Path
    booster: lightgbm.Booster


def features_and_returns(column: str, rows: int = 900) -> tuple[np.ndarray, np.ndarray]:
    """Returns and volatility of one share as a matrix [rows, 4], and the next day's return."""
    with gzip.open(PRICES, "rt", newline="") as stream:
        reader = csv.DictReader(stream)
        closes = np.array([float(row[column]) for row, _ in zip(reader, range(rows + 30), strict=False)])
    logs = np.log(closes)
    days = np.arange(21, len(logs) - 1)
    daily = np.diff(logs, prepend=logs[0])
    matrix = np.column_stack(
        [logs[days] - logs[days - lag] for lag in (1, 5, 20)]
        + [np.array([daily[day - 19 : day + 1].std() for day in days])]
    )
    return matrix, logs[days + 1] - logs[days]


def train(path: Path, *, column: str, seed: int = 1, objective: str = "regression") -> Trained:
    matrix, target = features_and_returns(column)
    parameters: dict[str, Any] = {"verbosity": -1, "num_leaves": 15, "num_threads": 1, "seed": seed}
    parameters["objective"] = objective
    if objective == "multiclass":
        parameters["num_class"] = 3
        target = np.digitize(target, np.quantile(target, [1 / 3, 2 / 3]))
    data = lightgbm.Dataset(matrix, target, feature_name=list(FEATURES))
    booster = lightgbm.train(parameters, data, 30)
    booster.save_model(path)
    return Trained(path, booster)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Trained]:
    """Models ``a``, ``b``, ``c`` (regression) and ``classes`` (three classes)."""
    directory = tmp_path_factory.mktemp("models")
    made = {
        name: train(directory / f"{name}.txt", column=column, seed=seed)
        for seed, (name, column) in enumerate({"a": "AAPL", "b": "KO", "c": "XOM"}.items(), start=1)
    }
    made["classes"] = train(directory / "classes.txt", column="JPM", objective="multiclass")
    return made


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path / "models"


@pytest.fixture
def registry(root: Path) -> Registry:
    return Registry.init(root, actor="tester")


@pytest.fixture
def two(registry: Registry, models: dict[str, Trained]) -> Registry:
    """A registry with momentum 1.0.0 and 1.1.0, nothing promoted, nothing loaded."""
    registry.register("momentum", models["a"].path, version="1.0.0", golden=False)
    registry.register("momentum", models["b"].path, version="1.1.0", golden=False)
    return registry


@dataclass(frozen=True)
class Done:
    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


Run = Callable[..., Done]


@pytest.fixture
def run(root: Path) -> Run:
    """Runs ``modelreg --root ROOT …`` in a process of its own."""

    def run(*arguments: str | Path, env: dict[str, str] | None = None, options: Sequence[str] = ()) -> Done:
        command = [str(Path(sys.executable).with_name("modelreg")), "--root", str(root), *options]
        done = subprocess.run(
            [*command, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=60,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "MODELREG_ACTOR": "cli-tester", **(env or {})},
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def call(root: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """As ``run``, in this process; on the root, unless the command is told to find its own."""

    def call(*arguments: str | Path, anywhere: bool = False) -> Done:
        command = ["modelreg", *([] if anywhere else ["--root", str(root)]), *map(str, arguments)]
        monkeypatch.setattr("sys.argv", command)
        status: object = 0
        try:
            main()
        except SystemExit as end:
            status = end.code
        told = capfd.readouterr()
        return Done(int(str(status or 0)), told.out, told.err)

    return call


def damage(path: Path, offset: int = -20) -> None:
    """Flip one bit of a sealed file."""
    data = bytearray(path.read_bytes())
    data[offset] ^= 1
    path.chmod(0o644)
    path.write_bytes(data)


@pytest.fixture
def flip() -> Callable[..., None]:
    return damage
