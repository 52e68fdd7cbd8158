"""What a slot knows of the time before this start: the version kept, its generation, its features."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from modeld.swap.policy import Pointer

#: Candidates in a row that are superseded on trial while nothing serves, before the kept version is served first.
_STARVED_AFTER = 2


class Memory:
    """Empty where there was no time before."""

    def __init__(self) -> None:
        self.kept: Pointer | None = None
        #: What the clients of the kept version send; empty where that isn't known.
        self.features: Sequence[str] = ()
        self._superseded = 0

    def is_of(self, digest: str) -> bool:
        """Whether the version of this digest is the one that is kept."""
        return self.kept is not None and self.kept.digest == digest

    def superseded(self) -> None:
        """A candidate of this start was superseded before it was proved."""
        self._superseded += 1

    def starved(self, unfit: Collection[str]) -> bool:
        """Whether so many were that it is better to serve the kept version first, unless its digest is `unfit`."""
        return self.kept is not None and self.kept.digest not in unfit and self._superseded >= _STARVED_AFTER
