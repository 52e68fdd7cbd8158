"""Ten thousand schedules of everything that can happen to one model, each from its seed; `--campaign` for more."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
from tests.simulation.disk import FileEvent
from tests.simulation.front import Front
from tests.simulation.run import run, simulated
from tests.simulation.watcher import Watcher
from tests.simulation.world import World

from modeld.front import data
from modeld.front.lane import Lane
from modeld.front.servable import Servable
from modeld.swap import slot as slot_module
from modeld.swap.policy import Act, View, next_action
from modeld.swap.slot import Slot

_BLOCKS = 20
_SCHEDULES = 10_000
#: Schedules within which a planted bug shows.
_CAUGHT_WITHIN = 500


@pytest.fixture(autouse=True)
def _simulated() -> Iterator[None]:
    with simulated():
        yield


@pytest.mark.timeout(3600)
@pytest.mark.parametrize("block", range(_BLOCKS))
def test_no_schedule_breaks_a_promise(block, campaign):
    """Whatever happens in whatever order: no wrong answer, no gap, no request lost, and the last good pointer wins."""
    size = _SCHEDULES * campaign // _BLOCKS
    for seed in range(block * size, (block + 1) * size):
        run(seed)


def test_a_seed_replays():
    """The same seed is the same schedule, to the nanosecond."""
    assert run(11).trace == run(11).trace
    assert run(11).trace != run(12).trace


# -- the checks have teeth: each of these bugs is caught


def run_some(world: type[World] = World) -> None:
    for seed in range(_CAUGHT_WITHIN):
        run(seed, world)


class Deaf(Watcher):
    """Acts on one kind of event, and believes that there is always one."""

    def on_event(self, event: FileEvent) -> None:
        if event.kind == "moved":
            super().on_event(event)

    def _poll(self, life: int) -> None:  # noqa: ARG002
        if self._first:
            self.look(None)


class Gullible(Watcher):
    """Takes what an event says for what is there now."""

    def on_event(self, event: FileEvent) -> None:
        if self.disk.pointer is not None and event.version is not None:
            stale = replace(self.disk.pointer, version=event.version, digest=f"sha256:{event.version}")
            now, self.disk.pointer = self.disk.pointer, stale
            super().on_event(event)
            self.disk.pointer = now

    def _poll(self, life: int) -> None:  # noqa: ARG002
        if self._first:
            self.look(None)


def with_watcher(watcher: type[Watcher]) -> type[World]:
    class Planted(World):
        front_class = type("PlantedFront", (Front,), {"watcher_class": watcher})

    return Planted


def unloads_before_it_loads(self: Slot, start: Callable[[Slot], None] = Slot._start_trial) -> None:
    if self.serving is not None:
        old, self.service.serving = self.serving, None
        self.service.former.retire(old.served)
    start(self)


def forgets_rejections(view: View) -> Act | None:
    return next_action(replace(view, rejected=frozenset()))


def finishes_superseded_trials(view: View) -> Act | None:
    act = next_action(view)
    return None if act is Act.DROP_TRIAL else act


def forgives_in_probation(view: View) -> Act | None:
    return next_action(replace(view, condemned=False))


def never_writes_back(view: View) -> Act | None:
    act = next_action(view)
    return None if act is Act.WRITE_ROLLBACK else act


def ignores_holds(view: View) -> Act | None:
    return next_action(replace(view, held=False))


def never_revives(view: View) -> Act | None:
    return next_action(replace(view, serving=view.serving and replace(view.serving, short=False)))


def labels_late(self: Any, tensors: list[bytes], ns: int, finish: Any = data.PredictJob.finish) -> None:
    self.binding = self.service.models["alpha"].slot.serving
    finish(self, tensors, ns)


def drops_what_a_dead_worker_had(self: Servable, lane: Lane) -> None:
    self.lanes.remove(lane)


def numbers_from_the_start(self: Slot, relabel: Callable[[Slot], None] = Slot._relabel) -> None:
    self.service.generation = 0
    relabel(self)


@pytest.mark.parametrize("watcher", [Deaf, Gullible])
def test_a_watcher_that_trusts_events_is_caught(watcher):
    """Their kinds, or what they say: both leave the wrong version in service."""
    with pytest.raises(AssertionError):
        run_some(with_watcher(watcher))


@pytest.mark.parametrize(
    "policy",
    [
        forgets_rejections,
        finishes_superseded_trials,
        forgives_in_probation,
        never_writes_back,
        never_revives,
        ignores_holds,
    ],
)
def test_a_wrong_policy_is_caught(policy, monkeypatch):
    """One decision left out is enough."""
    monkeypatch.setattr(slot_module, "next_action", policy)
    with pytest.raises(AssertionError):
        run_some()


@pytest.mark.parametrize(
    ("act", "bug"), [(Act.START_TRIAL, unloads_before_it_loads), (Act.RELABEL, numbers_from_the_start)]
)
def test_a_wrong_act_is_caught(act, bug, monkeypatch):
    """The right decision, carried out wrongly."""
    monkeypatch.setitem(slot_module._ACTS, act, bug)
    with pytest.raises(AssertionError):
        run_some()


@pytest.mark.parametrize(
    ("where", "name", "bug"),
    [
        (data.PredictJob, "finish", labels_late),
        (Servable, "on_death", drops_what_a_dead_worker_had),
    ],
)
def test_a_wrong_answer_or_none_is_caught(where, name, bug, monkeypatch):
    """A label that isn't that of the version that has computed, and a request that is lost with a worker."""
    monkeypatch.setattr(where, name, bug)
    with pytest.raises(AssertionError):
        run_some()
