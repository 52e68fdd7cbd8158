"""Outputs on their way to replies: checked, cut into what each request is due, remembered."""

from __future__ import annotations

import math
import struct
from collections.abc import Sequence

import numpy as np

from modeld.front.job import Job
from modeld.front.live import LiveRows
from modeld.wire.contract import Contract

_VALUE = struct.Struct("<d")


class Outputs:
    """Of one version. An output that isn't finite is nobody's answer: such a job isn't finished here."""

    def __init__(self, contract: Contract, live: LiveRows) -> None:
        self._widths = [(width or 1) * 8 for _, width in contract.outputs]
        self._live = live
        self._remember_one = live.add_one

    def one(self, job: Job, tensors: list[bytes], ns: int) -> bool:
        """All outputs of one request, float64 bytes, one for each output of the contract; False: they aren't finite."""
        if len(tensors) == 1 and len(tensors[0]) == 8:  # one row, one value: the common case
            finite = math.isfinite(_VALUE.unpack(tensors[0])[0])
        else:
            finite = all(np.isfinite(np.frombuffer(tensor)).all() for tensor in tensors)
        if not finite:
            return False
        job.finish(tensors, ns)
        if job.rows == 1:
            self._remember_one((job.data, tensors))
        else:
            self._live.add(job.data, job.rows, tensors)
        return True

    def split(self, batch: Sequence[Job], total: int, data: memoryview, ns: int) -> list[Job]:
        """Outputs lie one after the other, each over all rows of the batch: every job gets its rows of each.

        Returns:
            The jobs whose outputs aren't finite.
        """
        finite = np.isfinite(np.frombuffer(data, np.float64)).all()
        bad = []
        first = 0
        for job in batch:
            tensors: list[bytes] = []
            at = 0
            for row in self._widths:
                tensors.append(bytes(data[at + first * row : at + (first + job.rows) * row]))
                at += total * row
            first += job.rows
            if finite or all(np.isfinite(np.frombuffer(tensor)).all() for tensor in tensors):
                job.finish(tensors, ns)
                self._live.add(job.data, job.rows, tensors)
            else:
                bad.append(job)
        return bad
