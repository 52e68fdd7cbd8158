"""The real daemon, without its sockets: its clock, its loop, its watcher and its workers are simulated.

Everything that decides is the product's own: Daemon, AdminService, DataService, RunningTrial, Servable, Slot, policy.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any

import msgspec
import zmq
from tests.simulation.clock import Clock
from tests.simulation.disk import Disk
from tests.simulation.watcher import StateDirectory, Watcher
from tests.simulation.workers import Machine, Version

from modeld import log
from modeld.config import Config
from modeld.errors import RequestError
from modeld.front.admin import _OPS, AdminService
from modeld.front.daemon import Daemon
from modeld.front.data import DataService
from modeld.wire.header import AdminRequest

Answer = dict[str, Any] | RequestError


class NoCollector:
    """In place of `gc`, for the daemon: ten thousand of them share this interpreter."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_: None


class Wire:
    """In place of a ROUTER: one message waits at a time, and what is sent is handed to `on_reply`."""

    def __init__(self, on_reply: Callable[[bytes], None]) -> None:
        self.inbox: list[list[bytes]] = []
        self._on_reply = on_reply

    first: Any = None

    def recv(self) -> list[bytes]:
        if not self.inbox:
            raise zmq.Again
        return self.inbox.pop()

    def send(self, frames: list[bytes]) -> None:
        self._on_reply(frames[-1])


class Silent:
    """A socket or logger that nobody listens to."""

    def __getattr__(self, name: str) -> Callable[..., None]:
        return lambda *_, **__: None


class Front(Daemon):
    """One life of the daemon."""

    watcher_class: type[Watcher] = Watcher

    def __init__(
        self,
        config: Config,
        clock: Clock,
        chance: random.Random,
        disk: Disk,
        state: StateDirectory,
        versions: dict[str, Version],
        on_reply: Callable[[bytes], None],
    ) -> None:
        self.clock = clock
        self.up = True
        super().__init__(config)
        self.loop._epoll.close()
        self.loop = self  # type: ignore[assignment]
        self._log = Silent()  # type: ignore[assignment]
        self._events = Silent()  # type: ignore[assignment]
        self.descriptors = Silent()  # type: ignore[assignment]
        self.on_event: Callable[[str], None] = lambda _: None
        #: Called after each event, when what it tells of holds.
        self.on_told: Callable[[], None] = lambda: None
        #: A trial couldn't be held in this life.
        self.aborted = False
        self.wire = Wire(on_reply)
        self.decoding = self.new_decoding()
        self.data = DataService(
            self.wire, self.models, config.limits, self.clock_ns, self.incident, self.guard, self.decoding
        )  # type: ignore[arg-type]
        self.admin = AdminService(Silent(), self)  # type: ignore[arg-type]
        self.spawner: Any = Machine(clock, chance, versions)
        self.source.link = self.watcher_class(
            clock, chance, disk, state, self._guard(self.source.on_message), self._guard(self.source.on_lost)
        )
        self._tick()

    def _guard(self, call: Callable[..., None]) -> Callable[..., None]:
        """What is due after the process's death doesn't happen."""
        return lambda *args: call(*args) if self.up else None

    def clock_ns(self) -> int:
        return self.clock.ns

    def now(self) -> str:
        return f"2026-01-01T00:00:00.{self.clock.ns:012d}Z"

    def call_in(self, delay_s: float, callback: Callable[[], None]) -> None:
        self.clock.after(delay_s, self._guard(callback))

    def in_pieces(self, step: Callable[[], bool]) -> None:
        if not step():
            self.call_in(0, lambda: self.in_pieces(step))

    def stop(self) -> None:
        """The loop's end: nothing could be served."""
        self.on_event(f"  it ends: {self._failure}")
        self.crash()

    def log(self, event: str, **fields: Any) -> None:
        self.aborted = self.aborted or event == log.TRIAL_ABORTED
        super().log(event, **fields)

    def event(self, kind: str, model: str, **fields: Any) -> None:
        self.on_event(f"  {kind}: {fields.get('from')} → {fields.get('to')}, {fields.get('reason')}")
        self.on_told()
        super().event(kind, model, **fields)

    def crash(self) -> None:
        """SIGKILL: nothing is said, nothing is saved."""
        self.up = False
        self.source.link.close()
        for model in self.models.values():  # the kernel closes what it had open
            for served in model.slot.residents():
                served.close(kill=True)
        self.spawner.close()

    def ask(self, op: str, respond: Callable[[Answer], None], **fields: Any) -> None:
        """An operator's message."""
        try:
            _OPS[op](self.admin, msgspec.convert({"op": op, **fields}, AdminRequest), "uid:1", respond)
        except RequestError as e:
            respond(e)

    def predict(self, request: dict[str, Any]) -> None:
        """A client's message."""
        self.wire.inbox.append([b"client", b"", msgspec.json.encode(request)])
        self.data.on_message()
