"""The append-only log of one model: the only truth for what can change.

Creating the next numbered file exclusively (``os.link``) is the commit. Two writers race for a number; the
kernel lets one win, and the other reads the winner's record and decides again. No lock is needed for that.
"""

from __future__ import annotations

import datetime as dt
import json
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from modelreg.clock import rfc3339
from modelreg.disk import Disk
from modelreg.errors import IntegrityError, NotFoundError, StoreUnavailableError
from modelreg.records import (
    MAX_RECORD_BYTES,
    KnownOp,
    Record,
    decode_record,
    encode_record,
    record_name,
    record_seq,
)
from modelreg.state import Fold, ModelState


@dataclass(frozen=True, slots=True)
class Decision:
    """What a writer wants to commit, and the conditions that it checked in the state it was shown."""

    ops: Sequence[KnownOp]
    expect: Mapping[str, Any] = field(default_factory=dict)


class ModelLog:
    """Reads and extends the log of the model in ``directory``.

    Thread-safe: a lock guards the cached chain.
    """

    def __init__(self, name: str, directory: Path, disk: Disk) -> None:
        self.name = name
        self.directory = directory / "log"
        self._state_file = directory / "state.json"
        self._disk = disk
        self._lock = threading.RLock()
        self._identity: tuple[int, int] | None = None
        self._forget()

    def refresh(self) -> ModelState:
        """The present state. Where nothing is new it costs two stats and one failed open.

        Raises:
            NotFoundError: the model has no log.
            StoreUnavailableError: the log can't be read.
        """
        with self._lock:
            try:
                identity = self._disk.identity(self.directory)
                # A restored log may have the inodes of the one before it: the newest record tells them apart.
                if identity != self._identity or self._mark != self._head_mark():
                    self._forget()
                    self._read_onwards(thorough=True)
                    self._identity = identity
                else:
                    self._read_onwards(thorough=False)
            except (FileNotFoundError, NotADirectoryError) as error:
                raise NotFoundError(f"no model {self.name!r}: {self.directory} doesn't exist") from error
            except OSError as error:
                raise StoreUnavailableError(
                    f"{self.directory}: can't read the log: {_says(error)}"
                ) from error
            return self._state

    def records(self) -> tuple[Record, ...]:
        """The valid records, oldest first."""
        with self._lock:
            self.refresh()
            return tuple(self._records)

    def commit(
        self,
        decide: Callable[[ModelState], Decision],
        *,
        actor: str,
        reason: str | None,
        clock: Callable[[], dt.datetime],
    ) -> tuple[Record, ModelState]:
        """Append one record; returns it and the state that it was decided on.

        ``decide`` sees the newest state and may be called again when another writer was faster; what it
        raises is passed on. On return the record is durable.

        Raises:
            IntegrityError: the chain is broken, so the model is read-only.
            StoreUnavailableError: the record can't be written.
        """
        with self._lock:
            while True:
                try:
                    self.refresh()
                    self._read_onwards(thorough=True)
                except OSError as error:
                    if isinstance(error, StoreUnavailableError):
                        raise
                    raise StoreUnavailableError(
                        f"{self.directory}: can't read the log: {_says(error)}"
                    ) from error
                state = self._state
                self.refuse_if_broken(state)
                decision = decide(state)
                data = encode_record(
                    seq=state.seq + 1,
                    prev=state.head,
                    id=str(uuid.uuid4()),
                    at=rfc3339(clock()),
                    actor=actor,
                    reason=reason,
                    ops=decision.ops,
                    expect=decision.expect,
                )
                # What couldn't be read back must not get in: fold it before it is written.
                record = decode_record(data, seq=state.seq + 1, prev=state.head, where="the new record")
                self._fold.copy().apply(record)
                if self._link(state.seq + 1, data):
                    self.refresh()
                    return record, state

    def refuse_if_broken(self, state: ModelState) -> None:
        """Raise IntegrityError where the model is read-only."""
        if state.broken:
            raise IntegrityError(f"model {self.name!r} is read-only: {state.broken}")

    # -- the rest holds the lock -----------------------------------------------------------------------------

    def _forget(self) -> None:
        self._records: list[Record] = []
        self._fold = Fold(self.name)
        self._tail: str | None = None
        #: Tells the file of the newest record from any other.
        self._mark: str | None = None
        self._state = self._fold.snapshot()

    def _head_mark(self) -> str | None:
        if not self._records:
            return None
        return self._disk.mark(self.directory / record_name(self._records[-1].seq))

    def _read_onwards(self, *, thorough: bool) -> None:
        """Take in what follows the head. ``thorough`` looks for gaps and lost records too."""
        # The projection first: it may lag behind the log, but a log that lags behind it has lost records.
        applied = self._applied() if thorough else None
        before, problem = self._fold.seq, None
        while problem is None:
            seq = self._fold.seq + 1
            path = self.directory / record_name(seq)
            try:
                data, mark = self._disk.read_marked(path, max_bytes=MAX_RECORD_BYTES)
            except FileNotFoundError:
                break
            except IntegrityError as error:
                problem = str(error)
                break
            except PermissionError as error:
                raise StoreUnavailableError(f"{path}: can't be read: {_says(error)}") from error
            problem = self._take(data, seq, path)
            if problem is None:
                self._mark = mark
        if thorough and problem is None:
            problem = self._lost_records(applied)
            if problem is not None and self._disk.exists(self.directory / record_name(self._fold.seq + 1)):
                return self._read_onwards(thorough=True)  # a writer was faster than our listing
            self._tail = problem
        elif problem is not None or self._fold.seq != before:
            self._tail = problem
        if self._fold.seq != before or self._state.broken != (self._tail or self._fold.unknown):
            self._state = self._fold.snapshot(self._tail)
        return None

    def _take(self, data: bytes, seq: int, path: Path) -> str | None:
        try:
            record = decode_record(data, seq=seq, prev=self._fold.head, where=str(path))
        except IntegrityError as error:
            return f"{error}; restore that file from a backup"
        try:
            self._fold.apply(record)
        except IntegrityError as error:
            self._fold = Fold.of(self.name, self._records)
            return f"{path}: {error}"
        self._records.append(record)
        return None

    def _lost_records(self, applied: tuple[int, str | None] | None) -> str | None:
        # Numbers have one length, so names can be compared as they are: most are passed over without a look.
        newest = record_name(self._fold.seq)
        later = [file for file in self._disk.listdir(self.directory) if file > newest]
        beyond = [seq for seq in map(record_seq, later) if seq is not None]
        missing = self.directory / record_name(self._fold.seq + 1)
        if beyond:
            return f"{missing} is missing, though record {min(beyond)} exists; restore it from a backup"
        if applied is None:
            return None
        seq, head = applied
        if seq > self._fold.seq:
            return (
                f"{missing} is missing, though {self._state_file} was made from record {seq}; restore "
                "it from a backup, or delete state.json to accept the loss"
            )
        if 0 < seq <= len(self._records) and head is not None and self._records[seq - 1].hash != head:
            return (
                f"{self.directory / record_name(seq)} isn't the record that {self._state_file} was made "
                "from; restore it from a backup, or delete state.json to accept the change"
            )
        return None

    def _applied(self) -> tuple[int, str | None] | None:
        """(seq, head) that the projection was made from, if that can be told."""
        try:
            state = json.loads(self._disk.read(self._state_file, max_bytes=64 << 20))
            return int(state["seq"]), state.get("head")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, IntegrityError, RecursionError):
            return None

    def _link(self, seq: int, data: bytes) -> bool:
        temporary = self._disk.temporary(self.directory)
        target = self.directory / record_name(seq)
        try:
            self._disk.write_new(temporary, data, mode=0o444)
            try:
                self._disk.link(temporary, target)
            except FileExistsError:
                return False
            finally:
                self._disk.discard(temporary)
        except OSError as error:
            raise StoreUnavailableError(f"{target}: can't write the record: {_says(error)}") from error
        try:
            self._disk.fsync_dir(self.directory)
        except OSError as error:
            raise StoreUnavailableError(
                f"{target}: was written, but may not survive a power cut ({_says(error)}); look at the "
                "history before you repeat the command"
            ) from error
        return True


def _says(error: OSError) -> str:
    return error.strerror or str(error)
