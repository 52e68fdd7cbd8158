"""The front's side of the watcher: ask, be told, start another when it dies."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable

import msgspec

from modeld import log
from modeld.front.loop import Loop
from modeld.watch import messages
from modeld.watch.messages import Begin, FromWatcher, ToWatcher

#: Seconds between a watcher's death and the next one; where there is no process or no descriptor for it, twice as long
#: each time, up to the second.
_RESPAWN_S, _RESPAWN_MAX_S = 0.5, 5.0
_READ_BYTES = 1 << 20


class Link:
    """The channel to the watcher. `on_message` is called from the loop; `on_lost` when a watcher died with requests
    unanswered."""

    def __init__(
        self, loop: Loop, begin: Begin, on_message: Callable[[FromWatcher], None], on_lost: Callable[[], None]
    ) -> None:
        self._loop = loop
        self._begin = begin
        self._on_message = on_message
        self._on_lost = on_lost
        self._closing = False
        self.pid = 0
        #: None where there is no watcher now.
        self._sock: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._respawn_s = _RESPAWN_S
        self._start()

    def send(self, message: ToWatcher) -> bool:
        """Ask the watcher; False where none takes the question: there is none now, or it is stuck."""
        if self._sock is None:
            return False
        try:
            data = messages.encode(message)
            if self._sock.send(data) == len(data):
                return True
        except BlockingIOError:
            pass  # it hasn't read for so long that the socket is full
        except OSError:
            return False  # it is gone; another one is on its way
        self.kill("it doesn't read what it is asked")
        return False

    def kill(self, why: str) -> None:
        """End a watcher that is stuck; another takes its place."""
        if self._process is not None:
            log.get().warning(log.WATCHER_DIED, pid=self.pid, why=why)
            self._process.kill()

    def close(self) -> None:
        self._closing = True
        self._hang_up()
        if self._process is None:
            return
        try:
            self._process.wait(1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _start(self) -> None:
        """Start one, now or, where the system has no process or no descriptor left for it, as soon as it has."""
        if self._closing:
            return
        try:
            self._try()
        except OSError as e:
            self._hang_up()
            why = f"no other one can be started: {e}"
            log.get().error(log.WATCHER_DIED, why=why, again_in_s=self._respawn_s)
            self._loop.call_in(self._respawn_s, self._start)
            self._respawn_s = min(2 * self._respawn_s, _RESPAWN_MAX_S)
            return
        self._respawn_s = _RESPAWN_S
        self.send(self._begin)

    def _try(self) -> None:
        self._sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        environment = {
            k: v for k, v in os.environ.items() if k not in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
        }
        with theirs:
            self._sock.setblocking(False)
            self._loop.add_reader(self._sock.fileno(), self._readable)
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "modeld.watch.process", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=2,
            )
        self._inbox = messages.Inbox()
        self.pid = self._process.pid

    def _hang_up(self) -> None:
        """There is no watcher to ask from now on."""
        sock, self._sock = self._sock, None
        if sock is not None:
            self._loop.remove_reader(sock.fileno())
            sock.close()

    def _readable(self) -> None:
        assert self._sock is not None
        try:
            data = self._sock.recv(_READ_BYTES)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if data:
            try:
                said = [messages.decode_from_watcher(packet) for packet in self._inbox.feed(data)]
            except (ValueError, msgspec.DecodeError) as e:
                self.kill(f"it said what can't be read: {e}")
                return
            for message in said:
                self._on_message(message)
            return
        assert self._process is not None
        self._hang_up()
        status = self._process.wait()
        if not self._closing:
            log.get().warning(log.WATCHER_DIED, pid=self.pid, status=status)
            self._on_lost()
            self._loop.call_in(_RESPAWN_S, self._start)
