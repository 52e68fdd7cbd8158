"""``.registry/trash``: where files go that nothing refers to any more, until their grace is over.

An entry is a directory ``<model>@<version>@<UTC second>@<random>``; it says itself what it was and since when.
"""

from __future__ import annotations

import datetime as dt
import uuid
from dataclasses import dataclass
from pathlib import Path

from modelreg.clock import utc_now
from modelreg.disk import Disk
from modelreg.errors import StoreUnavailableError

_STAMP = "%Y%m%d_%H%M%S"


@dataclass(frozen=True, slots=True)
class TrashEntry:
    """Something in the trash; ``since``: aware, in UTC."""

    path: Path
    name: str
    version: str
    since: dt.datetime


def move(directory: Path, root: Path, disk: Disk) -> Path:
    """Move ``<root>/<model>/versions/<version>`` (or ``exports``) into the trash, in one step.

    Raises:
        OSError: it can't be moved.
    """
    trash = root / ".registry" / "trash"
    disk.make_dirs(trash)
    model, now = directory.parent.parent.name, utc_now().strftime(_STAMP)
    target = trash / f"{model}@{directory.name}@{now}@{uuid.uuid4().hex[:12]}"
    disk.rename(directory, target)
    disk.fsync_dir(trash)
    disk.fsync_dir(directory.parent)
    return target


def entries(root: Path, disk: Disk) -> list[TrashEntry]:
    """What is in the trash, oldest first; what isn't an entry is left out.

    Raises:
        StoreUnavailableError: it can't be read.
    """
    trash = root / ".registry" / "trash"
    found = []
    try:
        files = disk.listdir(trash) if disk.exists(trash) else []
    except OSError as error:
        raise StoreUnavailableError(f"{trash}: can't be read: {error.strerror or error}") from error
    for file in files:
        try:
            name, version, stamp, _ = file.split("@")
            since = dt.datetime.strptime(stamp, _STAMP).replace(tzinfo=dt.UTC)
        except ValueError:
            continue
        found.append(TrashEntry(trash / file, name, version, since))
    return sorted(found, key=lambda entry: entry.since)
