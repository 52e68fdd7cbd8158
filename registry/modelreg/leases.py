"""Leases: a daemon says which version it is serving, so that nobody deletes it meanwhile.

A lease is a small file in ``.registry/leases`` with the moment it ends; whoever dies simply stops renewing it.
"""

from __future__ import annotations

import datetime as dt
import json
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from modelreg.clock import rfc3339, utc_now
from modelreg.disk import Disk
from modelreg.errors import IntegrityError, StoreUnavailableError

#: How long a lease holds unless it is renewed, in seconds.
DEFAULT_TTL_S = 300.0

#: A lease's file stays so long after its end: its holder may only be late.
LEFT_FOR = dt.timedelta(days=1)

_MAX_LEASE_BYTES = 64 << 10


@dataclass(frozen=True, slots=True)
class LeaseInfo:
    """A lease that holds now."""

    name: str
    version: str
    holder: str
    expires_at: str


class Lease:
    """One version in use. Renew it before ``ttl_s`` is over, release it at the end; or use it as a context.

    Not thread-safe: whoever took it renews it.
    """

    def __init__(
        self,
        directory: Path,
        name: str,
        version: str,
        holder: str,
        *,
        ttl_s: float,
        clock: Callable[[], dt.datetime] = utc_now,
        disk: Disk,
    ) -> None:
        self.name, self.version, self.holder = name, version, holder
        self._ttl = dt.timedelta(seconds=ttl_s)
        self._clock = clock
        self._disk = disk
        self._path = directory / f"{name}@{version}@{uuid.uuid4().hex}.json"
        self.renew()

    def renew(self) -> None:
        """Let it hold for another ``ttl_s`` seconds from now.

        Raises:
            StoreUnavailableError: the file can't be written.
        """
        told = {
            "name": self.name,
            "version": self.version,
            "holder": self.holder,
            "expires_at": rfc3339(self._clock() + self._ttl),
        }
        home = self._path.parent.parent
        try:
            if not self._disk.exists(home / "registry.json"):
                # A root that was moved away for a while mustn't find a new one in its place.
                raise StoreUnavailableError(f"{home}: the registry isn't there now")
            self._disk.make_dirs(self._path.parent)
            self._disk.write_replace(self._path, json.dumps(told).encode())
        except OSError as error:
            raise StoreUnavailableError(
                f"{self._path.parent}: can't be written: {error.strerror or error}"
            ) from error

    def release(self) -> None:
        """Let go; doing so twice does no harm."""
        self._disk.discard(self._path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


def active(directory: Path, now: dt.datetime, disk: Disk) -> list[LeaseInfo]:
    """The leases that hold at ``now``; a file that isn't a lease counts as none.

    Raises:
        StoreUnavailableError: the directory or a file can't be read: then nobody knows what is in use.
    """
    return [info for _, info, ends in _read(directory, disk) if ends > now]


def sweep(directory: Path, now: dt.datetime, disk: Disk) -> None:
    """Remove the files of those who died: leases that ended ``LEFT_FOR`` ago. Raises as ``active``."""
    for path, _, ends in _read(directory, disk):
        if now - ends > LEFT_FOR:
            disk.discard(path)


def _read(directory: Path, disk: Disk) -> Iterator[tuple[Path, LeaseInfo, dt.datetime]]:
    try:
        files = disk.listdir(directory) if disk.exists(directory) else []
    except OSError as error:
        raise StoreUnavailableError(f"{directory}: can't be read: {error.strerror or error}") from error
    for file in files:
        if not file.endswith(".json"):
            continue
        try:
            told = json.loads(disk.read(directory / file, max_bytes=_MAX_LEASE_BYTES))
            info = LeaseInfo(
                str(told["name"]), str(told["version"]), str(told["holder"]), str(told["expires_at"])
            )
            ends = dt.datetime.fromisoformat(info.expires_at).astimezone(dt.UTC)
        except (FileNotFoundError, ValueError, KeyError, TypeError, IntegrityError):
            continue
        except OSError as error:
            raise StoreUnavailableError(
                f"{directory / file}: can't be read: {error.strerror or error}"
            ) from error
        yield directory / file, info, ends
