"""File events that wake the watcher early. Never more than that: what they say isn't believed.

watchdog falls silent when its directory is renamed away or re-created, when its queue overflows, and on network file
systems. So each directory's (device, inode) is compared at every poll and watched anew when it changed, and a failing
observer means "poll only", which status shows.
"""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from watchdog.events import (
    DirCreatedEvent,
    DirDeletedEvent,
    DirModifiedEvent,
    DirMovedEvent,
    FileCreatedEvent,
    FileDeletedEvent,
    FileModifiedEvent,
    FileMovedEvent,
    FileSystemEvent,
    FileSystemEventHandler,
)
from watchdog.observers import Observer
from watchdog.observers.api import BaseObserver, ObservedWatch

#: An observer that was stopped gets this long to end its threads. Seconds.
_JOIN_S = 1.0
# Opening and closing without a write come from our own reads: they would wake us for ever.
_KINDS: list[type[FileSystemEvent]] = [
    FileCreatedEvent, FileDeletedEvent, FileModifiedEvent, FileMovedEvent,
    DirCreatedEvent, DirDeletedEvent, DirModifiedEvent, DirMovedEvent,
]  # fmt: skip


class Waker(FileSystemEventHandler):
    """Writes a byte to a pipe for any event."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def on_any_event(self, event: FileSystemEvent) -> None:  # noqa: ARG002 (what happened doesn't matter)
        with contextlib.suppress(BlockingIOError):  # a full pipe wakes as well as one byte does
            os.write(self._fd, b"!")


class Events:
    """Watches a changing set of directories; `mode` says whether it can."""

    def __init__(self, fd: int, *, enabled: bool) -> None:
        self._waker = Waker(fd)
        self._enabled = enabled
        self._observer: BaseObserver | None = None
        self._watches: dict[Path, tuple[tuple[int, int], ObservedWatch]] = {}
        self._reason = "" if enabled else "watch.inotify is false"

    @property
    def mode(self) -> str:
        return f"poll only ({self._reason})" if self._reason else "inotify+poll"

    def arm(self, directories: list[Path]) -> None:
        """Watch exactly `directories`, anew where one is another directory than before."""
        if not self._enabled:
            return
        try:
            observer = self._running()
            # A deleted directory's inode is given to the next one at once, but its emitter has ended.
            live = {emitter.watch for emitter in observer.emitters if emitter.is_alive()}
            wanted = {path: identity for path in directories if (identity := _identity(path)) is not None}
            for path, (identity, watch) in list(self._watches.items()):
                if wanted.get(path) != identity or watch not in live:
                    del self._watches[path]
                    observer.unschedule(watch)
            for path, identity in wanted.items():
                if path not in self._watches:
                    self._watches[path] = (
                        identity,
                        observer.schedule(self._waker, str(path), event_filter=_KINDS),
                    )
            self._reason = ""
        except OSError as e:
            self._reason = str(e)
            self.close()

    def close(self) -> None:
        if self._observer is not None:
            self._observer.stop()
            self._observer.join(_JOIN_S)
            self._observer = None
        self._watches.clear()

    def _running(self) -> BaseObserver:
        if self._observer is not None and not self._observer.is_alive():
            self.close()
        if self._observer is None:
            self._observer = Observer()
            self._observer.start()
        return self._observer


def _identity(path: Path) -> tuple[int, int] | None:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino
