"""What models, versions, channels, outputs and tags may be called.

Everything else is refused, never repaired.
"""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Container

from modelreg.errors import UsageError

_MODEL = re.compile(r"[a-z0-9][a-z0-9_.-]{0,63}")
_CHANNEL = re.compile(r"[a-z][a-z0-9_-]{0,63}")
_OUTPUT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_TAG = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.:/@+-]{0,127}")
_NUMBER = r"(?:0|[1-9]\d*)"
_PRE = rf"(?:{_NUMBER}|\d*[a-zA-Z-][0-9a-zA-Z-]*)"
_SEMVER = re.compile(
    rf"v?{_NUMBER}\.{_NUMBER}\.{_NUMBER}(?:-{_PRE}(?:\.{_PRE})*)?(?:\+[0-9a-zA-Z-]+(?:\.[0-9a-zA-Z-]+)*)?",
    re.ASCII,
)
_TIMESTAMP = re.compile(r"(\d{8}_\d{6})(?:_(?:[2-9]|[1-9]\d+))?", re.ASCII)

#: Names that would collide with the registry's own: `production/`, `production/latest`, `manifest.json`.
RESERVED_MODEL_NAMES = frozenset({"production", "latest", "manifest.json"})

#: The longest version, in characters.
MAX_VERSION_CHARS = 128

#: The longest reason, notes or actor, in characters.
MAX_TEXT_CHARS = 10_000


def check_model_name(name: str) -> str:
    """Return ``name``, or raise UsageError if no model can be called that."""
    if not _MODEL.fullmatch(name):
        raise UsageError(
            f"{name!r} can't be a model's name: use 1 to 64 of a-z 0-9 _ . - and begin with a letter or digit"
        )
    if name in RESERVED_MODEL_NAMES:
        raise UsageError(f"{name!r} can't be a model's name: the registry uses it itself; choose another")
    return name


def is_version(text: str) -> bool:
    """Whether ``text`` is a semantic version (with or without v) or a UTC timestamp version."""
    if len(text) > MAX_VERSION_CHARS:
        return False
    if _SEMVER.fullmatch(text):
        return True
    match = _TIMESTAMP.fullmatch(text)
    if not match:
        return False
    try:
        dt.datetime.strptime(match[1], "%Y%m%d_%H%M%S")
    except ValueError:
        return False
    return True


def check_version(version: str) -> str:
    """Return ``version``, or raise UsageError."""
    if not is_version(version):
        raise UsageError(
            f"{version!r} can't be a version: use semver (1.2.0, v1.2.0-rc.1) or UTC time (20240131_235959)"
        )
    return version


def timestamp_version(now: dt.datetime, taken: Container[str]) -> str:
    """The version for a registration at ``now`` (aware); `_2`, `_3` … within one second."""
    base = now.astimezone(dt.UTC).strftime("%Y%m%d_%H%M%S")
    version, count = base, 1
    while version in taken:
        count += 1
        version = f"{base}_{count}"
    return version


def check_channel(channel: str) -> str:
    """Return ``channel``, or raise UsageError."""
    if not _CHANNEL.fullmatch(channel):
        raise UsageError(
            f"{channel!r} can't be a channel: use 1 to 64 of a-z 0-9 _ - beginning with a letter, as staging"
        )
    return channel


def check_output(output: str) -> str:
    """Return an output's name, or raise UsageError."""
    if not _OUTPUT.fullmatch(output) or ".." in output:
        raise UsageError(
            f"{output!r} can't be an output's name: use 1 to 64 letters, digits, _ . - (1d, predictions)"
        )
    return output


def check_tag(tag: str) -> str:
    """Return ``tag``, or raise UsageError."""
    if not _TAG.fullmatch(tag):
        raise UsageError(f"{tag!r} can't be a tag: use 1 to 128 letters, digits, _ . : / @ + -")
    return tag


def check_text(text: str | None, what: str) -> str:
    """Return a required free text (a reason, an actor) that the log can hold, or raise UsageError."""
    if text is None or not text.strip():
        raise UsageError(f"{what} is missing: say it, the audit trail needs it")
    if len(text) > MAX_TEXT_CHARS:
        raise UsageError(f"{what} is longer than {MAX_TEXT_CHARS} characters")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{what} isn't valid UTF-8 text") from None
    return text
