"""Logging, configured in one place: JSON lines under systemd, readable lines on a terminal; always on stderr.

Event names are the constants below; a line is one event with key=value fields.
"""

from __future__ import annotations

import os
import sys
from typing import Any, Literal

import structlog

STARTING = "starting"
READY = "ready"
TRIAL_STARTED = "trial_started"
TRIAL_DROPPED = "trial_dropped"
SWAPPED = "swapped"
RELABELLED = "relabelled"
REJECTED = "rejected"
ROLLED_BACK = "rolled_back"
FELL_BACK = "fell_back"
WORKER_STARTING = "starting_worker"
WORKER_JOINED = "worker_joined"
WORKER_DIED = "worker_died"
WORKER_HUNG = "worker_hung"
ZYGOTE_DIED = "zygote_died"
ZYGOTE_STARTED = "zygote_started"
WATCHER_DIED = "watcher_died"
SOURCE_LOST = "source_lost"
SOURCE_BACK = "source_back"
WRITE_FAILED = "source_write_failed"
RETIRED = "version_retired"
PROBATION_PASSED = "probation_passed"
HELD = "held"
RELEASED = "released"
INCIDENT = "incident"
DRAINING = "draining"
STOPPED = "stopped"
STALE_SOCKET = "stale_socket_replaced"
BAD_CONFIG = "bad_configuration"

Format = Literal["auto", "json", "text"]


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
        logger_factory=structlog.WriteLoggerFactory(file=sys.stderr),
        cache_logger_on_first_use=True,
    )


def get() -> Any:
    """A logger that writes one line an event."""
    return structlog.get_logger()
