"""The front's side of the watcher: ask, be told, start another when it dies."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Callable

from modeld import log
from modeld.front.loop import Loop
from modeld.watch import messages
from modeld.watch.messages import Begin, FromWatcher, ToWatcher

_RESPAWN_S = 0.5


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
        self._start()

    def send(self, message: ToWatcher) -> None:
        """Ask the watcher; a dead or stuck one shows through `on_lost` or by its silence."""
        with contextlib.suppress(OSError):
            self._sock.send(messages.encode(message))

    def close(self) -> None:
        self._closing = True
        self._loop.remove_reader(self._sock.fileno())
        self._sock.close()
        try:
            self._process.wait(1)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _start(self) -> None:
        self._sock, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environment = {
            k: v for k, v in os.environ.items() if k not in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
        }
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "modeld.watch.process", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=sys.stderr.fileno(),
            )
        self._sock.setblocking(False)
        self.pid = self._process.pid
        self._loop.add_reader(self._sock.fileno(), self._readable)
        self.send(self._begin)

    def _readable(self) -> None:
        try:
            packet = self._sock.recv(messages.MAX_MESSAGE)
        except BlockingIOError:
            return
        except OSError:
            packet = b""
        if packet:
            self._on_message(messages.decode_from_watcher(packet))
            return
        self._loop.remove_reader(self._sock.fileno())
        self._sock.close()
        status = self._process.wait()
        if not self._closing:
            log.get().warning(log.WATCHER_DIED, pid=self.pid, status=status)
            self._on_lost()
            self._loop.call_in(_RESPAWN_S, lambda: None if self._closing else self._start())
