"""A simulated watcher process: it looks when woken, when asked and at every poll; it may die and is started again."""

from __future__ import annotations

import random
from collections.abc import Callable

import msgspec
from tests.simulation.clock import Clock
from tests.simulation.disk import Disk, FileEvent

from modeld.watch import messages
from modeld.watch.messages import FromWatcher, Given, Holds, Keep, Kept, Look, Observed, ToWatcher, Write

POLL_S = 1.0
_BACK_S = 0.5


class StateDirectory:
    """What outlives the daemon."""

    def __init__(self) -> None:
        self.kept: dict[str, Kept] = {}
        self.holds: dict[str, str] = {}
        self.generations: dict[str, tuple[int, str]] = {}


class Watcher:
    """Also the front's link to it: `send`, `kill` and `close` are what the daemon calls."""

    pid = 7

    def __init__(
        self,
        clock: Clock,
        chance: random.Random,
        disk: Disk,
        state: StateDirectory,
        on_message: Callable[[FromWatcher], None],
        on_lost: Callable[[], None],
    ) -> None:
        self.clock, self.chance, self.disk, self.state = clock, chance, disk, state
        self._on_message, self._on_lost = on_message, on_lost
        self._life = 0
        self._closed = False
        self._alive = False
        self._last_out_ns = self._last_in_ns = 0
        self._start()

    # -- the process

    def _start(self) -> None:
        if not self._closed:
            self._alive, self._first, self._last = True, True, b""
            self._life += 1
            self.disk.listener = self.on_event
            self._poll(self._life)

    def _poll(self, life: int) -> None:
        if life == self._life and self._alive:
            self.look(None)
            self.clock.after(POLL_S, lambda: self._poll(life))

    def on_event(self, event: FileEvent) -> None:  # noqa: ARG002 (what it says isn't believed)
        if self._alive:
            self.look(None)

    def observed(self) -> Observed:
        disk = self.disk
        if disk.fault == "gone":
            return Observed([], "inotify+poll", error="/models: there is no registry")
        if disk.fault == "broken":
            return Observed([], "inotify+poll", broken={"alpha": "record 3 is torn"})
        pointers = [disk.pointer] if disk.pointer is not None else []
        return Observed(
            pointers, "inotify+poll", unfit={"alpha": [f"sha256:{v}" for v in sorted(disk.failed)]}
        )

    def look(self, token: int | None) -> None:
        observed = self.observed()
        packet = msgspec.json.encode(observed)
        if packet == self._last and token is None:
            return
        self._last = packet
        if self._first:
            observed.kept, self._first = list(self.state.kept.values()), False
            observed.holds, observed.generations = self.state.holds, self.state.generations
        observed.token = token
        self._say(observed)

    def _handle(self, message: ToWatcher) -> None:
        if isinstance(message, Look):
            self.look(message.token)
        elif isinstance(message, Write):
            written = self.disk.write(message)
            if self.chance.random() < 0.05:
                self.kill("it died after it had written")
                return
            self.look(None)
            self._say(written)
        elif isinstance(message, Keep):
            self.state.kept[message.kept.pointer.model] = message.kept
        elif isinstance(message, Holds):
            self.state.holds = message.held
        elif isinstance(message, Given):
            self.state.generations = message.generations

    def _say(self, message: FromWatcher) -> None:
        """A stream: what was said first comes first, however long it takes."""
        data = messages.encode(message)[4:]
        arrives = (
            max(self._last_out_ns, self.clock.ns + int(self.chance.uniform(0.0001, 0.003) * 1e9)) + 2
        )  # whatever is rounded
        self._last_out_ns = arrives
        self.clock.at(arrives, lambda: self._arrived(data))

    def _arrived(self, data: bytes) -> None:
        if not self._closed:
            self._on_message(messages.decode_from_watcher(data))

    # -- the front's link

    def send(self, message: ToWatcher) -> bool:
        if not self._alive:
            return False
        message = messages.decode_to_watcher(messages.encode(message)[4:])
        life = self._life

        def arrives() -> None:
            if life == self._life and self._alive:
                self._handle(message)

        at = (
            max(self._last_in_ns, self.clock.ns + int(self.chance.uniform(0.0001, 0.001) * 1e9)) + 2
        )  # whatever is rounded
        self._last_in_ns = at
        self.clock.at(at, arrives)
        return True

    def kill(self, why: str) -> None:  # noqa: ARG002 (part of the link)
        if not self._alive:
            return
        self._alive = False

        def lost() -> None:
            if not self._closed:
                self._on_lost()
                self.clock.after(_BACK_S, self._start)

        self.clock.after(max(0, self._last_out_ns - self.clock.ns) / 1e9 + 0.001, lost)

    def close(self) -> None:
        self._closed, self._alive = True, False
        self.disk.listener = lambda _: None
