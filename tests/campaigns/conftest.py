"""The real daemon of tests/e2e under campaigns: engines in processes of their own, and an oracle that may die."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.campaigns.parts import Good, Oracle, Record
from tests.e2e.conftest import make_daemon, trained
from tests.registry.conftest import Trained, features_and_returns

__all__ = ["make_daemon", "trained"]


@pytest.fixture
def record(request: pytest.FixtureRequest, campaign: int) -> Iterator[Record]:
    """The seed of this run and what came of it; printed, and appended to the file of --results."""
    seed = int(request.config.getoption("--seed"))
    made = Record(request.node.name, seed, campaign, random.Random(seed))
    print(f"{made.name}: replay with --seed {seed}")
    yield made
    made.write(request.config.getoption("--results"))


@pytest.fixture(scope="session")
def good(tmp_path_factory: pytest.TempPathFactory, trained: dict[str, Trained]) -> Good:
    """Three small models and what they predict for 200 real rows, some with missing and extreme values."""
    directory = tmp_path_factory.mktemp("good")
    rows = np.ascontiguousarray(features_and_returns("MSFT", 300)[0][:200])
    rows[7::20, 1] = np.nan
    rows[3::25] = 1e30
    rows[11::25] = -1e300
    models = [trained[version] for version in ("1.0.0", "1.1.0", "1.2.0")]
    offline = [np.ascontiguousarray(one.booster.predict(rows, num_threads=1)) for one in models]
    np.save(directory / "rows.npy", rows)
    np.savez(directory / "models.npz", *offline)
    return Good(directory, rows, [one.path for one in models], offline)


@pytest.fixture
def oracle(good: Good, tmp_path: Path) -> Iterator[Oracle]:
    made = Oracle(good, tmp_path)
    yield made
    made.close()
