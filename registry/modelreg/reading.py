"""Opening a registry and reading its logs: the part that every other part stands on."""

from __future__ import annotations

import datetime as dt
import logging
import threading
from collections.abc import Callable, Collection
from pathlib import Path

from modelreg import home, projections
from modelreg.clock import utc_now
from modelreg.disk import DISK, Disk
from modelreg.errors import IntegrityError, NotFoundError, RegistryError, StoreUnavailableError
from modelreg.history import HistoryEntry, entries
from modelreg.metadata import Metadata
from modelreg.modellog import ModelLog
from modelreg.names import check_model_name, check_version
from modelreg.records import record_name, record_seq, sha256
from modelreg.refs import parse_ref, resolve
from modelreg.sealed import read_metadata
from modelreg.settings import Settings
from modelreg.state import ModelState, VersionState

log = logging.getLogger("modelreg")

_FIRST_RECORD = record_name(1)

#: How many models a message names where the one asked for isn't there.
_NAMED = 10


class Reading:
    """What is there, from the logs. Thread-safe; any number of processes may have a registry open.

    Args:
        root: its directory.
        actor: who acts, for the audit trail; default ``MODELREG_ACTOR``, else user@host.
        settings: limits, gates and defaults; see ``config/registry.yaml``. Default: the registry's own
            ``.registry/registry.yaml``.
        clock: the present moment, aware.
        disk: the file operations, for fault injection.
        heal: bring projections that lag behind up to their logs.

    Raises:
        NotFoundError: ``root`` isn't a registry.
        StoreUnavailableError: it can't be read, or a newer modelreg made it.
    """

    def __init__(
        self,
        root: str | Path,
        actor: str | None = None,
        *,
        settings: Settings | None = None,
        clock: Callable[[], dt.datetime] = utc_now,
        disk: Disk = DISK,
        heal: bool = True,
    ) -> None:
        self.root = Path(root)
        self._actor = actor
        self._clock = clock
        self._disk = disk
        self._projector = projections.Projector(self.root, disk)
        self._logs: dict[str, ModelLog] = {}
        self._named: set[str] = set()
        self._lock = threading.Lock()
        self.uuid = home.identity(self.root, disk)
        self.settings = home.own_settings(self.root, disk) if settings is None else settings
        if heal:
            self._heal()

    def models(self, sure: Collection[str] = ()) -> list[str]:
        """The names of all models that can be read, sorted; see ``unreadable`` for the others.

        ``sure``: names of which the caller knows that, where they are there; those aren't looked into.

        Raises:
            StoreUnavailableError: the root can't be read.
        """
        return [name for name in self._listed() if name in sure or self._is_model(name) is True]

    def unreadable(self) -> dict[str, str]:
        """What may be models, but can't be looked into: name → why. Another user's directory, for one.

        Raises:
            StoreUnavailableError: the root can't be read.
        """
        found = self.survey().items()
        return {
            name: f"{self.root}/{name}: can't be read: {trouble.strerror or trouble}"
            for name, trouble in found
            if trouble is not None
        }

    def survey(self) -> dict[str, OSError | None]:
        """Every model, and what may be one, by name: what keeps it from being looked into, or None. One look.

        Raises:
            StoreUnavailableError: the root can't be read.
        """
        found = {name: self._is_model(name) for name in self._listed()}
        return {name: None if told is True else told for name, told in found.items() if told is not False}

    def log_mark(self, name: str, seq: int) -> str | None:
        """What tells the file of record ``seq`` from any other, if it is a model's newest; two system calls."""
        logs = f"{self.root}/{name}/log/"
        try:
            if self._disk.exists(logs + record_name(seq + 1)):
                return None
            return self._disk.mark(logs + record_name(seq))
        except OSError as error:
            raise StoreUnavailableError(f"{logs}: can't be read: {error.strerror or error}") from error

    def log_marks(self, name: str) -> str:
        """As ``log_mark`` for all records together: it differs where any of the files was touched."""
        logs = f"{self.root}/{name}/log/"
        try:
            files = [file for file in self._disk.listdir(logs) if record_seq(file) is not None]
            return sha256("\n".join(f"{file} {self._disk.mark(logs + file)}" for file in files).encode())
        except (FileNotFoundError, NotADirectoryError):
            return ""
        except OSError as error:
            raise StoreUnavailableError(f"{logs}: can't be read: {error.strerror or error}") from error

    def forget(self, name: str) -> None:
        """Read a model's log from its first record when it is next asked for."""
        with self._lock:
            self._logs.pop(name, None)

    def state(self, name: str) -> ModelState:
        """A snapshot of one model; cheap where nothing is new (one stat, one failed open).

        Raises:
            NotFoundError: no such model.
            StoreUnavailableError: the registry can't be read.
        """
        try:
            state = self._log(name).refresh()
        except NotFoundError:
            raise self._no_model(name) from None
        if state.seq == 0 and state.broken is None:
            raise self._no_model(name)
        return state

    def resolve(self, ref: str) -> tuple[str, VersionState]:
        """The model's name and the version that a reference means now.

        Raises:
            UsageError: malformed. NotFoundError: there is no such thing. ConflictError: ambiguous.
            IntegrityError: it isn't among the records before the one that is damaged.
        """
        parsed = parse_ref(ref)
        state = self.state(parsed.name)
        try:
            return parsed.name, resolve(parsed, state)
        except NotFoundError as error:
            if state.broken is None:
                raise
            raise IntegrityError(f"{error}; model {parsed.name!r} is read-only: {state.broken}") from error

    def version_dir(self, name: str, version: str) -> Path:
        """Where a version's sealed files are; whether they are there isn't checked.

        Raises:
            UsageError: not a name or not a version.
        """
        return self.root / check_model_name(name) / "versions" / check_version(version)

    def metadata(self, name: str, version: str) -> Metadata:
        """A version's facts, checked against its digest.

        Raises:
            NotFoundError: no such version. IntegrityError: metadata.json was changed.
        """
        found = self.state(name).versions.get(version)
        if found is None or found.status == "deleted":
            raise NotFoundError(f"no version {name}:{version}; see: modelreg list {name}")
        return read_metadata(self.version_dir(name, version), expect_digest=found.digest, disk=self._disk)

    def history(self, name: str | None = None, *, limit: int | None = None) -> list[HistoryEntry]:
        """The audit trail of one model or of all, newest first (by sequence; across models by time).

        Raises:
            NotFoundError: no such model.
        """
        if name is not None:
            self.state(name)
        found = [e for model in ([name] if name else self.models()) for e in self._entries(model)]
        if name is None:
            found.sort(key=lambda entry: entry.at, reverse=True)
        return found[:limit]

    def _entries(self, name: str) -> list[HistoryEntry]:
        return entries(name, self._log(name).records())

    def _log(self, name: str) -> ModelLog:
        check_model_name(name)
        with self._lock:
            if name not in self._logs:
                self._logs[name] = ModelLog(name, self.root / name, self._disk)
            return self._logs[name]

    def _no_model(self, name: str) -> NotFoundError:
        try:
            known = self.models()
        except StoreUnavailableError as error:
            return NotFoundError(f"no model {name!r}; {error}")
        there = f"there are: {', '.join(known[:_NAMED])}" if known else "there is none yet"
        more = f" and {len(known) - _NAMED} more, see: modelreg list" if len(known) > _NAMED else ""
        return NotFoundError(f"no model {name!r} in {self.root}; {there}{more}")

    def _listed(self) -> list[str]:
        try:
            return self._disk.listdir(self.root)
        except OSError as error:
            raise StoreUnavailableError(f"{self.root}: can't be read: {error.strerror or error}") from error

    def _is_model(self, name: str) -> bool | OSError:
        """Whether ``name`` in the root is a model; why that can't be told, where it can't."""
        try:
            if name not in self._named:
                check_model_name(name)
                self._named.add(name)
            # Plain texts: this is asked for every model, and paths are slow to make.
            logs = f"{self.root}/{name}/log"
            if self._disk.exists(f"{logs}/{_FIRST_RECORD}"):
                return True
            return any(record_seq(file) is not None for file in self._disk.listdir(logs))
        except (RegistryError, FileNotFoundError, NotADirectoryError):
            return False
        except OSError as error:
            return error

    def is_projected(self, name: str, models: list[str]) -> bool:
        """Whether a model's symlinks and state files are those of its log."""
        return self._projector.is_current(name, models)

    def project_again(self, name: str) -> None:
        """Make a model's projections again."""
        self._projector.project(self._log(name), self.models())

    def _heal(self) -> None:
        models = self.models()
        for name in models:
            if not self._projector.is_current(name, models):
                model = self._log(name)
                try:
                    if model.refresh().broken is None:
                        self._projector.project(model, models)
                except RegistryError as error:
                    log.warning("%s: %s", self.root / name, error)
