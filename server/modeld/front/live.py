"""The rows that a version answered last, with its answers: what a candidate is compared with."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence

from modeld.wire.contract import Contract
from modeld.work import ipc
from modelreg.metadata import schema_fingerprint


class LiveRows:
    """The first row of each of the last `size` requests. Owned by the front's loop.

    A one-row request costs a reference to the bytes that came and those that left, which nobody changes.
    """

    def __init__(self, contract: Contract, size: int) -> None:
        self._contract = contract
        self._row_bytes = contract.n_features * 8
        self._widths = [(width or 1) * 8 for _, width in contract.outputs]
        self._rows: deque[tuple[bytes | memoryview, Sequence[bytes]]] = deque(maxlen=size)
        self.add_one = self._rows.append
        self.clear = self._rows.clear

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, data: bytes | memoryview, rows: int, tensors: Sequence[bytes]) -> None:
        """Remember a request's first row; `add_one((data, tensors))` does where it has one."""
        if rows > 1 or not isinstance(data, bytes):
            data = bytes(data[: self._row_bytes])  # a view would keep the whole message, or a descriptor
            tensors = [tensor[:width] for tensor, width in zip(tensors, self._widths, strict=True)]
        self._rows.append((data, tensors))

    def pack(self) -> tuple[ipc.Live, int]:
        """A description and a memfd with all of it, which is the caller's to close. Raises OSError."""
        contract = self._contract
        live = ipc.Live(
            contract.version,
            contract.n_features,
            schema_fingerprint(contract.features),
            list(contract.outputs),
            len(self._rows),
        )
        parts = [data for data, _ in self._rows]
        parts += [tensors[at] for at in range(len(self._widths)) for _, tensors in self._rows]
        fd = os.memfd_create("modeld-live", os.MFD_CLOEXEC)
        try:
            os.write(fd, b"".join(parts))
        except OSError:
            os.close(fd)
            raise
        return live, fd
