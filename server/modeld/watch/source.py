"""Sources of pointers. A source says what should be served now, and can point a failed version away.

`registry`: the log of each model is the truth; the channel's symlink is only a projection of it.
"""

from __future__ import annotations

import contextlib
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from modeld.config import Source
from modeld.swap.policy import Pointer
from modeld.watch.leases import HeldLeases
from modeld.watch.messages import MAX_REASON, Write, Written
from modelreg import NotFoundError, Registry, RegistryError

_DIGEST = re.compile(r"sha256:[0-9a-f]{64}")


@dataclass(slots=True)
class Seen:
    """What a source says: pointers, models with trouble of their own, and digests that are no longer fit to serve."""

    pointers: list[Pointer] = field(default_factory=list)
    broken: dict[str, str] = field(default_factory=dict)
    unfit: dict[str, list[str]] = field(default_factory=dict)


class PointerSource(Protocol):
    """Where pointers come from. Used by one thread of the watcher."""

    def look(self) -> Seen:
        """Raises RegistryError or OSError where nothing can be read at all."""
        ...

    def write(self, request: Write) -> Written:
        """Carry out a Write. Raises RegistryError or OSError."""
        ...

    def directories(self) -> list[Path]:
        """Directories in which a change of a pointer shows."""
        ...

    def lease(self, versions: list[tuple[str, str]]) -> None:
        """Have exactly these (model, version) spared by whoever cleans up. Raises RegistryError or OSError."""
        ...

    def close(self) -> None:
        """Let go of what was leased."""
        ...


class RegistrySource:
    """A modelreg root."""

    def __init__(self, settings: Source) -> None:
        self._root = Path(settings.root)
        self._channel = settings.channel
        self._only = set(settings.models)
        self._registry: Registry | None = None
        self._identity: tuple[int, int] | None = None
        self._leases = HeldLeases()

    def look(self) -> Seen:
        registry = self._open()
        seen = Seen()
        for name in registry.models():
            if not self._only or name in self._only:
                try:
                    self._look_at(registry, name, seen)
                except (RegistryError, OSError) as e:
                    # One model's trouble is no other's: what serves of it goes on serving.
                    seen.broken[name] = str(e)
        return seen

    def _look_at(self, registry: Registry, name: str, seen: Seen) -> None:
        state = registry.state(name)
        if state.broken:
            seen.broken[name] = state.broken
        unfit = [
            one.digest for one in state.versions.values() if one.status in ("failed", "archived", "deleted")
        ]
        if unfit:
            seen.unfit[name] = unfit
        channel = state.channels.get(self._channel)
        if channel is None or channel.version is None:
            return
        digest = state.versions[channel.version].digest
        if not _DIGEST.fullmatch(digest):  # it becomes a part of paths
            seen.broken[name] = f"{name}: version {channel.version} has no digest but {digest[:100]!r}"
            return
        seen.pointers.append(
            Pointer(
                model=name,
                version=channel.version,
                digest=digest,
                revision=channel.seq,
                directory=str(registry.version_dir(name, channel.version)),
                allow_schema_change=channel.allow_schema_change,
                held_before=channel.version in channel.held_s,
                actor=channel.actor,
                reason=(channel.reason or "")[:MAX_REASON],
            )
        )

    def write(self, request: Write) -> Written:
        commit = self._open().rollback(
            request.model,
            to=request.to,
            mark_failed=request.mark_failed,
            reason=request.reason,
            actor=request.actor,
            channel=self._channel,
            expect=request.expect,
        )
        return Written(
            request.token, request.model, from_version=commit.from_version, to_version=commit.to_version
        )

    def directories(self) -> list[Path]:
        found = [self._root]
        with contextlib.suppress(OSError):
            for entry in os.scandir(self._root):
                log = Path(entry.path) / "log"
                with contextlib.suppress(OSError):
                    if log.is_dir():
                        found += [Path(entry.path), log]
        return found

    def lease(self, versions: list[tuple[str, str]]) -> None:
        self._leases.hold(self._open(), versions)

    def close(self) -> None:
        self._leases.release()

    def _open(self) -> Registry:
        """The registry; opened anew where another one took its place. A directory that was emptied is none."""
        try:
            status = os.stat(self._root / ".registry" / "registry.json")
        except FileNotFoundError:
            raise NotFoundError(
                f"{self._root}: there is no registry: bring it back (a mount that is gone, modelreg restore), "
                f"or for a new one: modelreg --root {self._root} init"
            ) from None
        identity = (status.st_dev, status.st_ino)
        if self._registry is None or identity != self._identity:
            self._registry = Registry(self._root)
            self._identity = identity
        return self._registry
