"""The dialog of an action: what it would change, why it is done, and only then the deed."""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from nicegui import ui
from starlette.concurrency import run_in_threadpool

from modeld.http.page.frame import Refused, Visit, element, notice, text
from modeld.http.problems import ApiError, problem_of
from modeld.http.tokens import OPERATE, Caller
from modelreg.errors import RegistryError

_T = TypeVar("_T")

#: Called when something was done, with what.
Done = Callable[[str], Awaitable[None]]


class Dialog(ABC):
    """One action on one model. For one view; drawn anew whenever it opens.

    A subclass has `fields` to choose from, `preview`, which draws the change, and `act`, which does it. Nothing can be
    done while the change isn't on the screen.
    """

    title: str
    verb: str
    op: str
    scope: str = OPERATE

    def __init__(self, visit: Visit, name: str, done: Done) -> None:
        self.visit = visit
        self.name = name
        self._ready = False
        self._drawing = asyncio.Lock()
        self._done = done

    async def open(self, _event: Any = None) -> None:
        self._dialog = ui.dialog()
        self._dialog.on("hide", self._dialog.delete)
        with self._dialog, element("div", "panel", **{"aria-label": f"{self.title} {self.name}"}):
            text("h2", f"{self.title} {self.name}")
            await self.fields()
            self._change = element("div", **{"aria-live": "polite"})
            self._reason = ui.input("Reason (goes into the log)", on_change=self._allow).props("autofocus")
            self._refusal = element("div", "notices", **{"aria-live": "assertive"})
            with element("div", "line"):
                self._go = text("button", self.verb, "plainbtn go", type="button").on("click", self._do)
                text("button", "Cancel", "plainbtn", type="button").on("click", self._dialog.close)
        self._allow()
        self._dialog.open()
        await self.again()

    @abstractmethod
    async def fields(self) -> None:
        """Draw what has to be chosen, or what the action is."""

    @abstractmethod
    async def preview(self) -> bool:
        """Draw what would change; whether that is anything. Raises Refused, or what the registry raises."""

    @abstractmethod
    async def act(self, caller: Caller, reason: str) -> str:
        """Do it and say what was done. Raises what the registry and the daemon raise."""

    async def thread(self, call: Callable[[], _T]) -> _T:
        return await run_in_threadpool(call)

    async def again(self, _event: Any = None) -> None:
        """Draw the change anew, after a choice."""
        self._ready = False
        self._allow()
        async with self._drawing:
            self._change.clear()
            self._refusal.clear()
            with self._change:
                try:
                    self._ready = await self.preview()
                except (Refused, RegistryError, ApiError) as error:
                    notice(str(error) if isinstance(error, Refused) else problem_of(error).detail)
        self._allow()

    def _allow(self) -> None:
        if self._ready and (self._reason.value or "").strip():
            self._go.props.pop("disabled", None)
        else:
            self._go.props["disabled"] = True
        self._go.update()

    async def _do(self) -> None:
        reason = (self._reason.value or "").strip()
        if not (self._ready and reason):
            return
        self._ready = False  # once
        self._allow()
        try:
            done = await self.visit.act(
                self.scope, self.op, self.name, reason, lambda caller: self.act(caller, reason)
            )
        except Refused as refused:
            self._refusal.clear()
            with self._refusal:
                notice(str(refused))
            self._ready = True
            self._allow()
            return
        self._dialog.close()
        await self._done(done)
