"""The plans of one version: those that serve, their proof while it is under way, and why there are none."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Sequence
from typing import Protocol

from modeld.forest.scorer import Scorer
from modeld.front.lane import Lane
from modeld.work import ipc

#: Why no plan serves a version, as long as that may change.
UNPROVED, PROVING = "no plan was proved yet", "the plan is being proved"


class Proof(Protocol):
    """A proof of plans under way."""

    def drop(self) -> None:
        """End it; it reports nothing more."""


class Plans:
    """Owned by the version that they compute."""

    def __init__(self, why_none: str) -> None:
        """`why_none`: why there can't be any; empty: there may be some."""
        self.scorers: tuple[Scorer, ...] = ()
        #: Requests of up to so many rows are scored in this process.
        self.rows = 0
        #: Why none serves; "" where one does.
        self.why_none = why_none or UNPROVED
        self._proof: Proof | None = None
        self._fd = -1

    @property
    def wanted(self) -> bool:
        """Whether a proof may find some."""
        return self.why_none == UNPROVED

    def prove(self, proof: Proof) -> None:
        """A proof is under way."""
        self._proof, self.why_none = proof, PROVING

    def use(self, scorers: Sequence[Scorer], rows: int, fd: int, why_not: str) -> None:
        """Take them; `fd`, the sealed memfd that has them, is this object's from now on (-1: none)."""
        self._proof, self.why_none = None, why_not
        self.scorers, self.rows, self._fd = tuple(scorers), rows, fd

    def do_without(self, why: str) -> None:
        """There are none, and another proof would find none either."""
        self._proof, self.why_none = None, why

    def send(self, lane: Lane) -> None:
        """Give the worker what there is; one that is gone shows by its channel's end of file."""
        if self._fd >= 0:
            with contextlib.suppress(OSError):
                socket.send_fds(lane.channel.sock, [ipc.head(ipc.USE_PLANS)], [self._fd])

    def drop_proof(self) -> None:
        """End the proof that is under way, if one is; another may follow."""
        if self._proof is not None:
            self._proof.drop()
            self._proof, self.why_none = None, UNPROVED

    def close(self) -> None:
        self.drop_proof()
        self.scorers, self.rows = (), 0
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
