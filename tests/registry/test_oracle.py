"""A random life of a registry against a plain-Python oracle that has none of its machinery."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test

from modelreg import ConflictError, NotFoundError, Registry
from modelreg.listing import select

VERSIONS = st.sampled_from(["1.0.0", "1.1.0", "1.2.0", "20240131_000000"])
CHANNELS = st.sampled_from(["production", "staging"])
TAGS = st.sampled_from(["x", "y"])


class Life(RuleBasedStateMachine):
    """Statuses, channels, their earlier holders and tags, as dictionaries."""

    model: Path

    @initialize()
    def begin(self) -> None:
        self.home = Path(tempfile.mkdtemp(prefix="modelreg-oracle-"))
        self.registry = Registry.init(self.home / "models", actor="oracle")
        self.status: dict[str, str] = {}
        self.channels: dict[str, str | None] = {}
        self.previous: dict[str, list[str]] = {}
        self.tags: dict[str, set[str]] = {}
        self.records = 0

    def attempt(self, allowed, act) -> bool:
        """Do it; it must be refused exactly where the oracle says so."""
        if allowed:
            act()
            self.records += 1
            return True
        with pytest.raises((ConflictError, NotFoundError)):
            act()
        return False

    def move(self, channel: str, version: str | None) -> None:
        now = self.channels.get(channel)
        earlier = ([now] if now else []) + self.previous.get(channel, [])
        self.previous[channel] = [v for v in dict.fromkeys(earlier) if v != version]
        self.channels[channel] = version

    def held(self, version: str) -> list[str]:
        return [channel for channel, holder in self.channels.items() if holder == version]

    @rule(version=VERSIONS)
    def register(self, version: str) -> None:
        done = self.attempt(
            version not in self.status,
            lambda: self.registry.register("m", self.model, version=version, golden=False),
        )
        if done:
            self.status[version], self.tags[version] = "registered", set()

    @rule(version=VERSIONS, channel=CHANNELS)
    def promote(self, version: str, channel: str) -> None:
        if self.status.get(version) == "registered" and self.channels.get(channel) == version:
            assert not self.registry.promote(f"m:{version}", to=channel, reason="x").changed
        elif self.attempt(
            self.status.get(version) == "registered",
            lambda: self.registry.promote(f"m:{version}", to=channel, reason="x"),
        ):
            self.move(channel, version)

    @rule(channel=CHANNELS, mark=st.booleans())
    def rollback(self, channel: str, mark: bool) -> None:
        now = self.channels.get(channel)
        back = [v for v in self.previous.get(channel, []) if self.status[v] == "registered"]
        if self.attempt(
            back, lambda: self.registry.rollback("m", channel=channel, mark_failed=mark, reason="x")
        ):
            self.move(channel, back[0])
            if mark and now is not None:
                self.status[now] = "failed"

    @rule(version=VERSIONS)
    def fail(self, version: str) -> None:
        if self.attempt(
            self.status.get(version) in ("registered", "archived"),
            lambda: self.registry.fail(f"m:{version}", reason="x"),
        ):
            self.status[version] = "failed"

    @rule(version=VERSIONS)
    def archive(self, version: str) -> None:
        allowed = self.status.get(version) == "registered" and "production" not in self.held(version)
        if self.attempt(allowed, lambda: self.registry.archive(f"m:{version}")):
            for channel in self.held(version):
                self.move(channel, None)
            self.status[version] = "archived"

    @rule(version=VERSIONS)
    def unarchive(self, version: str) -> None:
        if self.attempt(
            self.status.get(version) == "archived", lambda: self.registry.unarchive(f"m:{version}")
        ):
            self.status[version] = "registered"

    @rule(version=VERSIONS, force=st.booleans())
    def delete(self, version: str, force: bool) -> None:
        held = self.held(version)
        allowed = version in self.status and self.status[version] != "deleted" and "production" not in held
        allowed = allowed and (force or not (held or self.tags[version]))
        if self.attempt(allowed, lambda: self.registry.delete(f"m:{version}", force=force)):
            for channel in held:
                self.move(channel, None)
            self.status[version] = "deleted"

    @rule(version=VERSIONS, tag=TAGS)
    def tag(self, version: str, tag: str) -> None:
        if self.attempt(
            self.status.get(version, "deleted") != "deleted", lambda: self.registry.tag(f"m:{version}", tag)
        ):
            self.tags[version].add(tag)

    @rule(version=VERSIONS, tag=TAGS)
    def untag(self, version: str, tag: str) -> None:
        if self.attempt(tag in self.tags.get(version, ()), lambda: self.registry.untag(f"m:{version}", tag)):
            self.tags[version].remove(tag)

    @rule()
    def open_anew(self) -> None:
        self.registry.catalog.close()
        self.registry = Registry(self.home / "models", actor="oracle")

    @invariant()
    def agrees(self) -> None:
        if not self.status:
            return
        state = self.registry.state("m")
        assert {v.version: v.status for v in state.versions.values()} == self.status
        assert {c.channel: c.version for c in state.channels.values()} == self.channels
        assert {c.channel: list(c.previous) for c in state.channels.values()} == self.previous
        assert {v.version: set(v.tags) for v in state.versions.values()} == self.tags
        assert state.seq == self.records
        listed = {row["version"] for row in select(self.registry, "m")}
        assert listed == {v for v, status in self.status.items() if status != "deleted"}

    def teardown(self) -> None:
        if hasattr(self, "home"):
            self.registry.catalog.close()
            shutil.rmtree(self.home)


def test_a_random_life_agrees_with_the_oracle(models, campaign):
    """Every verb of the lifecycle is allowed, refused and remembered exactly as the oracle says."""
    Life.model = models["a"].path
    run_state_machine_as_test(
        Life,
        settings=settings(
            max_examples=15 * campaign,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
