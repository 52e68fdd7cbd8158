"""Retention: which versions may go. Pure, but for emptying the trash.

Never: what a channel holds, what was in production before, what has a lease, what another version derives from, what
isn't older than the newest ``keep``. Versions with tags stay too: a tag is somebody's wish to keep it. Where damage
hides what a version derives from, everything that it could derive from stays: what was registered before it.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable
from dataclasses import dataclass, field

from modelreg import trash
from modelreg.disk import Disk
from modelreg.state import PROMOTABLE, ModelState

#: How many of the newest versions stay.
DEFAULT_KEEP = 5

#: How long files stay in the trash, in hours.
DEFAULT_GRACE_H = 168.0

#: What the clocks of those who write to one registry may differ by.
CLOCK_SKEW = dt.timedelta(days=1)

_NEVER = dt.datetime.min.replace(tzinfo=dt.UTC)
_ALWAYS = dt.datetime.max.replace(tzinfo=dt.UTC)


@dataclass(frozen=True, slots=True)
class Swept:
    """What gc did, or would do: versions deleted, and trash entries removed for good (``model@version``).

    ``problems``: which models were left alone because they are damaged, and why; empty where all is well.
    """

    deleted: tuple[str, ...]
    purged: tuple[str, ...]
    problems: tuple[str, ...] = ()


@dataclass(slots=True)
class Kinship:
    """What derives from what, as far as it is known. ``parents``: references that something derives from.

    ``damaged``: model → what is wrong. ``hidden_until``: whatever was registered by then may be a hidden parent.
    """

    parents: set[str] = field(default_factory=set)
    damaged: dict[str, list[str]] = field(default_factory=dict)
    hidden_until: dt.datetime = _NEVER

    def hide(self, name: str, problem: str, registered: str | None) -> None:
        """Note that what a version of ``name`` derives from can't be told; ``registered``: when, if that is known."""
        self.damaged.setdefault(name, []).append(problem)
        until = _ALWAYS if registered is None else dt.datetime.fromisoformat(registered) + CLOCK_SKEW
        self.hidden_until = max(self.hidden_until, until)

    def may_need(self, name: str, version: str, registered: str) -> bool:
        """Whether something derives from that version, or could."""
        return f"{name}:{version}" in self.parents or (
            self.hidden_until > _NEVER and dt.datetime.fromisoformat(registered) <= self.hidden_until
        )


def candidates(state: ModelState, *, keep: int, leased: Iterable[str], kinship: Kinship) -> list[str]:
    """The versions of a model that nobody needs, oldest first; none of a damaged model."""
    if state.name in kinship.damaged:
        return []
    present = [version for version in state.versions.values() if version.status != "deleted"]
    needed = {version.version for version in present[len(present) - keep :]} if keep else set()
    needed.update(leased)
    for channel in state.channels.values():
        if channel.version is not None:
            needed.add(channel.version)
        if channel.channel == "production":
            # The one before, and the one that a rollback would go to, where that is further back.
            for version in channel.previous:
                needed.add(version)
                if state.versions[version].status in PROMOTABLE:
                    break
    return [
        v.version
        for v in present
        if v.version not in needed and not v.tags and not kinship.may_need(state.name, v.version, v.at)
    ]


def expired(entries: Iterable[trash.TrashEntry], now: dt.datetime, grace_h: float) -> list[trash.TrashEntry]:
    """The trash whose grace is over."""
    return [entry for entry in entries if now - entry.since > dt.timedelta(hours=grace_h)]


def purge(entries: Iterable[trash.TrashEntry], disk: Disk) -> None:
    """Remove trash for good."""
    for entry in entries:
        disk.remove_flat_dir(entry.path)
