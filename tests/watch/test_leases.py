"""The leases that a daemon holds: exactly what is in use, renewed in time, never in a root that isn't there."""

from __future__ import annotations

import datetime as dt
import json
from pathlib import Path

import pytest

from modeld.watch.leases import HeldLeases
from modelreg import Registry, StoreUnavailableError
from modelreg.leases import DEFAULT_TTL_S


class Clock:
    """Seconds that the test sets, for the daemon and the registry alike."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds

    def wall(self) -> dt.datetime:
        return dt.datetime(2024, 1, 1, tzinfo=dt.UTC) + dt.timedelta(seconds=self.seconds)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def registry(tmp_path: Path, clock: Clock) -> Registry:
    return Registry.init(tmp_path / "models", clock=clock.wall)


def names(registry: Registry) -> list[str]:
    return [f"{lease.name}:{lease.version}" for lease in registry.leases()]


def test_exactly_what_is_in_use_is_leased(registry, clock):
    """What comes is leased, what goes is released; at the end nothing is left."""
    held = HeldLeases(clock)
    held.hold(registry, [("m", "1.0.0")])
    held.hold(registry, [("m", "1.0.0"), ("m", "1.1.0")])
    assert names(registry) == ["m:1.0.0", "m:1.1.0"]
    held.hold(registry, [("m", "1.1.0")])
    assert names(registry) == ["m:1.1.0"]
    held.release()
    assert names(registry) == []


def test_leases_are_renewed_as_long_as_it_looks_and_end_when_it_stops(registry, clock):
    """Looks keep them for ever; without a look they end by themselves, and gc clears their files away later."""
    held = HeldLeases(clock)
    for _ in range(20):
        held.hold(registry, [("m", "1.0.0")])
        assert names(registry) == ["m:1.0.0"]
        clock.seconds += DEFAULT_TTL_S / 2
    clock.seconds += DEFAULT_TTL_S
    assert names(registry) == []
    leases = registry.root / ".registry/leases"
    registry.gc()
    assert len(list(leases.iterdir())) == 1
    clock.seconds += 2 * 86_400
    registry.gc()
    assert list(leases.iterdir()) == []


def test_a_file_is_written_only_when_it_is_due(registry, clock):
    """A look a second doesn't write a file a second."""
    held = HeldLeases(clock)
    held.hold(registry, [("m", "1.0.0")])
    (file,) = (registry.root / ".registry/leases").iterdir()
    ends = json.loads(file.read_text())["expires_at"]
    clock.seconds += 10
    held.hold(registry, [("m", "1.0.0")])
    assert json.loads(file.read_text())["expires_at"] == ends


def test_a_root_that_went_away_is_not_made_anew(registry, clock):
    """A lease that comes due meanwhile is an error; the root that comes back finds its place free."""
    held = HeldLeases(clock)
    held.hold(registry, [("m", "1.0.0")])
    away = registry.root.rename(registry.root.with_name("away"))
    clock.seconds += DEFAULT_TTL_S
    with pytest.raises(StoreUnavailableError, match="isn't there now"):
        held.hold(registry, [("m", "1.0.0")])
    assert not registry.root.exists()
    away.rename(registry.root)
    held.hold(registry, [("m", "1.0.0")])
    assert names(registry) == ["m:1.0.0"]


def test_another_registry_at_the_same_place_gets_leases_of_its_own(registry, clock):
    """What was held in the one before went with it."""
    held = HeldLeases(clock)
    held.hold(registry, [("m", "1.0.0")])
    registry.root.rename(registry.root.with_name("away"))
    other = Registry.init(registry.root, clock=clock.wall)
    held.hold(other, [("m", "1.0.0")])
    assert names(other) == ["m:1.0.0"]
