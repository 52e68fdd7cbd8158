"""What the front makes of the plans that a worker sends: it believes nothing of them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest
from tests.forest.models import data, train

from modeld.config import Config, PlanSettings
from modeld.forest import sealed
from modeld.forest.compile import compile_text
from modeld.front import trials
from modeld.front.trials import RunningTrial
from modeld.wire.contract import Contract
from modeld.work import ipc

SIX = tuple("abcdef")
CONTRACT = Contract("alpha", "1.0.0", SIX, "s", (("predictions", 0),))


class Front:
    """A trial that has passed, with the descriptor that came beside the worker's word."""

    def __init__(self, fd: int | None, inline_rows: int = 32) -> None:
        self.logged: list[tuple[str, dict[str, Any]]] = []
        self.trial: Any = object.__new__(RunningTrial)
        self.trial._daemon = SimpleNamespace(
            config=Config(plan=PlanSettings(inline_rows=inline_rows)),
            log=lambda event, **fields: self.logged.append((event, fields)),
        )
        self.trial._worker = SimpleNamespace(fds=[] if fd is None else [fd])

    def plans(self, contract: Contract = CONTRACT, *, planned: bool = True, why: str = "") -> tuple[int, str]:
        """For how many rows plans serve, and why not."""
        ready = ipc.Ready(
            features=list(contract.features), schema="s", outputs=[], nan_allowed=True, platform="lightgbm-text",
            golden_rows=0, row_us=1.0, fast_path=True, row_independent=True, stages_ms={}, planned=planned,
            unplanned_why=why,
        )  # fmt: skip
        scorers, rows, reason = self.trial._plans(ready, contract)
        assert bool(scorers) == bool(rows)
        return rows, reason


@pytest.fixture(scope="module")
def plan() -> bytes:
    return bytes(compile_text(train(data(80)).model_to_string()))


@pytest.fixture
def fd(plan: bytes) -> Iterator[int]:
    made = sealed.reserve(1 << 20)
    sealed.seal(made, [plan])
    yield made
    os.close(made)


def test_a_good_plan_serves(fd: int) -> None:
    """Sealed, checked, of the contract's shape: it serves, and the log says so."""
    front = Front(fd)
    assert front.plans() == (32, "")
    assert [event for event, _ in front.logged] == ["plan_serves"]


@pytest.mark.parametrize(
    "contract",
    [
        Contract("alpha", "1.0.0", SIX[:5], "s", (("predictions", 0),)),
        Contract("alpha", "1.0.0", SIX, "s", (("predictions", 3),)),
        Contract("alpha", "1.0.0", SIX, "s", (("1d", 0), ("7d", 0))),
    ],
    ids=["features", "classes", "outputs"],
)
def test_a_plan_of_another_shape_is_refused(fd: int, contract: Contract) -> None:
    """A plan that takes or gives other numbers than the contract would read or write past a row: it never serves."""
    front = Front(fd)
    count, reason = front.plans(contract)
    assert count == 0
    assert "don't fit the contract" in reason
    assert [event for event, _ in front.logged] == ["no_plan"]


def test_a_worker_that_sends_none_or_something_else(plan: bytes) -> None:
    """Promised and not sent, not sealed, not a plan: the version serves by workers, with the reason."""
    assert Front(None).plans() == (0, "the worker's plan is refused: none came")
    loose = os.memfd_create("loose", os.MFD_ALLOW_SEALING)
    os.write(loose, plan)
    count, reason = Front(loose).plans()
    assert (count, "sealed" in reason) == (0, True)
    os.close(loose)


def test_a_plan_that_takes_long_gets_fewer_rows_or_none(fd: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The loop serves nobody while it scores: what takes too long by the front's own measure goes to workers."""
    monkeypatch.setattr(trials, "_row_ns", lambda *_: 100_000)
    assert Front(fd).plans() == (10, "")
    monkeypatch.setattr(trials, "_row_ns", lambda *_: 2_000_000)
    assert Front(fd).plans() == (
        0,
        "the worker's plan is refused: a row takes 2000 µs, too long for the front's loop",
    )


def test_the_worker_says_why_it_has_none() -> None:
    """What the worker's proof found goes to the log and to the status."""
    front = Front(None)
    assert front.plans(planned=False, why="predictions: linear trees") == (0, "predictions: linear trees")
    assert front.logged == [
        ("no_plan", {"model": "alpha", "version": "1.0.0", "reason": "predictions: linear trees"})
    ]


def test_inline_rows_0_switches_plans_off(fd: int) -> None:
    """Then the front scores nothing, whatever comes."""
    assert Front(fd, inline_rows=0).plans() == (0, "plan.inline_rows is 0")
