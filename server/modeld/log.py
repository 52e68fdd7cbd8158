"""Logging, configured in one place: JSON lines under systemd, readable lines on a terminal; always on stderr.

Event names are the constants below; a line is one event with key=value fields.
"""

from __future__ import annotations

import io
import os
import select
import sys
from typing import Any, Literal

import structlog

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
WATCHER_DIED = "watcher_died"
SOURCE_LOST = "source_lost"
SOURCE_BACK = "source_back"
KEEP_FAILED = "keep_failed"
WRITE_FAILED = "source_write_failed"
RETIRED = "version_retired"
PROBATION_PASSED = "probation_passed"
INCIDENT = "incident"
DRAINING = "draining"
STOPPED = "stopped"
STALE_SOCKET = "stale_socket_replaced"

LISTENING = "listening"
HTTP_SERVER = "http_server"

RELOADING = "reloading"
MODEL_BROKEN = "model_broken"

#: Events that an operator should be told of.
WARNINGS = frozenset({REJECTED, FELL_BACK, WORKER_DIED, TRIAL_ABORTED, WRITE_FAILED})

Format = Literal["auto", "json", "text"]


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
    """Set structlog up for this process. `auto`: JSON where systemd started us, text elsewhere."""
    as_json = form == "json" or (form == "auto" and "INVOCATION_ID" in os.environ)
    shared: list[Any] = [
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    render = (
        structlog.processors.JSONRenderer()
        if as_json
        else structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=18)
    )
    structlog.configure(
        processors=[*shared, render],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=_Stderr()),
        cache_logger_on_first_use=True,
    )


def get() -> Any:
    """A logger that writes one line an event."""
    return structlog.get_logger()
