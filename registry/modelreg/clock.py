"""Time as the registry writes it: RFC 3339, UTC, microseconds, Z."""

from __future__ import annotations

import datetime as dt

from modelreg.errors import UsageError


def utc_now() -> dt.datetime:
    """The present moment, aware, in UTC."""
    return dt.datetime.now(dt.UTC)


def rfc3339(moment: dt.datetime) -> str:
    """``2024-01-31T23:59:59.123456Z``"""
    return moment.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def parse_moment(text: str) -> dt.datetime:
    """A moment in ISO 8601, UTC where no offset is given; a date alone means the end of that day.

    Raises:
        UsageError: it isn't one.
    """
    try:
        moment = dt.datetime.fromisoformat(text.strip())
    except ValueError as error:
        raise UsageError(f"{text!r} isn't a time: use 2024-01-15, or 2024-01-15T12:30:00Z") from error
    if len(text.strip()) <= len("2024-01-15"):
        moment = moment.replace(hour=23, minute=59, second=59, microsecond=999_999)
    return moment.replace(tzinfo=dt.UTC) if moment.tzinfo is None else moment.astimezone(dt.UTC)


def seconds_between(start: str, end: str | dt.datetime) -> float:
    """Seconds from one moment of the log to another, never negative: clocks of several machines may differ."""
    try:
        begun = dt.datetime.fromisoformat(start)
        ended = dt.datetime.fromisoformat(end) if isinstance(end, str) else end
        return max(0.0, (ended - begun).total_seconds())
    except (ValueError, TypeError):
        return 0.0
