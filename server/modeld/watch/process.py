"""The watcher's loop: look when an event wakes it, when the front asks, and every `poll_interval_s` in any case."""

from __future__ import annotations

import os
import selectors
import signal
import socket
import sys
import time

from modeld.watch import messages
from modeld.watch.events import Events
from modeld.watch.kept import KeptVersions
from modeld.watch.messages import (
    Begin,
    Given,
    Holds,
    Keep,
    KeepFailed,
    LeaseFailed,
    Look,
    Observed,
    Use,
    Write,
    Written,
)
from modeld.watch.path import PathSource
from modeld.watch.source import PointerSource, RegistrySource
from modeld.work import prctl
from modelreg import NotFoundError, RegistryError

#: After the first event of a burst, wait this long for the rest of it. Armed once: events can't starve it. Seconds.
_SETTLE_S = 0.001
_READ_BYTES = 65536


def main() -> None:
    """Serve the front on the descriptor that the command line names, until end of file."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    prctl.set_name("modeld-watcher")
    front = socket.socket(fileno=int(sys.argv[1]))
    inbox = messages.Inbox()
    packets: list[bytes] = []
    while not packets:
        data = front.recv(_READ_BYTES)
        if not data:
            return
        packets = inbox.feed(data)
    begin = messages.decode_to_watcher(packets.pop(0))
    assert isinstance(begin, Begin)
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    events = Events(writer, enabled=begin.watch.inotify)
    source: PointerSource = (
        RegistrySource(begin.source)
        if begin.source.kind == "registry"
        else PathSource(begin.source, begin.state_dir)
    )
    try:
        kept = KeptVersions(begin.state_dir)
        watcher = Watcher(front, inbox, source, kept, events, begin.watch.poll_interval_s)
        watcher.handle(packets)
        watcher.run(reader)
    finally:
        source.close()
        events.close()


class Watcher:
    """One source, one front."""

    def __init__(
        self,
        front: socket.socket,
        inbox: messages.Inbox,
        source: PointerSource,
        kept: KeptVersions,
        events: Events,
        poll_interval_s: float,
    ) -> None:
        self._front = front
        self._inbox = inbox
        self._kept = kept
        self._first = True
        self._source = source
        self._events = events
        self._poll_interval_s = poll_interval_s
        self._last: bytes = b""
        self._in_use: list[tuple[str, str]] = []
        self._lease_failed = False

    def run(self, wake: int) -> None:
        selector = selectors.DefaultSelector()
        selector.register(self._front, selectors.EVENT_READ)
        selector.register(wake, selectors.EVENT_READ)
        next_poll = 0.0
        while True:
            ready = {key.fd for key, _ in selector.select(max(0.0, next_poll - time.monotonic()))}
            if wake in ready:
                time.sleep(_SETTLE_S)
                os.read(wake, 65536)
            if self._front.fileno() in ready:
                data = self._front.recv(_READ_BYTES)
                if not data:
                    return
                self.handle(self._inbox.feed(data))
                continue
            if time.monotonic() >= next_poll:
                # Armed before looking: what changes in between is seen by one or the other.
                self._events.arm(self._source.directories())
                next_poll = time.monotonic() + self._poll_interval_s
            self._look(None)
            self._lease()

    def handle(self, packets: list[bytes]) -> None:
        """Do what the front asks for."""
        for packet in packets:
            self._answer(messages.decode_to_watcher(packet))

    def _answer(self, message: messages.ToWatcher) -> None:
        if isinstance(message, Look):
            self._look(message.token)
        elif isinstance(message, Write):
            written = self._write(message)
            self._look(None)  # the front learns the new pointer before it learns that the write is done
            self._front.sendall(messages.encode(written))
        elif isinstance(message, Use):
            self._in_use = message.versions
            self._lease()
        elif isinstance(message, Holds):
            try:
                self._kept.hold(message.held)
            except OSError as e:
                for model in message.held:
                    self._front.sendall(messages.encode(KeepFailed(model, f"the hold: {e}")))
        elif isinstance(message, Given):
            try:
                self._kept.number(message.generations)
            except OSError as e:
                for model in message.generations:
                    self._front.sendall(messages.encode(KeepFailed(model, f"the generation: {e}")))
        elif isinstance(message, Keep):
            try:
                self._kept.keep(message)
            except (RegistryError, OSError) as e:
                self._front.sendall(messages.encode(KeepFailed(message.kept.pointer.model, str(e))))

    def _look(self, token: int | None) -> None:
        """Tell the front what the source says, if that is news or was asked for."""
        try:
            seen = self._source.look()
            observed = Observed(seen.pointers, self._events.mode, broken=seen.broken, unfit=seen.unfit)
        except (RegistryError, OSError) as e:
            observed = Observed([], self._events.mode, error=str(e))
        packet = messages.encode(observed)
        if packet == self._last and token is None:
            return
        self._last = packet
        if self._first:
            observed.kept, observed.holds, self._first = self._kept.load(), self._kept.holds(), False
            observed.generations = self._kept.generations()
        observed.token = token
        self._front.sendall(messages.encode(observed))

    def _lease(self) -> None:
        """Take and renew leases; one that can't be had is told once, and tried again at every look."""
        try:
            self._source.lease(self._in_use)
            self._lease_failed = False
        except NotFoundError:
            pass  # no registry at all: every look tells of that
        except (RegistryError, OSError) as e:
            if not self._lease_failed:
                self._front.sendall(messages.encode(LeaseFailed(str(e))))
            self._lease_failed = True

    def _write(self, request: Write) -> Written:
        try:
            return self._source.write(request)
        except RegistryError as e:
            return Written(request.token, request.model, code=e.code, error=str(e))
        except OSError as e:
            return Written(request.token, request.model, code="store_unavailable", error=str(e))


if __name__ == "__main__":
    try:
        main()
    except (BrokenPipeError, ConnectionResetError):
        sys.exit(0)
