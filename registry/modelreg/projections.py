"""What can be deleted and made again at any time: symlinks, state.json, manifest.json; and deleted versions' files,
which go to the trash.

Each projection is written whole and carries the sequence that it was made from. ``.registry/applied/<model>.json``
comes last: where it says N, the others were brought to N too. What fails is a warning, and the next open tries again.
"""

from __future__ import annotations

import errno
import json
import logging
from pathlib import Path
from typing import Any

from modelreg import trash
from modelreg.disk import Disk
from modelreg.errors import IntegrityError
from modelreg.modellog import ModelLog
from modelreg.records import record_name
from modelreg.state import ModelState

log = logging.getLogger("modelreg")

STATE_FILE = "state.json"
MANIFEST_FILE = "manifest.json"
PRODUCTION = "production"

#: The largest projection that is read, in bytes.
MAX_PROJECTION_BYTES = 64 << 20

_NO_SYMLINKS = (errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP)


class Projector:
    """Projects the logs of the registry at ``root``. Thread-safe; processes may project at once."""

    def __init__(self, root: Path, disk: Disk) -> None:
        self._root = root
        self._disk = disk

    def project(self, model: ModelLog, models: list[str]) -> None:
        """Bring all projections of a model up to its log; ``models`` are all that exist.

        Never raises OSError.
        """
        try:
            with self._disk.courtesy_lock(self._root / ".registry" / "project.lock"):
                state = model.refresh()
                while True:
                    self._project(state, models)
                    newer = model.refresh()
                    if newer.seq == state.seq:
                        return
                    state = newer  # somebody committed meanwhile, and may have projected before us
        except OSError as error:
            level = (
                logging.INFO if error.errno in (errno.EACCES, errno.EROFS, errno.EPERM) else logging.WARNING
            )
            log.log(
                level,
                "%s: a projection failed (%s); the next open repeats it",
                self._root / model.name,
                error,
            )

    def is_current(self, name: str, models: list[str]) -> bool:
        """Whether the projections of ``name`` are those of its log, at the cost of a few system calls."""
        directory = self._root / name
        applied = self._read(self._applied(name))
        try:
            seq, holders = int(applied["seq"]), dict(applied["channels"])
        except (KeyError, TypeError, ValueError):
            return False
        if not all(self._disk.exists(path) for path in (directory / STATE_FILE, self._root / MANIFEST_FILE)):
            return False
        logs = directory / "log"
        if not self._disk.exists(logs / record_name(seq)) or self._disk.exists(logs / record_name(seq + 1)):
            return False
        expected = {directory / "channels" / channel: _target(holder) for channel, holder in holders.items()}
        expected.update(self._production(name, holders.get(PRODUCTION), models))
        return all(self._shows(path, target) for path, target in expected.items())

    def _project(self, state: ModelState, models: list[str]) -> None:
        directory = self._root / state.name
        holders = {channel: told.version for channel, told in state.channels.items()}
        self._disk.make_dirs(directory / "channels")
        for channel, holder in holders.items():
            self._point(directory / "channels" / channel, _target(holder), state.seq)
        self._disk.make_dirs(self._root / PRODUCTION)
        for path, target in self._production(state.name, holders.get(PRODUCTION), models).items():
            self._point(path, target, state.seq)
        self._clear_deleted(state)
        summary = _summary(state)
        self._write_manifest(state.name, _glance(state), models)
        self._write(directory / STATE_FILE, {"format": 1, "name": state.name, **summary})
        self._disk.make_dirs(self._applied(state.name).parent)
        self._write(self._applied(state.name), {"seq": state.seq, "head": state.head, "channels": holders})

    def _applied(self, name: str) -> Path:
        """A small file for ``is_current``: opening a registry mustn't take longer where it has more versions."""
        return self._root / ".registry" / "applied" / f"{name}.json"

    def _clear_deleted(self, state: ModelState) -> None:
        gone = {version.version for version in state.versions.values() if version.status == "deleted"}
        for kind in ("versions", "exports") if gone else ():
            directory = self._root / state.name / kind
            for version in self._disk.listdir(directory) if self._disk.exists(directory) else ():
                if version in gone:
                    try:
                        trash.move(directory / version, self._root, self._disk)
                    except FileNotFoundError:
                        continue  # another process was faster

    def _production(self, name: str, holder: str | None, models: list[str]) -> dict[Path, str | None]:
        target = None if holder is None else f"../{name}/versions/{holder}"
        links = {self._root / PRODUCTION / name: target}
        if set(models) <= {name}:
            links[self._root / PRODUCTION / "latest"] = target
        else:
            links[self._root / PRODUCTION / "latest"] = None
        return links

    def _point(self, path: Path, target: str | None, seq: int) -> None:
        if self._shows(path, target):
            return
        if target is None:
            self._disk.discard(path)
            self._disk.discard(path.with_name(path.name + ".json"))
            return
        try:
            self._disk.symlink_replace(target, path)
        except OSError as error:
            if error.errno not in _NO_SYMLINKS:
                raise
            self._write(path.with_name(path.name + ".json"), {"version": Path(target).name, "seq": seq})

    def _shows(self, path: Path, target: str | None) -> bool:
        link = self._disk.readlink(path)
        if target is None:
            return link is None
        if link is None and not self._disk.exists(path):
            told = self._read(path.with_name(path.name + ".json"))
            return bool(told.get("version") == Path(target).name)
        return link == target

    def _write_manifest(self, name: str, summary: dict[str, Any], models: list[str]) -> None:
        path = self._root / MANIFEST_FILE
        before = self._read(path).get("models")
        known = before if isinstance(before, dict) else {}
        told = {}
        for model in models:
            if model == name:
                told[model] = summary
            elif model in known:
                told[model] = known[model]
        told.setdefault(name, summary)
        self._write(path, {"format": 1, "models": dict(sorted(told.items()))})

    def _read(self, path: Path) -> dict[str, Any]:
        try:
            value = json.loads(self._disk.read(path, max_bytes=MAX_PROJECTION_BYTES))
        except (OSError, ValueError, IntegrityError, RecursionError):
            return {}
        return value if isinstance(value, dict) else {}

    def _write(self, path: Path, value: dict[str, Any]) -> None:
        self._disk.write_replace(path, json.dumps(value, indent=2, ensure_ascii=False).encode() + b"\n")


def _target(holder: str | None) -> str | None:
    return None if holder is None else f"../versions/{holder}"


def _glance(state: ModelState) -> dict[str, Any]:
    """A model in manifest.json: short, because the whole file is written at each commit."""
    return {
        "seq": state.seq,
        "head": state.head,
        "channels": {channel.channel: channel.version for channel in state.channels.values()},
        "versions": sum(version.status != "deleted" for version in state.versions.values()),
        "newest": next(reversed(list(state.versions)), None),
    }


def _summary(state: ModelState) -> dict[str, Any]:
    """A model's state as plain values, for state.json."""
    return {
        "seq": state.seq,
        "head": state.head,
        "channels": {
            channel.channel: {
                "version": channel.version,
                "seq": channel.seq,
                "at": channel.at,
                "actor": channel.actor,
                "reason": channel.reason,
                "previous": list(channel.previous),
            }
            for channel in state.channels.values()
        },
        "versions": {
            version.version: {
                "digest": version.digest,
                "status": version.status,
                "stage": state.stage_of(version.version),
                "seq": version.seq,
                "at": version.at,
                "reason": version.reason,
                "tags": list(version.tags),
            }
            for version in state.versions.values()
        },
    }
