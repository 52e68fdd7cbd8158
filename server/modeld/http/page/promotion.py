"""Moving a channel: forward by a promotion, back by a rollback. What is shown is what will be done, or nothing is:
both are bound to the record that the log ended with when the change was drawn.
"""

from __future__ import annotations

from nicegui import ui

from modeld.http.page.comparison import differences, metric_table
from modeld.http.page.dialog import Dialog, Done
from modeld.http.page.frame import Visit, notice, table, text
from modeld.http.page.version import gate_table
from modeld.http.tokens import Caller
from modelreg import Commit, Registry
from modelreg.state import PROMOTABLE, STAGE_ORDER

#: For the trial run of a decision, which leaves no trace.
_TRIAL = "shown on the page"
#: Stands for the version that a channel held before.
_BEFORE = ""


class _Move(Dialog):
    """What promotion and rollback share."""

    def __init__(self, visit: Visit, registry: Registry, name: str, done: Done) -> None:
        super().__init__(visit, name, done)
        self.registry = registry
        self.seq = 0

    async def change(self, commit: Commit) -> bool:
        """Draw a move: the channel, the metrics side by side, and what differs. Whether anything moves."""
        table(
            [("Channel", ""), ("Before", ""), ("After", ""), ("Record", "num")],
            [(commit.channel, commit.from_version or "none", commit.to_version or "none", commit.seq)],
            "",
        )
        if not commit.changed or commit.from_version == commit.to_version:
            notice(f"{commit.channel} holds {commit.to_version} already: nothing would change.", "")
            return False
        if commit.from_version and commit.to_version:
            refs = [f"{self.name}:{commit.from_version}", f"{self.name}:{commit.to_version}"]
            metric_table(await self.visit.read(self.registry.compare, refs), refs)
            found = await self.visit.read(self.registry.diff, *refs)
            facts = [each for each in found if not each.field.startswith("metrics.")]
            with ui.expansion(f"{len(facts)} further differences").props("dense"):
                differences(facts)
        return True


class Promotion(_Move):
    """Point a channel at a version, if it passes the channel's gates, or in spite of them."""

    title, verb, op = "Promote", "Promote", "promote"

    async def fields(self) -> None:
        state = await self.visit.read(self.registry.state, self.name)
        held = state.channels["production"].version if "production" in state.channels else None
        fit = [each.version for each in state.versions.values() if each.status in PROMOTABLE][::-1]
        first = next((version for version in fit if version != held), fit[0] if fit else None)
        self._version = ui.select(fit, label="Version", value=first, on_change=self.again)
        channels = list(dict.fromkeys((*STAGE_ORDER, *state.channels)))
        self._channel = ui.select(channels, label="Channel", value="production", on_change=self.again)
        self._override = ui.checkbox("Override gates that aren't passed", on_change=self.again).props("dense")
        self._schema = ui.checkbox("Other features than before are meant").props("dense")

    async def preview(self) -> bool:
        if self._version.value is None:
            text("p", "No version can be promoted: all have failed, or are archived or deleted.")
            return False
        ref, to = f"{self.name}:{self._version.value}", self._channel.value
        self.seq = (await self.visit.read(self.registry.state, self.name)).seq
        if gates := await self.visit.read(lambda: self.registry.gates(ref, to=to)):
            gate_table(gates)
        override = self._override.value
        return await self.change(
            await self.visit.read(
                lambda: self.registry.promote(
                    ref, to=to, reason=_TRIAL, override_gates=override, dry_run=True
                )
            )
        )

    async def act(self, caller: Caller, reason: str) -> str:
        ref, to = f"{self.name}:{self._version.value}", self._channel.value
        override, schema = self._override.value, self._schema.value
        commit = await self.thread(
            lambda: self.registry.promote(
                ref, to=to, reason=reason, actor=caller.subject, override_gates=override,
                allow_schema_change=schema, expect_seq=self.seq,
            )
        )  # fmt: skip
        follows = (
            " The daemon tries it now; see Live." if to == self.visit.gateway.config.source.channel else ""
        )
        return f"Promoted: {to} holds {ref} since record {commit.seq}.{follows}"


class RollBack(_Move):
    """Point a channel back at the version before."""

    title, verb, op = "Roll back", "Roll back", "rollback"

    async def fields(self) -> None:
        state = await self.visit.read(self.registry.state, self.name)
        held = [each.channel for each in state.channels.values() if each.version is not None]
        first = "production" if "production" in held else held[0] if held else None
        self._channel = ui.select(held, label="Channel", value=first, on_change=self.again)
        fit = [each.version for each in state.versions.values() if each.status in PROMOTABLE][::-1]
        self._to = ui.select(
            {_BEFORE: "the version that it held before", **{each: each for each in fit}},
            label="To", value=_BEFORE, on_change=self.again,
        )  # fmt: skip
        self._failed = ui.checkbox(
            "Mark the version that is left as failed: it can't be promoted again"
        ).props("dense")

    async def preview(self) -> bool:
        channel, to = self._channel.value, self._to.value or None
        self.seq = (await self.visit.read(self.registry.state, self.name)).seq
        return await self.change(
            await self.visit.read(
                lambda: self.registry.rollback(self.name, to=to, channel=channel, reason=_TRIAL, dry_run=True)
            )
        )

    async def act(self, caller: Caller, reason: str) -> str:
        channel, to, failed = self._channel.value, self._to.value or None, self._failed.value
        commit = await self.thread(
            lambda: self.registry.rollback(
                self.name, to=to, channel=channel, mark_failed=failed, reason=reason, actor=caller.subject,
                expect_seq=self.seq,
            )
        )  # fmt: skip
        return f"Rolled back: {channel} holds {self.name}:{commit.to_version} since record {commit.seq}."
