"""systemd's notification protocol (sd_notify(3)): one datagram to NOTIFY_SOCKET, nothing where there is none."""

from __future__ import annotations

import os
import socket


class Notifier:
    """Tells the service manager how this process is. Not thread-safe."""

    def __init__(self, environ: dict[str, str] | None = None) -> None:
        values = dict(os.environ) if environ is None else environ
        address = values.get("NOTIFY_SOCKET", "")
        self._address = "\0" + address[1:] if address.startswith("@") else address
        self._sock = (
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) if address else None
        )
        if self._sock is not None:
            self._sock.setblocking(False)
        mine = values.get("WATCHDOG_PID", str(os.getpid())) == str(os.getpid())
        #: Seconds between two pings: half of what the manager allows; None where it asks for none.
        self.watchdog_s: float | None = None
        if self._sock is not None and mine and values.get("WATCHDOG_USEC", "").isdigit():
            self.watchdog_s = int(values["WATCHDOG_USEC"]) / 1e6 / 2

    def send(self, *fields: str) -> None:
        """Send `KEY=value` fields; a manager that doesn't listen is no error of ours."""
        if self._sock is not None:
            try:
                self._sock.sendto("\n".join(fields).encode(), self._address)
            except OSError:
                return

    def close(self) -> None:
        if self._sock is not None:
            self._sock.close()
