"""A cache of computed factors on disk: Parquet files, written whole, shared by any number of processes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelreg.errors import StoreUnavailableError, UsageError

if TYPE_CHECKING:
    import pyarrow as pa

#: How long an entry is good for, in seconds.
DEFAULT_TTL_S = 7 * 24 * 3600.0

#: All entries together, in bytes.
DEFAULT_MAX_BYTES = 10 << 30

_KEY = b"modelreg.key"

#: An unfinished file that is older than this, in seconds, is of a process that died.
_ABANDONED_S = 3600.0


class DiskExpressionCache:
    """Frames by key ``{factor}:{as_of}:{dataset_version}:{snapshot}:{config_hash}``. Thread-safe and process-safe.

    Readers see a whole entry or none; two that compute the same at once both succeed. Frames are pyarrow Tables; a
    pandas or polars frame is taken too, and comes back as a Table.

    Args:
        directory: made if it isn't there.
        ttl_s: older entries count as missing.
        max_bytes: above it the entries used longest ago go.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        ttl_s: float = DEFAULT_TTL_S,
        max_bytes: int = DEFAULT_MAX_BYTES,
        clock: Callable[[], float] = time.time,
    ) -> None:
        try:
            import pyarrow.parquet as parquet
        except ImportError as error:
            raise UsageError("the cache needs pyarrow: pip install 'modeld[parquet]'") from error
        self._parquet = parquet
        self._directory = Path(directory)
        self._ttl_s = ttl_s
        self._max_bytes = max_bytes
        self._clock = clock
        try:
            self._directory.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StoreUnavailableError(f"{directory}: can't be made: {error.strerror or error}") from error

    @staticmethod
    def key(factor: str, as_of: str, dataset_version: str, snapshot: str, config_hash: str) -> str:
        """The key of a factor's values.

        Raises:
            UsageError: a part has a colon, which would let two keys be one.
        """
        parts = (factor, as_of, dataset_version, snapshot, config_hash)
        if any(":" in part for part in parts):
            raise UsageError(f"{parts}: no part of a cache key can have a colon")
        return ":".join(parts)

    def get(self, key: str) -> pa.Table | None:
        """The frame of a key, or None if it isn't there, is too old, or was damaged (and is then removed)."""
        path = self._path(key)
        try:
            age = self._clock() - path.stat().st_mtime
            if age > self._ttl_s:
                return None
            table = self._parquet.read_table(path, memory_map=False)
        except FileNotFoundError:
            return None
        except (OSError, ValueError):
            self._discard(path)
            return None
        metadata = table.schema.metadata or {}
        if metadata.get(_KEY) != key.encode():
            return None
        with contextlib.suppress(OSError):
            # Used now, as old as before: the moment of access decides what goes, the one of change how old it is.
            info = path.stat()
            os.utime(path, (self._clock(), info.st_mtime))
        kept = {name: value for name, value in metadata.items() if name != _KEY}
        return table.replace_schema_metadata(kept or None)

    def put(self, key: str, frame: Any) -> None:
        """Keep a frame.

        Raises:
            UsageError: it isn't a frame. StoreUnavailableError: it can't be written.
        """
        table = _as_table(frame)
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), _KEY: key.encode()})
        temporary = self._directory / f".tmp-{uuid.uuid4().hex}"
        try:
            self._parquet.write_table(table, temporary)
            now = self._clock()
            os.utime(temporary, (now, now))
            os.replace(temporary, self._path(key))
        except OSError as error:
            self._discard(temporary)
            raise StoreUnavailableError(
                f"{self._directory}: can't be written: {error.strerror or error}"
            ) from error
        self._shrink()

    def get_or_compute(self, key: str, compute: Callable[[], Any]) -> tuple[pa.Table, bool]:
        """The frame of a key, and whether it was there; else ``compute`` makes it and it is kept.

        Raises what ``compute`` raises, and as ``put``.
        """
        found = self.get(key)
        if found is not None:
            return found, True
        table = _as_table(compute())
        self.put(key, table)
        return table, False

    def clear(self) -> int:
        """Remove every entry; returns how many there were."""
        entries = list(self._directory.glob("*.parquet"))
        for path in entries:
            self._discard(path)
        return len(entries)

    def _shrink(self) -> None:
        for path in self._directory.glob(".tmp-*"):
            with contextlib.suppress(FileNotFoundError):
                if time.time() - path.stat().st_mtime > _ABANDONED_S:
                    self._discard(path)
        entries = []
        for path in self._directory.glob("*.parquet"):
            with contextlib.suppress(FileNotFoundError):
                info = path.stat()
                entries.append((info.st_atime, info.st_size, path))
        total = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if total <= self._max_bytes:
                return
            self._discard(path)
            total -= size

    def _path(self, key: str) -> Path:
        return self._directory / f"{hashlib.sha256(key.encode()).hexdigest()}.parquet"

    @staticmethod
    def _discard(path: Path) -> None:
        with contextlib.suppress(OSError):
            path.unlink()


def _as_table(frame: Any) -> pa.Table:
    import pyarrow as pa

    if isinstance(frame, pa.Table):
        return frame
    if hasattr(frame, "to_arrow"):
        return frame.to_arrow()
    try:
        return pa.Table.from_pandas(frame)
    except (AttributeError, TypeError, ValueError, pa.ArrowException) as error:
        raise UsageError(
            f"{type(frame).__name__} isn't a frame: give a pyarrow, pandas or polars one"
        ) from error
