"""What every part of a registry stands on: opening it, reading its logs, committing to them, projecting."""

from __future__ import annotations

import datetime as dt
import functools
import logging
import threading
from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Self

from modelreg import changes, home, projections, validation
from modelreg.clock import rfc3339, utc_now
from modelreg.disk import DISK, Disk
from modelreg.environment import default_actor
from modelreg.errors import IntegrityError, NotFoundError, RegistryError, StaleError, StoreUnavailableError
from modelreg.history import HistoryEntry, entries
from modelreg.metadata import Metadata
from modelreg.modellog import Decision, ModelLog
from modelreg.names import check_model_name, check_text, check_version
from modelreg.records import ChannelOp, KnownOp, Record, record_name, record_seq, sha256
from modelreg.refs import parse_ref, resolve
from modelreg.results import Commit
from modelreg.sealed import read_metadata
from modelreg.settings import Settings
from modelreg.state import ModelState, VersionState

if TYPE_CHECKING:
    from modelreg.catalog import Catalog

log = logging.getLogger("modelreg")

_FIRST_RECORD = record_name(1)

#: How many models a message names where the one asked for isn't there.
_NAMED = 10

#: May refuse a channel's move, or note something on it; sees the version's facts.
Judge = Callable[[ModelState, ChannelOp, Metadata], ChannelOp]


class Core:
    """A registry on disk. Thread-safe; any number of processes may have it open.

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

    @functools.cached_property
    def catalog(self) -> Catalog:
        """The registry as SQL; made and brought up to date when it is asked."""
        from modelreg.catalog import Catalog

        return Catalog(self)

    @classmethod
    def init(
        cls,
        root: str | Path,
        actor: str | None = None,
        *,
        settings: Settings | None = None,
        clock: Callable[[], dt.datetime] = utc_now,
        disk: Disk = DISK,
    ) -> Self:
        """Make an empty registry, or open the one that is there.

        Raises:
            StoreUnavailableError: it can't be written.
        """
        home.make(Path(root), clock(), disk)
        return cls(root, actor, settings=settings, clock=clock, disk=disk)

    # -- reading ---------------------------------------------------------------------------------------------

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

    # -- the rest --------------------------------------------------------------------------------------------

    def _change(
        self,
        name: str,
        channel: str | None,
        decide: changes.Decide,
        reason: str | None,
        actor: str | None,
        dry_run: bool,
        judge: Judge | None = None,
        expect_seq: int | None = None,
    ) -> Commit:
        acting = self._acting(actor)
        if reason is not None:
            check_text(reason, "a reason (--reason)")
        state, model = self.state(name), self._log(name)
        verified: dict[str, Metadata] = {}

        def decide_verified(state: ModelState) -> Decision:
            if expect_seq is not None and state.seq != expect_seq:
                raise StaleError(
                    f"the log of {name} is at record {state.seq}, not {expect_seq}: nothing was done"
                )
            decision = decide(state)
            ops: list[KnownOp] = []
            for op in decision.ops:
                if isinstance(op, ChannelOp) and op.version is not None:
                    if op.version not in verified:
                        verified[op.version] = self._verify(name, state.versions[op.version])
                    if judge is not None:
                        op = judge(state, op, verified[op.version])
                ops.append(op)
            return replace(decision, ops=ops)

        model.refuse_if_broken(state)
        if dry_run:
            decision, seq, at = decide_verified(state), state.seq + 1, rfc3339(self._clock())
        else:
            record, state = model.commit(decide_verified, actor=acting, reason=reason, clock=self._clock)
            decision, seq, at = Decision(_known(record)), record.seq, record.at
            self._project(model)
        commit = Commit(name, seq, at, None, None, None, None)
        for op in decision.ops:
            if isinstance(op, ChannelOp) and op.channel == channel:
                before = state.channels.get(op.channel)
                commit = replace(
                    commit,
                    channel=channel,
                    from_version=None if before is None else before.version,
                    to_version=op.version,
                    digest=None if op.version is None else state.versions[op.version].digest,
                    overridden=op.overridden,
                )
        return commit

    def _verify(self, name: str, found: VersionState) -> Metadata:
        directory = self.version_dir(name, found.version)
        try:
            return validation.verify(
                directory,
                name,
                found.version,
                found.digest,
                max_bytes=self.settings.limits.version_bytes,
                disk=self._disk,
            )
        except NotFoundError as error:
            raise IntegrityError(
                f"{directory}: missing, though it is registered; restore it from a backup"
            ) from error

    def _existing(self, ref: str) -> str:
        name, found = self.resolve(ref)
        changes.refuse_deleted(name, found)
        return f"{name}:{found.version}"

    def _acting(self, actor: str | None) -> str:
        return check_text(actor or self._actor or default_actor(), "the actor")

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

    def _project(self, model: ModelLog) -> None:
        self._projector.project(model, self.models())

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


def _known(record: Record) -> Sequence[KnownOp]:
    return [op for op in record.ops if isinstance(op, KnownOp)]
