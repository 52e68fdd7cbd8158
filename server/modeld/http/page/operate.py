"""*Operate*: promote, roll back, hold, release, validate. Each shows what it would change, and asks why."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from nicegui import ui

from modeld.http.page.dialog import Dialog
from modeld.http.page.frame import Visit, element, facts, link, notice, panel, table, text, when
from modeld.http.page.promotion import Promotion, RollBack
from modeld.http.problems import ApiError
from modeld.http.tokens import OPERATE, WRITE, Caller
from modelreg import ModelState, Registry


async def operate(visit: Visit, asked: str | None) -> None:
    with visit.frame("Operate", "Operate"):
        text("h1", "Operate")
        try:
            visit.visitor.check(OPERATE)
        except ApiError as error:
            notice(f"Nothing can be changed here: {error.problem.detail}.")
            return
        registry = await visit.read(visit.gateway.registry)
        models = await visit.read(registry.models)
        if not models:
            text("p", "No model is registered yet: modelreg register NAME FILE.", "quiet")
            return
        name = asked if asked in models else models[0]
        if len(models) > 1:
            ui.select(
                models,
                label="Model",
                value=name,
                on_change=lambda e: ui.navigate.to(f"/operate?model={e.value}"),
            ).classes("wide-field")
        view = _Model(visit, registry, name)
        await view.draw()


class _Model:
    """One model's state, and what can be done with it."""

    def __init__(self, visit: Visit, registry: Registry, name: str) -> None:
        self._visit = visit
        self._registry = registry
        self._name = name
        self._done = element("div", "notices", **{"aria-live": "polite"})
        self._content = element("div", "panels")

    async def draw(self, done: str = "") -> None:
        """Everything anew, after something was done; `done` says what."""
        state = await self._visit.read(self._registry.state, self._name)
        served, problem = await self._served()
        self._done.clear()
        with self._done:
            if done:
                notice(done, "good")
            if state.broken:
                notice(f"This model is read-only: {state.broken}")
        self._content.clear()
        with self._content:
            self._state(state, served, problem)
            self._actions(state, served)

    async def _served(self) -> tuple[Mapping[str, Any] | None, str | None]:
        """What the daemon says of this model, or why it doesn't."""
        sampler = self._visit.sampler
        await sampler.look()
        if sampler.seen.problem is not None:
            return None, sampler.seen.problem
        models = {each["model_name"]: each for each in sampler.seen.status["models"]}
        if self._name not in models:
            return None, f"the daemon doesn't serve {self._name}: no version is in its channel"
        return models[self._name], None

    def _state(self, state: ModelState, served: Mapping[str, Any] | None, problem: str | None) -> None:
        with panel(f"{self._name} now", "wide"):
            if served is None:
                notice(str(problem), "")
            else:
                facts(
                    {
                        "Serves": served["version"] or "nothing", "Generation": served["generation"],
                        "Since": when(served["since"]), "Swaps": served["held"] or "not held",
                        "Log at record": state.seq,
                    }
                )  # fmt: skip
            table(
                [("Channel", ""), ("Version", ""), ("Since", "keep"), ("Who", ""), ("Why", "")],
                [
                    (
                        each.channel, link(each.version, "registry", self._name, each.version), when(each.at),
                        each.actor, each.reason,
                    )
                    for each in state.channels.values()
                    if each.version is not None
                ],
                "No channel holds a version.",
            )  # fmt: skip

    def _actions(self, state: ModelState, served: Mapping[str, Any] | None) -> None:
        visit, registry, name = self._visit, self._registry, self._name
        with panel("Actions", "wide"), element("div", "line"):
            if state.broken is None:
                self._button("Promote…", Promotion(visit, registry, name, self.draw))
                if any(each.version is not None for each in state.channels.values()):
                    self._button("Roll back…", RollBack(visit, registry, name, self.draw))
            if served is not None:
                if served["held"] is None:
                    self._button("Hold…", _Hold(visit, name, served, self.draw))
                else:
                    self._button("Release…", _Release(visit, name, served, self.draw))
            if visit.visitor.may(WRITE) and state.versions:
                self._button("Validate…", _Validate(visit, registry, state, self.draw))

    @staticmethod
    def _button(label: str, dialog: Dialog) -> None:
        text("button", label, "plainbtn", type="button").on("click", dialog.open)


class _Hold(Dialog):
    """Freeze swaps: what serves goes on, whatever the registry says."""

    title, verb, op = "Hold", "Hold", "hold"

    def __init__(self, visit: Visit, name: str, served: Mapping[str, Any], done: Any) -> None:
        super().__init__(visit, name, done)
        self._served = served

    async def fields(self) -> None:
        text(
            "p", f"{self._served['version'] or 'Nothing'} goes on serving; promotions wait until the release."
        )

    async def preview(self) -> bool:
        table(
            [("", ""), ("Before", ""), ("After", "")],
            [("Swaps", self._served["held"] or "not held", "held")],
            "",
        )
        return True

    async def act(self, caller: Caller, reason: str) -> str:
        admin = self.visit.gateway.admin
        # The daemon knows the gateway's user alone: who it was goes into the reason.
        await admin.call(self.op, {"model_name": self.name, "reason": f"{reason} (page: {caller.subject})"})
        return f"Swaps of {self.name} are held."


class _Release(_Hold):
    """Let swaps happen again; what the registry names by now is tried at once."""

    title, verb, op = "Release", "Release", "release"

    async def fields(self) -> None:
        text("p", "What the registry names by now is tried at once.")

    async def preview(self) -> bool:
        table([("", ""), ("Before", ""), ("After", "")], [("Swaps", self._served["held"], "not held")], "")
        return True

    async def act(self, caller: Caller, reason: str) -> str:
        await super().act(caller, reason)
        return f"Swaps of {self.name} are released."


class _Validate(Dialog):
    """Check bytes, load in a process that may die, replay golden rows."""

    title, verb, op, scope = "Validate", "Validate", "validate", WRITE

    def __init__(self, visit: Visit, registry: Registry, state: ModelState, done: Any) -> None:
        super().__init__(visit, state.name, done)
        self._registry = registry
        self._state = state

    async def fields(self) -> None:
        text(
            "p",
            "Its bytes are checked, it is loaded in a process of its own, and its golden rows are replayed.",
        )
        living = [each.version for each in self._state.versions.values() if each.status != "deleted"][::-1]
        self._version = ui.select(
            living, label="Version", value=living[0] if living else None, on_change=self.again
        )

    async def preview(self) -> bool:
        status = self._state.versions[self._version.value].status
        after = "validated, if it passes" if status == "registered" else status
        table([("", ""), ("Before", ""), ("After", "")], [("Status", status, after)], "")
        return True

    async def act(self, caller: Caller, _reason: str) -> str:
        ref = f"{self.name}:{self._version.value}"
        report = await self.thread(lambda: self._registry.validate(ref, actor=caller.subject))
        return f"{ref} passed: {'; '.join(f'{check.name}: {check.detail}' for check in report.checks)}"
