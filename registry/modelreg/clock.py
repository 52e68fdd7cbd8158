"""Time as the registry writes it: RFC 3339, UTC, microseconds, Z."""

from __future__ import annotations

import datetime as dt


def utc_now() -> dt.datetime:
    """The present moment, aware, in UTC."""
    return dt.datetime.now(dt.UTC)


def rfc3339(moment: dt.datetime) -> str:
    """``2024-01-31T23:59:59.123456Z``"""
    return moment.astimezone(dt.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
