"""What a worker says of its version is checked before anything is made of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from modeld.front.trials import RunningTrial, contract_error
from modeld.swap.policy import State
from modeld.work import ipc


def ready(features: list[str], outputs: list[tuple[str, int]]) -> ipc.Ready:
    return ipc.Ready(features, "s", outputs, True, "lightgbm", 0, 1.0, False, True, {}, [])


@pytest.mark.parametrize(
    ("features", "outputs", "why"),
    [
        ([], [("p", 0)], "0 features"),
        ([f"f{n}" for n in range(16_385)], [("p", 0)], "16385 features"),
        (["a", "a"], [("p", 0)], "features have one name"),
        (["a"], [], "no outputs"),
        (["a"], [("p", 0), ("p", 1)], "outputs have one name"),
        (["a"], [("p", -1)], "width is -1"),
        (["a"], [("p", 4097)], "4097"),
        (["a"], [("p", 2**61)], str(2**61)),
        (["a"], [(f"p{n}", 4096) for n in range(17)], "more than 65536"),
    ],
)
def test_a_contract_that_cannot_be_served_is_a_rejection(features, outputs, why):
    """The trial fails with the reason, and the worker is let go of."""
    told: list[Any] = []

    def no_worker() -> None:
        raise OSError(24, "no")

    daemon: Any = SimpleNamespace(
        spawner=SimpleNamespace(spawn=no_worker), loop=SimpleNamespace(call_in=lambda *_: None)
    )
    trial: Any = SimpleNamespace(state=State.VALIDATING, failed=lambda *said: told.append(said))
    running = RunningTrial(daemon, SimpleNamespace(), trial, None)  # type: ignore[arg-type]
    running._on_packet(ipc.head(ipc.READY) + msgspec.json.encode(ready(features, outputs)))
    ((stage, reason),) = told
    assert stage == str(State.VALIDATING)
    assert why in reason


def test_contracts_that_can_be_served():
    """Scalars, classes, several outputs, and each limit itself."""
    assert contract_error(ready(["a"], [("p", 0)])) is None
    assert contract_error(ready(["a", "b"], [("1d", 0), ("classes", 3)])) is None
    features = [f"f{n}" for n in range(16_384)]
    assert contract_error(ready(features, [(f"p{n}", 4096) for n in range(16)])) is None
