"""What the registry's calls give back, and what "nothing expected" is called."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Final, Literal


class _Unset(Enum):
    UNSET = "unset"


#: "Nothing is expected": None would mean "expected to be empty".
UNSET: Final = _Unset.UNSET

Expect = str | None | Literal[_Unset.UNSET]


@dataclass(frozen=True, slots=True)
class Version:
    """A registered version; ``seq`` and ``at`` are those of its record."""

    name: str
    version: str
    digest: str
    seq: int
    at: str
    path: Path

    @property
    def ref(self) -> str:
        return f"{self.name}:{self.version}"


@dataclass(frozen=True, slots=True)
class Commit:
    """One durable decision.

    ``channel`` and the versions are None where no channel moved; ``digest``: of to_version. ``overridden``: the
    gates that weren't passed, if they were overridden. ``changed``: a record was written; where the channel held the
    version already none is, and ``seq`` and ``at`` are those of the record that put it there. ``next_rollback``: where
    one more rollback would go, if this was one and there is such a version.
    """

    name: str
    seq: int
    at: str
    channel: str | None
    from_version: str | None
    to_version: str | None
    digest: str | None
    overridden: tuple[str, ...] = ()
    changed: bool = True
    next_rollback: str | None = None
