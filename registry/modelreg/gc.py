"""Retention: which versions may go. Pure, but for emptying the trash.

Never: what a channel holds, what was in production before, what has a lease, what another version derives from, what
isn't older than the newest ``keep``. Versions with tags stay too: a tag is somebody's wish to keep it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from modelreg import trash
from modelreg.disk import Disk
from modelreg.refs import parse_ref
from modelreg.state import ModelState

#: How many of the newest versions stay.
DEFAULT_KEEP = 5

#: How long files stay in the trash, in hours.
DEFAULT_GRACE_H = 168.0


@dataclass(frozen=True, slots=True)
class Swept:
    """What gc did, or would do: versions deleted, and trash entries removed for good (``model@version``)."""

    deleted: tuple[str, ...]
    purged: tuple[str, ...]


def candidates(
    state: ModelState, *, keep: int, leased: Iterable[str], parents: Mapping[str, str | None]
) -> list[str]:
    """The versions of a model that nobody needs, oldest first."""
    present = [version.version for version in state.versions.values() if version.status != "deleted"]
    needed = {*present[len(present) - keep :]} if keep else set()
    needed.update(leased)
    for channel in state.channels.values():
        if channel.version is not None:
            needed.add(channel.version)
        if channel.channel == "production":
            needed.update(channel.previous[:1])
    for parent in parents.values():
        if parent is not None and (ref := parse_ref(parent)).name == state.name and ref.version is not None:
            needed.add(ref.version)
    return [version for version in present if version not in needed and not state.versions[version].tags]


def expired(entries: Iterable[trash.TrashEntry], now: dt.datetime, grace_h: float) -> list[trash.TrashEntry]:
    """The trash whose grace is over."""
    return [entry for entry in entries if now - entry.since > dt.timedelta(hours=grace_h)]


def purge(entries: Iterable[trash.TrashEntry], disk: Disk) -> None:
    """Remove trash for good."""
    for entry in entries:
        disk.remove_flat_dir(entry.path)
