"""Logging, configured in one place: fields in systemd's journal, JSON lines or readable lines on stderr.

Event names are the constants below; a line is one event with key=value fields. docs/operations.md explains each.
"""

from __future__ import annotations

import io
import os
import select
import sys
from collections.abc import Callable, MutableMapping
from typing import Any, Literal

import structlog

from modeld import journal

STARTING = "starting"
READY = "ready"
TRIAL_STARTED = "trial_started"
TRIAL_DROPPED = "trial_dropped"
TRIAL_ABORTED = "trial_aborted"
SWAPPED = "swapped"
RELABELLED = "relabelled"
REJECTED = "rejected"
ROLLED_BACK = "rolled_back"
FELL_BACK = "fell_back"
WORKER_STARTING = "starting_worker"
WORKER_JOINED = "worker_joined"
WORKER_DIED = "worker_died"
WORKER_HUNG = "worker_hung"
PLAN_SERVES = "plan_serves"
PLAN_MISSING = "no_plan"
ZYGOTE_DIED = "zygote_died"
ZYGOTE_STARTED = "zygote_started"
NO_DESCRIPTORS = "no_descriptors"
DESCRIPTORS_BACK = "descriptors_back"
WATCHER_DIED = "watcher_died"
SOURCE_LOST = "source_lost"
SOURCE_BACK = "source_back"
KEEP_FAILED = "keep_failed"
LEASE_FAILED = "lease_failed"
DATASET_DRIFT = "dataset_drift"
WRITE_FAILED = "source_write_failed"
WRITE_DROPPED = "source_write_dropped"
RETIRED = "version_retired"
PROBATION_PASSED = "probation_passed"
INCIDENT = "incident"
DRAINING = "draining"
STOPPED = "stopped"
STALE_SOCKET = "stale_socket_replaced"
STATE_DIR_UNLOCKED = "state_dir_unlocked"

HANDSHAKE_DENIED = "handshake_denied"
HANDSHAKE_FAILED = "handshake_failed"
UNAUTHORIZED = "unauthorized"
ALLOW_LIST_READ = "allow_list_read"
ALLOW_LIST_BROKEN = "allow_list_broken"
OPERATION = "operation"
LISTENING = "listening"
HTTP_SERVER = "http_server"

RELOADING = "reloading"
MODEL_BROKEN = "model_broken"

#: Events that an operator should be told of.
WARNINGS = frozenset({
    DATASET_DRIFT, FELL_BACK, KEEP_FAILED, LEASE_FAILED, MODEL_BROKEN, REJECTED, SOURCE_LOST, TRIAL_ABORTED,
    WORKER_DIED, WRITE_FAILED,
})  # fmt: skip

Format = Literal["auto", "journal", "json", "text"]


class _Stderr(io.StringIO):
    """Descriptor 2 that never blocks and never raises: a reader that is slow or gone costs lines, not the daemon.

    A pipe that poll(2) calls writable takes a line of PIPE_BUF bytes whole.
    """

    def __init__(self) -> None:
        super().__init__()
        self._poll = select.poll()
        self._poll.register(2, select.POLLOUT)
        self.dropped = 0

    def write(self, text: str) -> int:
        data = text.encode(errors="replace")
        if len(data) > select.PIPE_BUF:
            data = data[: select.PIPE_BUF - 1] + b"\n"
        try:
            if self._poll.poll(0):
                os.write(2, data)
                return len(text)
        except OSError:
            self.dropped += 1
            return len(text)
        self.dropped += 1
        return len(text)


def configure(form: Format = "auto", level: str = "info") -> None:
    """Set structlog up for this process. `auto`: the journal where stderr is connected to it, JSON elsewhere under
    systemd, text elsewhere."""
    if form == "auto":
        form = "journal" if journal.is_stderr() else "json" if "INVOCATION_ID" in os.environ else "text"
    structlog.configure(
        processors=_PROCESSORS[form](),
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=journal.Logger if form == "journal" else structlog.WriteLoggerFactory(file=_Stderr()),
        cache_logger_on_first_use=True,
    )


def _to_journal(_logger: Any, level: str, fields: MutableMapping[str, Any]) -> bytes:
    return journal.encode(level, str(fields.pop("event")), fields)


_STAMP: list[Any] = [
    structlog.processors.add_log_level,
    structlog.processors.TimeStamper(fmt="iso", utc=True),
]
_PROCESSORS: dict[str, Callable[[], list[Any]]] = {
    "journal": lambda: [_to_journal],  # it knows the time and the level by itself
    "json": lambda: [*_STAMP, structlog.processors.JSONRenderer()],
    "text": lambda: [*_STAMP, structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=18)],
}


def get() -> Any:
    """A logger that writes one line an event."""
    return structlog.get_logger()
