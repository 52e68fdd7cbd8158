"""A model kept inside somebody's own Python process, and exchanged when the registry points elsewhere.

Loading a model can kill the process that does it. Each version is therefore proved in a process of its own first; and
a daemon (modeld) that keeps models out of your process altogether is the safer choice.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from modelreg.errors import RegistryError
from modelreg.registry import Registry
from modelreg.validation import validate_version

if TYPE_CHECKING:
    from watchdog.observers.api import BaseObserver

    from modelreg.loaders import LoadedModel

log = logging.getLogger("modelreg")

#: How often the registry is looked at, in seconds.
DEFAULT_POLL_S = 60.0


@dataclass(frozen=True, slots=True)
class Current:
    """What is loaded. The model isn't thread-safe: let one thread predict, or take a lock of your own."""

    name: str
    version: str
    digest: str
    model: LoadedModel


class ProductionModelLoader:
    """Keeps the model of a channel loaded. ``current()`` is thread-safe and never waits for a load.

    A version that is damaged, can't be loaded or doesn't answer its golden rows is logged and passed over: the last
    good one stays. Use it as a context, or call ``start`` and ``stop``.

    Args:
        on_change: called in the loader's thread with the new and the former model (None at first).
        poll_s: how often it looks; 0 never. A watchdog on the model's log makes it look at once, where that works.
        prove: load in a process of its own and replay the golden rows, before it is loaded here.
    """

    def __init__(
        self,
        registry: Registry | str | Path,
        name: str,
        *,
        channel: str = "production",
        poll_s: float = DEFAULT_POLL_S,
        on_change: Callable[[Current, Current | None], None] | None = None,
        prove: bool = True,
        watch: bool = True,
    ) -> None:
        self._registry = registry if isinstance(registry, Registry) else Registry(registry)
        self._name, self._channel = name, channel
        self._poll_s = poll_s
        self._on_change = on_change
        self._prove = prove
        self._watch = watch
        self._current: Current | None = None
        self._refused: str | None = None
        self._look = threading.Event()
        self._ended = threading.Event()
        self._loading = threading.Lock()
        self._thread: threading.Thread | None = None
        self._observer: BaseObserver | None = None

    def current(self) -> Current:
        """The model that is loaded now; take it once for each request, it may be another one next time.

        Raises:
            RegistryError: nothing could be loaded yet.
        """
        found = self._current
        if found is None:
            self.reload()
            found = self._current
        if found is None:
            raise RegistryError(f"{self._name}:{self._channel}: no model could be loaded yet; see the log")
        return found

    def reload(self) -> bool:
        """Look now, in this thread; whether another model was loaded.

        Raises:
            RegistryError: nothing is in the channel, or the version can't be used; the last good one stays.
        """
        with self._loading:
            state = self._registry.state(self._name)
            version = self._registry.resolve(f"{self._name}:{self._channel}")[1]
            before = self._current
            if before is not None and before.digest == version.digest:
                return False
            directory = self._registry.version_dir(self._name, version.version)
            if self._prove:
                validate_version(
                    directory, state.name, version.version, version.digest, settings=self._registry.settings
                )
            model = self._registry.load(f"{self._name}:{version.version}")
            now = Current(self._name, version.version, version.digest, model)
            self._current, self._refused = now, None
        log.info("%s:%s is loaded, before: %s", self._name, version.version, before and before.version)
        if self._on_change is not None:
            self._on_change(now, before)
        return True

    def start(self) -> Self:
        """Load, and follow the channel in a thread of its own."""
        self._try()
        if self._thread is None:
            self._thread = threading.Thread(target=self._follow, name=f"modelreg-{self._name}", daemon=True)
            self._thread.start()
            if self._watch:
                self._observe()
        return self

    def stop(self) -> None:
        """Stop following; what is loaded stays."""
        self._ended.set()
        self._look.set()
        if self._observer is not None:
            self._observer.stop()
            self._observer.join()
            self._observer = None
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _follow(self) -> None:
        while not self._ended.is_set():
            self._look.wait(self._poll_s or None)
            self._look.clear()
            if not self._ended.is_set():
                self._try()

    def _try(self) -> None:
        try:
            self.reload()
        except RegistryError as error:
            if str(error) != self._refused:
                self._refused = str(error)
                log.warning("%s:%s: the last good model stays: %s", self._name, self._channel, error)
        except Exception:
            # A callback of somebody else's; following must go on.
            log.exception("%s:%s: on_change raised", self._name, self._channel)

    def _observe(self) -> None:
        from watchdog.events import FileSystemEvent, FileSystemEventHandler
        from watchdog.observers import Observer

        look = self._look

        class Handler(FileSystemEventHandler):
            def on_created(self, _: FileSystemEvent) -> None:
                look.set()

        observer = Observer()
        try:
            observer.schedule(Handler(), str(self._registry.root / self._name / "log"))
            observer.start()
        except OSError as error:
            log.warning(
                "%s can't be watched (%s); it is looked at every %s s", self._name, error, self._poll_s
            )
            return
        self._observer = observer
