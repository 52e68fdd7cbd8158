"""The registry as a Python object: open it once, share it between threads."""

from __future__ import annotations

import datetime as dt
import json
import logging
import threading
import uuid
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from pathlib import Path
from typing import Any, Final, Literal

from modelreg import changes, enrol, projections, validation
from modelreg.clock import rfc3339, utc_now
from modelreg.disk import DISK, Disk
from modelreg.environment import default_actor
from modelreg.errors import ConflictError, IntegrityError, NotFoundError, RegistryError, StoreUnavailableError
from modelreg.history import HistoryEntry, entries
from modelreg.metadata import Metadata
from modelreg.modellog import Decision, ModelLog
from modelreg.names import check_model_name, check_text, check_version
from modelreg.records import ChannelOp, StatusOp, record_name, record_seq
from modelreg.refs import parse_ref, resolve
from modelreg.sealed import read_metadata
from modelreg.settings import Settings
from modelreg.state import ModelState, VersionState

log = logging.getLogger("modelreg")

#: The disk format that this package reads and writes.
FORMAT = 1


class _Unset(Enum):
    UNSET = "unset"


#: "Nothing is expected": None would mean "expected to be empty".
UNSET: Final = _Unset.UNSET

Expect = str | None | Literal[_Unset.UNSET]


@dataclass(frozen=True, slots=True)
class Version:
    """A registered version; ``seq`` and ``at`` are those of its record."""

    name: str
    version: str
    digest: str
    seq: int
    at: str
    path: Path

    @property
    def ref(self) -> str:
        return f"{self.name}:{self.version}"


@dataclass(frozen=True, slots=True)
class Commit:
    """One durable decision.

    ``channel`` and the versions are None where no channel moved; ``digest``: of to_version.
    """

    name: str
    seq: int
    at: str
    channel: str | None
    from_version: str | None
    to_version: str | None
    digest: str | None


class Registry:
    """A registry on disk. Thread-safe; any number of processes may have it open.

    Args:
        root: its directory.
        actor: who acts, for the audit trail; default ``MODELREG_ACTOR``, else user@host.
        settings: limits and defaults; see ``config/registry.yaml``.
        clock: the present moment, aware.
        disk: the file operations, for fault injection.

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
    ) -> None:
        self.root = Path(root)
        self.settings = settings or Settings()
        self._actor = actor
        self._clock = clock
        self._disk = disk
        self._projector = projections.Projector(self.root, disk)
        self._logs: dict[str, ModelLog] = {}
        self._lock = threading.Lock()
        self.uuid = self._read_identity()
        self._heal()

    @classmethod
    def init(
        cls,
        root: str | Path,
        actor: str | None = None,
        *,
        settings: Settings | None = None,
        clock: Callable[[], dt.datetime] = utc_now,
        disk: Disk = DISK,
    ) -> Registry:
        """Make an empty registry, or open the one that is there.

        Raises:
            StoreUnavailableError: it can't be written.
        """
        home = Path(root) / ".registry"
        identity = {"format": FORMAT, "uuid": str(uuid.uuid4()), "created_at": rfc3339(clock())}
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
                disk.fsync_dir(home)
        except OSError as error:
            raise StoreUnavailableError(
                f"{root}: can't make a registry: {error.strerror or error}"
            ) from error
        return cls(root, actor, settings=settings, clock=clock, disk=disk)

    # -- reading ---------------------------------------------------------------------------------------------

    def models(self) -> list[str]:
        """The names of all models, sorted.

        Raises:
            StoreUnavailableError: the root can't be read.
        """
        try:
            return [name for name in self._disk.listdir(self.root) if self._is_model(name)]
        except OSError as error:
            raise StoreUnavailableError(f"{self.root}: can't be read: {error.strerror or error}") from error

    def state(self, name: str) -> ModelState:
        """A snapshot of one model; cheap where nothing is new (one stat, one failed open).

        Raises:
            NotFoundError: no such model.
            StoreUnavailableError: the registry can't be read.
        """
        state = self._log(name).refresh()
        if state.seq == 0 and state.broken is None:
            raise NotFoundError(f"no model {name!r} in {self.root}; see: modelreg list")
        return state

    def resolve(self, ref: str) -> tuple[str, VersionState]:
        """The model's name and the version that a reference means now.

        Raises:
            UsageError: malformed. NotFoundError: there is no such thing. ConflictError: ambiguous.
        """
        parsed = parse_ref(ref)
        return parsed.name, resolve(parsed, self.state(parsed.name))

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

    # -- writing ---------------------------------------------------------------------------------------------

    def register(
        self,
        name: str,
        files: Mapping[str, Path] | Path,
        *,
        version: str | None = None,
        features: Sequence[str] | None = None,
        metrics: Mapping[str, Any] | None = None,
        golden: Any = None,
        data_range: tuple[str | None, str | None] | None = None,
        tags: Iterable[str] = (),
        parent: str | None = None,
        notes: str | None = None,
        meta: Mapping[str, Any] | None = None,
        artefacts: Sequence[Path] = (),
        actor: str | None = None,
        reason: str | None = None,
    ) -> Version:
        """Seal a version and commit it.

        Args:
            files: one LightGBM text file (its output is called ``predictions``), or output → file.
            version: semver or timestamp; default the present second in UTC.
            features: ordered names; default those of the model's text.
            golden: None makes rows up from the model's ranges, False loads nothing, a path (.csv, .npz) or a
                float64 array [n, f] gives them.
            parent: the reference that this version was derived from.
            meta: further fields of metadata.json; unknown ones are kept.
            artefacts: feature_importance.csv, validation_predictions.csv, test_predictions.csv,
            MODEL_CARD.md.

        Raises:
            UsageError: an argument can't be right. NotFoundError: a file or the parent isn't there.
            ConflictError: the version exists. LoadError: the model doesn't load or answer.
            IntegrityError: the model's log is broken. StoreUnavailableError: it can't be written.
        """
        given = {
            **(meta or {}),
            **{key: value for key, value in (("metrics", metrics), ("notes", notes)) if value is not None},
        }
        request = enrol.Request(
            name=check_model_name(name),
            files=files,
            version=None if version is None else check_version(version),
            features=features,
            golden=golden,
            data_range=data_range,
            tags=tuple(tags),
            parent=None if parent is None else self._existing(parent),
            given=given,
            artefacts=artefacts,
            actor=self._acting(actor),
            reason=reason,
        )
        model = self._log(name)
        store = enrol.Store(self.root, self.settings, self._clock, self._disk)
        found, record = enrol.enrol(store, model, request)
        self._project(model)
        return Version(
            name, found.version, found.digest, record.seq, record.at, self.version_dir(name, found.version)
        )

    def promote(
        self,
        ref: str,
        *,
        to: str = "production",
        reason: str,
        actor: str | None = None,
        expect: Expect = UNSET,
        dry_run: bool = False,
    ) -> Commit:
        """Check a version's bytes and point a channel at it.

        Args:
            expect: the version that the channel must hold now; None: it must be empty.
            dry_run: decide, but commit nothing; the Commit has the sequence that it would have got.

        Raises:
            ConflictError: the version can't be promoted, or the channel isn't as expected.
            IntegrityError: its bytes differ, or the log is broken. NotFoundError, UsageError: the reference.
        """
        parsed = parse_ref(ref)
        decide = changes.promotion(parsed, to, expect if expect is not UNSET else changes.ANY)
        return self._change(parsed.name, to, decide, reason, actor, dry_run)

    def rollback(
        self,
        name: str,
        *,
        to: str | None = None,
        mark_failed: bool = False,
        reason: str,
        actor: str | None = None,
        channel: str = "production",
        expect: Expect = UNSET,
        dry_run: bool = False,
    ) -> Commit:
        """Point a channel back at the previous distinct version (or at ``to``), in one record.

        ``to`` is a reference or a version of this model. ``mark_failed`` marks the version that is left.
        Versions that failed, were archived or deleted are passed over. Integrity is checked, performance
        isn't.

        Raises:
            ConflictError: there is nothing to go back to, or the channel isn't as expected.
            IntegrityError: bytes differ, or the log is broken. NotFoundError: no such model or version.
        """
        check_model_name(name)
        decide = changes.retreat(
            name, to, channel, mark_failed, expect if expect is not UNSET else changes.ANY
        )
        return self._change(name, channel, decide, reason, actor, dry_run)

    def fail(self, ref: str, *, reason: str, actor: str | None = None, dry_run: bool = False) -> Commit:
        """Mark a version as failed; it can't be promoted any more. Channels stay as they are.

        Raises:
            ConflictError: its status forbids it. NotFoundError: no such version.
        """
        parsed = parse_ref(ref)
        return self._change(parsed.name, None, changes.failure(parsed), reason, actor, dry_run)

    def validate(self, ref: str, *, actor: str | None = None) -> validation.ValidationReport:
        """Check a version's bytes, load it in a process that may die, and replay its golden rows.

        A version that passes gets the status ``validated``, where it was ``registered`` and the registry can
        be written; a version that doesn't pass keeps its status.

        Raises:
            IntegrityError: what differs or how the process ended. NotFoundError: no such version.
        """
        name, found = self.resolve(ref)
        changes.refuse_deleted(name, found)
        report = validation.validate_version(
            self.version_dir(name, found.version),
            name,
            found.version,
            found.digest,
            settings=self.settings,
            disk=self._disk,
        )
        if found.status == "registered" and self.state(name).broken is None:
            self._note_validated(name, found.version, actor)
        return report

    # -- the rest --------------------------------------------------------------------------------------------

    def _change(
        self,
        name: str,
        channel: str | None,
        decide: changes.Decide,
        reason: str,
        actor: str | None,
        dry_run: bool,
    ) -> Commit:
        acting, reason = self._acting(actor), check_text(reason, "a reason (--reason)")
        state, model = self.state(name), self._log(name)
        verified: set[str] = set()

        def decide_verified(state: ModelState) -> Decision:
            decision = decide(state)
            for op in decision.ops:
                if isinstance(op, ChannelOp) and op.version is not None and op.version not in verified:
                    self._verify(name, state.versions[op.version])
                    verified.add(op.version)
            return decision

        model.refuse_if_broken(state)
        if dry_run:
            decision, seq, at = decide_verified(state), state.seq + 1, rfc3339(self._clock())
        else:
            record, state = model.commit(decide_verified, actor=acting, reason=reason, clock=self._clock)
            decision, seq, at = Decision(record.ops), record.seq, record.at  # type: ignore[arg-type]
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
                )
        return commit

    def _note_validated(self, name: str, version: str, actor: str | None) -> None:
        def decide(state: ModelState) -> Decision:
            if state.versions[version].status != "registered":
                raise ConflictError(f"{name}:{version} is {state.versions[version].status} by now")
            return Decision([StatusOp(version, "validated")])

        model = self._log(name)
        try:
            model.commit(decide, actor=self._acting(actor), reason="validated", clock=self._clock)
        except (ConflictError, StoreUnavailableError) as error:
            log.warning("%s:%s passed, but its status stays as it is: %s", name, version, error)
            return
        self._project(model)

    def _verify(self, name: str, found: VersionState) -> None:
        directory = self.version_dir(name, found.version)
        try:
            validation.verify(
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

    def _is_model(self, name: str) -> bool:
        try:
            check_model_name(name)
            logs = self.root / name / "log"
            if self._disk.exists(logs / record_name(1)):
                return True
            return any(record_seq(file) is not None for file in self._disk.listdir(logs))
        except (RegistryError, FileNotFoundError, NotADirectoryError):
            return False

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

    def _read_identity(self) -> str:
        path = self.root / ".registry" / "registry.json"
        try:
            told = json.loads(self._disk.read(path, max_bytes=1 << 20))
            found, identity = int(told["format"]), str(told["uuid"])
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotFoundError(
                f"{self.root} isn't a registry; make one with: modelreg --root {self.root} init"
            ) from (error)
        except OSError as error:
            raise StoreUnavailableError(f"{path}: can't be read: {error.strerror or error}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise IntegrityError(f"{path}: damaged ({error!r}); restore it from a backup") from error
        if found > FORMAT:
            raise StoreUnavailableError(
                f"{path}: format {found} is newer than this modelreg ({FORMAT}); upgrade it"
            )
        return identity
