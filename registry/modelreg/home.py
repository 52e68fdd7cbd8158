"""``.registry``: what makes a directory a registry, and its own settings."""

from __future__ import annotations

import contextlib
import datetime as dt
import json
import logging
import uuid
from pathlib import Path

from modelreg.clock import rfc3339
from modelreg.disk import Disk
from modelreg.errors import IntegrityError, NotFoundError, StoreUnavailableError
from modelreg.settings import SETTINGS_FILE, TEMPLATE, Settings, load_settings

log = logging.getLogger("modelreg")

#: The disk format that this package reads and writes.
FORMAT = 1


def make(root: Path, now: dt.datetime, disk: Disk) -> None:
    """Make an empty registry, unless there is one.

    Raises:
        StoreUnavailableError: it can't be written.
    """
    home = root / ".registry"
    identity = {"format": FORMAT, "uuid": str(uuid.uuid4()), "created_at": rfc3339(now)}
    try:
        for name in ("staging", "trash", "leases", "backups"):
            disk.make_dirs(home / name)
        temporary = disk.temporary(home)
        if not disk.exists(home / "registry.json"):
            try:
                disk.write_new(temporary, json.dumps(identity, indent=2).encode() + b"\n")
                disk.link(temporary, home / "registry.json")
            except FileExistsError:
                log.info("%s: another process made it first", home)
            finally:
                disk.discard(temporary)
            with contextlib.suppress(FileExistsError):
                disk.write_new(home / SETTINGS_FILE, TEMPLATE.encode())
            disk.fsync_dir(home)
    except OSError as error:
        raise StoreUnavailableError(f"{root}: can't make a registry: {error.strerror or error}") from error


def own_settings(root: Path, disk: Disk) -> Settings:
    """The registry's own settings; the defaults where it has none."""
    path = root / ".registry" / SETTINGS_FILE
    return load_settings(path) if disk.exists(path) else Settings()


def identity(root: Path, disk: Disk) -> str:
    """The registry's UUID; raises as ``Core``."""
    path = root / ".registry" / "registry.json"
    try:
        told = json.loads(disk.read(path, max_bytes=1 << 20))
        found, uuid_ = int(told["format"]), str(told["uuid"])
    except (FileNotFoundError, NotADirectoryError) as error:
        raise NotFoundError(f"{root} isn't a registry; make one with: modelreg --root {root} init") from error
    except OSError as error:
        raise StoreUnavailableError(f"{path}: can't be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise IntegrityError(f"{path}: damaged ({error!r}); restore it from a backup") from error
    if found > FORMAT:
        raise StoreUnavailableError(
            f"{path}: format {found} is newer than this modelreg ({FORMAT}); upgrade it"
        )
    return uuid_
