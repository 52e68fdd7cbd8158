"""What a slot knows of the time before this start: the version kept, its generation, its features."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from modeld.swap.policy import Pointer

#: Candidates in a row that are superseded on trial while nothing serves, before the kept version is served first.
_STARVED_AFTER = 2
#: Versions that never served of which a restart knows that.
_UNSERVED = 32


class Memory:
    """Empty where there was no time before."""

    def __init__(self) -> None:
        self.kept: Pointer | None = None
        #: What the clients of the kept version send; empty where that isn't known.
        self.features: Sequence[str] = ()
        #: The digest that had the last generation.
        self.numbered: str | None = None
        self._superseded = 0
        #: Digests that the source named here first and that never served since, oldest first: what holds the channel
        #: may be refused or superseded on trial, and then a promotion of it isn't the way back that it looks like.
        self._unserved: dict[str, None] = {}

    @property
    def unserved(self) -> list[str]:
        """What a restart is to remember of them."""
        return list(self._unserved)[-_UNSERVED:]

    def restore_unserved(self, digests: Iterable[str]) -> None:
        self._unserved = dict.fromkeys(digests)

    def named_first(self, digest: str) -> None:
        """The source names a version that it never named before."""
        self._unserved[digest] = None

    def served(self, digest: str) -> None:
        """It serves from now on."""
        self._unserved.pop(digest, None)

    def knows_unserved(self, digest: str) -> bool:
        """Whether the version was named here and never served."""
        return digest in self._unserved

    def is_of(self, digest: str) -> bool:
        """Whether the version of this digest is the one that is kept."""
        return self.kept is not None and self.kept.digest == digest

    def superseded(self) -> None:
        """A candidate of this start was superseded before it was proved."""
        self._superseded += 1

    @property
    def starved(self) -> bool:
        """Whether so many were that it is better to serve the kept version first."""
        return self._superseded >= _STARVED_AFTER
