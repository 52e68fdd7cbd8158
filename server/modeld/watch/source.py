"""Sources of pointers. A source says what should be served now, and can point a failed version away.

`registry`: the log of each model is the truth; the channel's symlink is only a projection of it.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

from modeld.config import Source
from modeld.swap.policy import Pointer
from modeld.watch.messages import Write, Written
from modelreg import Registry


class PointerSource(Protocol):
    """Where pointers come from. Used by one thread of the watcher."""

    def look(self) -> tuple[list[Pointer], dict[str, str]]:
        """All pointers, and the models that can't be written with the reason. Raises RegistryError or OSError."""
        ...

    def write(self, request: Write) -> Written:
        """Carry out a Write. Raises RegistryError or OSError."""
        ...

    def directories(self) -> list[Path]:
        """Directories in which a change of a pointer shows."""
        ...


class RegistrySource:
    """A modelreg root."""

    def __init__(self, settings: Source) -> None:
        self._root = Path(settings.root)
        self._channel = settings.channel
        self._only = set(settings.models)
        self._registry: Registry | None = None
        self._identity: tuple[int, int] | None = None

    def look(self) -> tuple[list[Pointer], dict[str, str]]:
        registry = self._open()
        pointers = []
        broken = {}
        for name in registry.models():
            if self._only and name not in self._only:
                continue
            state = registry.state(name)
            if state.broken:
                broken[name] = state.broken
            channel = state.channels.get(self._channel)
            if channel is None or channel.version is None:
                continue
            pointers.append(
                Pointer(
                    model=name,
                    version=channel.version,
                    digest=state.versions[channel.version].digest,
                    revision=channel.seq,
                    directory=str(registry.version_dir(name, channel.version)),
                    actor=channel.actor,
                    reason=channel.reason or "",
                )
            )
        return pointers, broken

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
        if self._root.is_dir():
            for entry in os.scandir(self._root):
                log = Path(entry.path) / "log"
                if log.is_dir():
                    found += [Path(entry.path), log]
        return found

    def _open(self) -> Registry:
        """The registry; opened anew where the root became another directory."""
        status = os.stat(self._root)
        identity = (status.st_dev, status.st_ino)
        if self._registry is None or identity != self._identity:
            self._registry = Registry(self._root)
            self._identity = identity
        return self._registry
