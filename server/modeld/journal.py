"""systemd's journal over its native protocol (systemd's JOURNAL_NATIVE_PROTOCOL): one datagram an entry, real fields.

An event `swapped` with `model` and `to` becomes MODELD_EVENT, MODELD_MODEL, MODELD_TO beside MESSAGE and PRIORITY.
MODELD_VERSION is always there where an event has a version: for a swap or a rollback, the one that serves since.
"""

from __future__ import annotations

import json
import os
import re
import socket
import struct
from collections.abc import Mapping
from typing import Any

SOCKET = "/run/systemd/journal/socket"

#: syslog(3)'s levels.
_PRIORITY = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}
#: A field's value is cut here: an entry has to fit into one datagram. Bytes.
_MAX_VALUE = 8192
_NOT_IN_NAMES = re.compile(r"[^A-Z0-9_]")


def is_stderr() -> bool:
    """Whether this process's stderr is the journal's: JOURNAL_STREAM is inherited, stderr may be another by now."""
    try:
        device, inode = map(int, os.environ.get("JOURNAL_STREAM", "").split(":"))
        found = os.fstat(2)
    except (ValueError, OSError):
        return False
    return (found.st_dev, found.st_ino) == (device, inode)


def encode(level: str, event: str, fields: Mapping[str, Any]) -> bytes:
    """One entry. Values that are no strings are written as JSON; None is left out."""
    told = {key: _text(value) for key, value in fields.items() if value is not None}
    entry = {
        "MESSAGE": " ".join([event, *(f"{key}={value}" for key, value in told.items())]),
        "PRIORITY": str(_PRIORITY.get(level, 6)),
        "SYSLOG_IDENTIFIER": "modeld",
        "MODELD_EVENT": event,
    }
    if "to" in told:
        entry["MODELD_VERSION"] = told["to"]
    for key, value in told.items():
        entry["MODELD_" + _NOT_IN_NAMES.sub("_", key.upper())] = value
    return b"".join(_field(name, value) for name, value in entry.items())


class Logger:
    """What structlog hands entries to. Never blocks and never raises: a journal that doesn't listen costs entries."""

    def __init__(self, *_: Any, address: str = SOCKET) -> None:
        self._address = address
        self._sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        self._sock.setblocking(False)
        self.dropped = 0

    def send(self, entry: bytes) -> None:
        try:
            self._sock.sendto(entry, self._address)
        except OSError:
            self.dropped += 1

    def close(self) -> None:
        self._sock.close()

    debug = info = warning = error = critical = send


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _field(name: str, value: str) -> bytes:
    data = value.encode(errors="replace")[:_MAX_VALUE]
    if b"\n" not in data:
        return b"%s=%s\n" % (name.encode(), data)
    return b"%s\n%s%s\n" % (name.encode(), struct.pack("<Q", len(data)), data)
