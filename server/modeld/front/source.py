"""The source as the front knows it: what its watcher has seen, and what the watcher is asked to do.

The watcher is another process, which may die or hang at any moment; what it was asked then gets its answer here.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import TYPE_CHECKING

import msgspec

from modeld import log
from modeld.front.link import Link
from modeld.swap.ports import WriteOutcome
from modeld.watch.messages import (
    Begin,
    FromWatcher,
    Given,
    Holds,
    Kept,
    LeaseFailed,
    Look,
    Observed,
    Use,
    Write,
    Written,
)  # fmt: skip

if TYPE_CHECKING:
    from modeld.front.daemon import Daemon

#: A watcher that hasn't answered for so long is stuck. Seconds.
_WATCHER_ANSWERS_S = 10.0
_WATCHER_GONE = WriteOutcome(
    "store_unavailable", "the watcher isn't there now; what it did shows at its next look"
)


class SourceView:
    """Looks, writes and leases of one source. Owned by the loop."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._models = daemon.models
        #: The watcher's channel, from `connect` on.
        self.link: Link
        #: Why nothing can be read now, and by model where it is that model's trouble alone.
        self.error: str | None = None
        self.broken: dict[str, str] = {}
        #: How changes are noticed, for the status.
        self.watching = "starting"
        #: Whether the source has said anything yet.
        self.seen = False
        #: What the state directory holds, by model.
        self.kept: dict[str, Kept] = {}
        #: By model, why it was held before this start; and what the watcher was last told of that.
        self._holds: dict[str, str] = {}
        self._holds_told: dict[str, str] | None = None
        #: By model, the last generation of the time before this start, with its digest; and what the watcher was told.
        self.generations: dict[str, tuple[int, str]] = {}
        self._generations_told: dict[str, tuple[int, str]] | None = None
        #: Who waits for the look under way, and for the next one.
        self._look: list[Callable[[], None]] = []
        self._next_look: list[Callable[[], None]] = []
        self._look_token = 0
        self._look_ns = daemon.clock_ns()
        self._writes: dict[int, tuple[int, Callable[[WriteOutcome], None]]] = {}
        #: What the watcher was last told to be in use; None: nothing yet.
        self._in_use: list[tuple[str, str]] | None = None
        self._token = 0

    def connect(self) -> None:
        """Start a watcher, which looks at once."""
        config = self._daemon.config
        begin = Begin(config.source, config.watch, config.state_dir)
        self.link = Link(self._daemon.loop, begin, self.on_message, self.on_lost)

    def close(self) -> None:
        """End the watcher."""
        if hasattr(self, "link"):
            self.link.close()

    def look(self, then: Callable[[], None]) -> None:
        """Have the source looked at from now on, and `then` called when what it says has been taken in.

        One look is under way at a time; what is asked meanwhile shares the next one.
        """
        self._next_look.append(then)
        if not self._look:
            self._start_look()

    def _start_look(self) -> None:
        self._look, self._next_look = self._next_look, []
        if self._look:
            self._token += 1
            self._look_token, self._look_ns = self._token, self._daemon.clock_ns()
            if not self.link.send(Look(self._token)):
                self._end_look()

    def _end_look(self) -> None:
        done, self._look = self._look, []
        for then in done:
            then()
        if not self._look:
            self._start_look()

    def write(self, request: Write, done: Callable[[WriteOutcome], None]) -> None:
        """Ask for `request`, under a token of our own; `done` gets the outcome, once."""
        self._token += 1
        token = self._token
        self._writes[token] = (self._daemon.clock_ns(), done)
        sent = self.link.send(msgspec.structs.replace(request, token=token))
        if not sent and self._writes.pop(token, None) is not None:
            done(_WATCHER_GONE)

    def on_message(self, message: FromWatcher) -> None:
        if isinstance(message, Observed):
            self._observed(message)
        elif isinstance(message, Written):
            self._written(message)
        elif isinstance(message, LeaseFailed):
            self._daemon.log(log.LEASE_FAILED, error=message.error)
        else:
            self._daemon.log(log.KEEP_FAILED, model=message.model, error=message.error)
            if message.model in self._models:
                self._models[message.model].slot.degraded["state_dir"] = f"no copy is kept: {message.error}"

    def _observed(self, message: Observed) -> None:
        self.watching = message.watching
        for kept in message.kept:
            self.kept.setdefault(kept.pointer.model, kept)
        if not self.seen:
            self._holds = self._holds_told = message.holds
            self.generations = self._generations_told = message.generations
            self.seen = True
        pointers = {pointer.model: pointer for pointer in message.pointers}
        if message.error is not None:
            if message.error != self.error:
                self._daemon.log(log.SOURCE_LOST, error=message.error)
            self.error = message.error
            self._add_kept(self.kept.keys())
        else:
            if self.error is not None:
                self._daemon.log(log.SOURCE_BACK)
                for served in self._models.values():
                    served.slot.source_is_back()
            self.error = None
            if message.broken != self.broken:
                for name, why in message.broken.items():
                    self._daemon.log(log.MODEL_BROKEN, model=name, error=why)
            for name in self.broken.keys() & self._models.keys() - message.broken.keys():
                self._models[name].slot.source_is_back()
            self.broken = message.broken
            self._add_kept(message.broken.keys() - pointers.keys())
            for name in pointers.keys() - self._models.keys():
                self._daemon.add_model(name)
            for name, served in self._models.items():
                if name in message.broken and name not in pointers:
                    continue  # it says nothing, which isn't the same as naming no version
                served.slot.observe(pointers.get(name), frozenset(message.unfit.get(name, ())))
        if message.token is not None and message.token == self._look_token:
            self._end_look()
        self._daemon.check_start()

    def _add_kept(self, names: Collection[str]) -> None:
        """Of what the source doesn't let us read, the copy that is kept is all that there is to serve."""
        only = self._daemon.config.source.models
        for name in (self.kept.keys() & names) - self._models.keys():
            if not only or name in only:
                self._daemon.add_model(name).observe(None)

    def _written(self, message: Written) -> None:
        found = self._writes.pop(message.token, None)
        if found is not None:
            found[1](WriteOutcome(message.code, message.error, message.from_version, message.to_version))

    def on_lost(self) -> None:
        """What was asked of a watcher that died gets its answer now; the next one looks at once."""
        self.watching = "restarting"
        self._in_use = self._holds_told = self._generations_told = None
        writes, self._writes = self._writes, {}
        for _, done in writes.values():
            done(_WATCHER_GONE)
        self._end_look()

    def tell_in_use(self) -> None:
        """Have the versions that a worker may need leased: none of them is to be cleaned up meanwhile."""
        used = sorted((name, v) for name, served in self._models.items() for v in served.slot.in_use)
        if used != self._in_use and self.link.send(Use(used)):
            self._in_use = used

    def held(self, model: str) -> str | None:
        """Why the model was held before this start, and is still."""
        return self._holds.get(model)

    def tell_holds(self) -> None:
        """Have the state directory remember what is held: a restart must not be a release."""
        if not self.seen:
            return
        held = {name: why for name, why in self._holds.items() if name not in self._models}
        held |= {name: one.slot.held for name, one in self._models.items() if one.slot.held is not None}
        if held != self._holds_told and self.link.send(Holds(held)):
            self._holds_told = held

    def tell_generations(self) -> None:
        """Have the state directory remember the generations: those of a version on probation too, which isn't kept."""
        if not self.seen:
            return
        given = dict(self.generations)
        for name, served in self._models.items():
            if served.slot.serving is not None:
                given[name] = (served.slot.generation, served.slot.serving.digest)
        if given != self._generations_told and self.link.send(Given(given)):
            self._generations_told = given

    def check(self) -> None:
        """Ask it now and then; one that doesn't answer in time is killed, and another takes its place."""
        now = self._daemon.clock_ns()
        limit_ns = int(_WATCHER_ANSWERS_S * 1e9)
        late = [since for since, _ in self._writes.values()]
        if self._look:
            late.append(self._look_ns)
        if late and now - min(late) > limit_ns:
            self.watching = "not answering"
            self.link.kill("it doesn't answer")
        elif not self._look and now - self._look_ns > limit_ns / 4:
            self.look(lambda: None)
