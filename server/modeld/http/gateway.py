"""What the handlers share: the settings, the daemon's sockets, the registry, who may do what."""

from __future__ import annotations

import threading
from pathlib import Path

from modeld.config import Config
from modeld.http.idempotency import Remembered
from modeld.http.link import Link
from modeld.http.tokens import Gatekeeper
from modelreg import NotFoundError, Registry


class Gateway:
    """One gateway. `start` and `stop` in the event loop; `registry` from any thread."""

    data: Link
    admin: Link

    def __init__(self, config: Config) -> None:
        """Raises ConfigError where the key for tokens can't be used."""
        self.config = config
        self.keeper = Gatekeeper(config.http)
        self.remembered = Remembered()
        self._registry: Registry | None = None
        self._lock = threading.Lock()

    async def start(self) -> None:
        """Connect to the daemon; it needn't be there yet."""
        timeout_s = self.config.http.timeout_s
        self.data = Link(self.config.data_endpoints[0], timeout_s)
        self.admin = Link(self.config.admin_endpoint, timeout_s)

    async def stop(self) -> None:
        self.data.close()
        self.admin.close()

    @property
    def trial_s(self) -> float:
        """How long an operation that waits for a trial may take. Seconds."""
        return self.config.trial.timeout_s + 10

    def registry(self) -> Registry:
        """The registry, opened when it is first needed: it may be unmounted while models are served.

        Raises:
            NotFoundError: the daemon follows a path, or there is no registry.
            StoreUnavailableError: it can't be read.
        """
        source = self.config.source
        if source.kind != "registry":
            raise NotFoundError(
                f"this daemon follows the path {source.root}: there is no registry (source.kind)"
            )
        with self._lock:
            if self._registry is None:
                self._registry = Registry(Path(source.root), heal=False)
            return self._registry
