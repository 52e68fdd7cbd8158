"""systemd's notification protocol (sd_notify(3)): one datagram to NOTIFY_SOCKET, nothing where there is none."""

from __future__ import annotations

import os
import socket
import time
from collections import deque
from collections.abc import Callable

#: Seconds until a datagram that found the manager's queue full is sent again.
_RETRY_S = 0.05

#: Datagrams kept for a manager that doesn't read; beyond them the oldest goes.
_KEPT = 64

#: A start or stop that gets on asks for this much time from now on, and again after a quarter of it. Seconds.
_EXTENSION_S = 10.0


class Notifier:
    """Tells the service manager how this process is, and never waits for it. Not thread-safe.

    The queue of the manager's socket is short (net.unix.max_dgram_qlen, often 10). What finds it full is sent again in
    order, through `later`: a READY that is lost leaves the unit starting until its timeout kills it. Pings aren't kept.
    """

    def __init__(
        self, environ: dict[str, str] | None = None, *, later: Callable[[float, Callable[[], None]], object]
    ) -> None:
        values = dict(os.environ) if environ is None else environ
        address = values.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._sock = (
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) if address else None
        )
        if self._sock is not None:
            self._sock.setblocking(False)
        self._later = later
        self._waiting: deque[bytes] = deque(maxlen=_KEPT)
        self._extended_at = float("-inf")
        mine = values.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        #: Seconds between two pings: half of what the manager allows; None where it asks for none.
        self.watchdog_s: float | None = None
        if self._sock is not None and mine and values.get("WATCHDOG_USEC", "").isdigit():
            self.watchdog_s = int(values["WATCHDOG_USEC"]) / 1e6 / 2

    def send(self, *fields: str) -> None:
        """Send `KEY=value` fields; a manager that doesn't listen is no error of ours."""
        if self._sock is None:
            return
        data = "\n".join(fields).encode()
        if self._waiting:  # a retry is on its way, and order matters: RELOADING before its READY
            if fields != ("WATCHDOG=1",):
                self._waiting.append(data)
        elif not self._sent(data) and fields != ("WATCHDOG=1",):
            self._waiting.append(data)
            self._later(_RETRY_S, self._retry)

    def extend(self) -> None:
        """Starting or stopping gets on: ask for more time than the unit has (EXTEND_TIMEOUT_USEC), now and then."""
        if time.monotonic() - self._extended_at > _EXTENSION_S / 4:
            self._extended_at = time.monotonic()
            self.send(f"EXTEND_TIMEOUT_USEC={int(_EXTENSION_S * 1e6)}")

    def _sent(self, data: bytes) -> bool:
        """Whether this is off our hands: taken, or meant for nobody."""
        assert self._sock is not None
        try:
            self._sock.sendto(data, self._address)
        except BlockingIOError:
            return False
        except OSError:
            return True
        return True

    def _retry(self) -> None:
        while self._sock is not None and self._waiting:
            if not self._sent(self._waiting[0]):
                self._later(_RETRY_S, self._retry)
                return
            self._waiting.popleft()

    def close(self) -> None:
        if self._sock is not None:
            self._sock.close()
            self._sock = None
