"""What the streaming client saw, one entry per request: written by its process, judged by another."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

#: What became of a request.
REPLY, ERROR, LOST = 0, 1, 2

#: In place of a version's index, a generation or a time that there isn't.
NONE = -1


@dataclass(frozen=True, slots=True, eq=False)
class StreamLog:
    """All arrays are `[n]`, in the order of sending. Times are `time.monotonic_ns()`: one clock for all.

    Attributes:
        row: which held-out row was sent, int64.
        sent_ns: when, int64.
        replied_ns: when its outcome was known, int64.
        outcome: REPLY, ERROR or LOST (no reply within the client's timeout), int64.
        version: index into `versions`, int64; NONE without a reply.
        generation: the reply's, int64; NONE without a reply.
        bits: the predicted float64's bits, uint64; 0 without a reply.
        versions: the versions that replied, in order of first appearance.
        errors: distinct error texts.
    """

    row: NDArray[np.int64]
    sent_ns: NDArray[np.int64]
    replied_ns: NDArray[np.int64]
    outcome: NDArray[np.int64]
    version: NDArray[np.int64]
    generation: NDArray[np.int64]
    bits: NDArray[np.uint64]
    versions: tuple[str, ...]
    errors: tuple[str, ...]

    def save(self, path: Path) -> None:
        """Write one .npz; no pickle in it."""
        np.savez(
            path,
            row=self.row,
            sent_ns=self.sent_ns,
            replied_ns=self.replied_ns,
            outcome=self.outcome,
            version=self.version,
            generation=self.generation,
            bits=self.bits,
            versions=np.array(self.versions, dtype=np.str_),
            errors=np.array(self.errors, dtype=np.str_),
        )

    @classmethod
    def load(cls, path: Path) -> StreamLog:
        """Read what `save` wrote. Raises OSError, ValueError or KeyError where the file isn't that."""
        with np.load(path) as file:
            return cls(
                row=file["row"],
                sent_ns=file["sent_ns"],
                replied_ns=file["replied_ns"],
                outcome=file["outcome"],
                version=file["version"],
                generation=file["generation"],
                bits=file["bits"],
                versions=tuple(str(name) for name in file["versions"]),
                errors=tuple(str(text) for text in file["errors"]),
            )


class Recorder:
    """Collects entries; appending to lists costs the loop about a microsecond."""

    def __init__(self) -> None:
        self._entries: list[tuple[int, int, int, int, int, int]] = []
        self._values: list[float] = []
        self._versions: dict[str, int] = {}
        self._errors: dict[str, None] = {}

    def reply(
        self, row: int, sent_ns: int, replied_ns: int, version: str, generation: int, value: float
    ) -> None:
        """A prediction came."""
        index = self._versions.setdefault(version, len(self._versions))
        self._entries.append((row, sent_ns, replied_ns, REPLY, index, generation))
        self._values.append(value)

    def failure(self, row: int, sent_ns: int, replied_ns: int, outcome: int, text: str) -> None:
        """An error (ERROR) or nothing at all (LOST) came."""
        self._entries.append((row, sent_ns, replied_ns, outcome, NONE, NONE))
        self._values.append(0.0)
        self._errors[text] = None

    def log(self) -> StreamLog:
        """Everything so far."""
        columns = np.array(self._entries, dtype=np.int64).reshape(-1, 6).T
        row, sent_ns, replied_ns, outcome, version, generation = columns
        return StreamLog(
            row=row,
            sent_ns=sent_ns,
            replied_ns=replied_ns,
            outcome=outcome,
            version=version,
            generation=generation,
            bits=np.array(self._values, dtype=np.float64).view(np.uint64),
            versions=tuple(self._versions),
            errors=tuple(self._errors),
        )
