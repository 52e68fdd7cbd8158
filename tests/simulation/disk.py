"""A simulated registry on a simulated disk: one model's log, what goes wrong with disks, and file events that lie.

Nothing is written by halves here: that a commit is atomic is the registry's own promise, and its own tests crash it at
every file operation. What a reader may meet is here: a root that is gone, a model that can't be read, a disk that can't
be written, a log that was restored from a backup and counts from an earlier number.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

from tests.simulation.clock import Clock

from modeld.swap.policy import Pointer
from modeld.watch.messages import Write, Written

Fault = Literal["gone", "broken", "read-only"]
#: What a file event says of itself. It means nothing.
KINDS = ("moved", "created", "modified", "deleted")


@dataclass
class FileEvent:
    """What the pointer looked like when it was sent, which may be long ago by the time that it comes."""

    kind: str
    version: str | None


@dataclass
class Disk:
    clock: Clock
    chance: random.Random
    pointer: Pointer | None = None
    #: Versions that held the channel, oldest first.
    past: list[str] = field(default_factory=list)
    failed: set[str] = field(default_factory=set)
    fault: Fault | None = None
    #: Share of file events that never come, and the longest that one takes.
    lost_events: float = 0.3
    listener: Callable[[FileEvent], None] = lambda _: None
    _seq: int = 0

    def promote(self, version: str, *, actor: str = "uid:1", allow_schema_change: bool = False) -> None:
        self._seq += 1
        held_before = version in self.past
        if self.pointer is not None:
            self.past.append(self.pointer.version)
        self.pointer = Pointer(
            "alpha", version, digest_of(version), self._seq, f"/models/{version}",
            allow_schema_change=allow_schema_change, held_before=held_before, actor=actor,
            reason="as the schedule says",
        )  # fmt: skip
        self._tell()

    def restore_backup(self) -> None:
        """The log as it was some records ago, under an earlier number."""
        if self.past:
            version = self.past.pop()
            self._seq = max(0, self._seq - self.chance.randint(1, 3))
            self.failed.discard(version)
            self.promote(version)

    def write(self, request: Write) -> Written:
        """A rollback by compare-and-set, as the registry does it."""
        if self.fault is not None:
            return Written(
                request.token, "alpha", code="store_unavailable", error=f"the disk is {self.fault}"
            )
        now = self.pointer.version if self.pointer is not None else None
        if now != request.expect:
            return Written(request.token, "alpha", code="conflict", error=f"production is {now}")
        usable = [v for v in self.past if v != request.expect and v not in self.failed]
        to = request.to or (usable[-1] if usable else None)
        if to is None:
            return Written(request.token, "alpha", code="not_found", error="there is no earlier version")
        if to in self.failed:
            return Written(request.token, "alpha", code="conflict", error=f"{to} has failed")
        if request.mark_failed:
            self.failed.add(request.expect)
        self.promote(to, actor=request.actor)
        return Written(request.token, "alpha", from_version=request.expect, to_version=to)

    def _tell(self) -> None:
        for _ in range(self.chance.choice((1, 1, 2, 3))):
            if self.chance.random() >= self.lost_events:
                event = FileEvent(self.chance.choice(KINDS), self.pointer.version if self.pointer else None)
                late = self.chance.random() < 0.1
                self.clock.within(0, 2.0 if late else 0.004, lambda event=event: self.listener(event))


def digest_of(version: str) -> str:
    return f"sha256:{version}"
