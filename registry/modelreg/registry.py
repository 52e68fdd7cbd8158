"""The registry as a Python object: open it once, share it between threads."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from msgspec import structs

from modelreg import changes, enrol, gates, validation
from modelreg.care import Care
from modelreg.errors import ConflictError, PromotionGateError, StoreUnavailableError
from modelreg.gates import GateResult
from modelreg.metadata import Metadata
from modelreg.modellog import Decision
from modelreg.names import check_model_name, check_text, check_version
from modelreg.records import ChannelOp, StatusOp
from modelreg.refs import parse_ref
from modelreg.results import UNSET, Commit, Expect, Version
from modelreg.settings import ChannelGates
from modelreg.state import ModelState

log = logging.getLogger("modelreg")


class Registry(Care):
    """A registry on disk. Thread-safe; any number of processes may have it open. Arguments: see ``Core``."""

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
        scaler: Path | None = None,
        allow_joblib: bool = False,
        actor: str | None = None,
        reason: str | None = None,
    ) -> Version:
        """Seal a version and commit it.

        Args:
            files: one LightGBM text, joblib or ONNX file (its output is called ``predictions``), or output → file.
            version: semver or timestamp; default the present second in UTC.
            features: ordered names; default those of LightGBM's text. Other formats need them.
            golden: None makes rows up from the model's ranges, False loads nothing, a path (.csv, .npz) or a
                float64 array [n, f] gives them.
            parent: the reference that this version was derived from.
            meta: further fields of metadata.json; unknown ones are kept.
            artefacts: feature_importance.csv, validation_predictions.csv, test_predictions.csv,
            MODEL_CARD.md.
            scaler: a joblib file; rows go through its ``transform`` before the estimators see them.
            allow_joblib: seal joblib files, which are code that runs wherever they are loaded.

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
            scaler=scaler,
            allow_joblib=allow_joblib,
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
        expect_seq: int | None = None,
        override_gates: bool = False,
        allow_schema_change: bool = False,
        dry_run: bool = False,
    ) -> Commit:
        """Check a version's bytes and the channel's gates, and point the channel at it.

        Where the channel holds it already nothing is written: the Commit is the one that put it there, not
        ``changed``.

        Args:
            expect: the version that the channel must hold now; None: it must be empty.
            expect_seq: the record that the model's log must end with.
            override_gates: promote though gates aren't passed; which ones is noted in the record.
            allow_schema_change: tell the daemon that other features than those of the version before are meant.
            dry_run: decide, but commit nothing; the Commit has the sequence that it would have got.

        Raises:
            ConflictError: the version can't be promoted, or the channel isn't as expected.
            StaleError: the log ends with another record than ``expect_seq``.
            PromotionGateError: gates aren't passed; names each with its value and threshold.
            IntegrityError: its bytes differ, or the log is broken. NotFoundError, UsageError: the reference.
        """
        parsed = parse_ref(ref)
        expected = expect if expect is not UNSET else changes.ANY
        decide = changes.promotion(parsed, to, expected, allow_schema_change)
        configured = self.settings.gates.get(to, ChannelGates())

        def judge(state: ModelState, op: ChannelOp, metadata: Metadata) -> ChannelOp:
            return self._judge(configured, state, op, metadata, override_gates)

        reason = check_text(reason, "a reason (--reason)")
        try:
            return self._change(parsed.name, to, decide, reason, actor, dry_run, judge, expect_seq)
        except changes.AlreadyThereError as there:
            now, found = there.channel, there.found
            self._verify(parsed.name, found)
            return Commit(
                parsed.name, now.seq, now.at, to, found.version, found.version, found.digest, changed=False
            )

    def gates(self, ref: str, *, to: str = "production") -> list[GateResult]:
        """How a version stands with the gates of a channel now; empty where none are configured.

        Raises:
            NotFoundError: no such version. IntegrityError: its metadata.json was changed.
        """
        name, found = self.resolve(ref)
        metadata = self.metadata(name, found.version)
        return gates.evaluate(
            self.settings.gates.get(to, ChannelGates()),
            metadata.metrics,
            self.state(name),
            found.version,
            self._clock(),
        )

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
        expect_seq: int | None = None,
        dry_run: bool = False,
    ) -> Commit:
        """Point a channel back at the previous distinct version (or at ``to``), in one record.

        ``to`` is a reference or a version of this model. ``mark_failed`` marks the version that is left.
        Versions that failed, were archived or deleted are passed over. Integrity is checked, performance
        isn't.

        Raises:
            ConflictError: there is nothing to go back to, or the channel isn't as expected.
            StaleError: the log ends with another record than ``expect_seq``.
            IntegrityError: bytes differ, or the log is broken. NotFoundError: no such model or version.
        """
        check_model_name(name)
        decide = changes.retreat(
            name, to, channel, mark_failed, expect if expect is not UNSET else changes.ANY
        )
        reason = check_text(reason, "a reason (--reason)")
        return self._change(name, channel, decide, reason, actor, dry_run, expect_seq=expect_seq)

    def fail(self, ref: str, *, reason: str, actor: str | None = None, dry_run: bool = False) -> Commit:
        """Mark a version as failed; it can't be promoted any more. Channels stay as they are.

        Raises:
            ConflictError: its status forbids it. NotFoundError: no such version.
        """
        parsed = parse_ref(ref)
        reason = check_text(reason, "a reason (--reason)")
        return self._change(parsed.name, None, changes.failure(parsed), reason, actor, dry_run)

    def approve(
        self, ref: str, *, reason: str | None = None, actor: str | None = None, dry_run: bool = False
    ) -> Commit:
        """Note that the actor approves of a version, for gates that ask for it.

        Raises:
            ConflictError: the actor registered it, or it was deleted. NotFoundError: no such version.
        """
        parsed, acting = parse_ref(ref), self._acting(actor)
        return self._change(parsed.name, None, changes.approval(parsed, acting), reason, acting, dry_run)

    def tag(self, ref: str, tag: str, *, reason: str | None = None, actor: str | None = None) -> Commit:
        """Put a free label on a version.

        Raises:
            UsageError: not a label. ConflictError: the version was deleted. NotFoundError: no such version.
        """
        parsed = parse_ref(ref)
        return self._change(parsed.name, None, changes.tagging(parsed, tag), reason, actor, False)

    def untag(self, ref: str, tag: str, *, reason: str | None = None, actor: str | None = None) -> Commit:
        """Take a label off a version.

        Raises:
            NotFoundError: no such version, or it has no such label.
        """
        parsed = parse_ref(ref)
        return self._change(parsed.name, None, changes.untagging(parsed, tag), reason, actor, False)

    def archive(
        self, ref: str, *, reason: str | None = None, actor: str | None = None, dry_run: bool = False
    ) -> Commit:
        """Retire a version: it can't be promoted until ``unarchive``; channels that hold it are emptied.

        Raises:
            ConflictError: it is in production, or its status forbids it. NotFoundError: no such version.
        """
        parsed = parse_ref(ref)
        return self._change(parsed.name, None, changes.archival(parsed), reason, actor, dry_run)

    def unarchive(
        self, ref: str, *, reason: str | None = None, actor: str | None = None, dry_run: bool = False
    ) -> Commit:
        """Give an archived version its status back.

        Raises:
            ConflictError: it isn't archived. NotFoundError: no such version.
        """
        parsed = parse_ref(ref)
        return self._change(parsed.name, None, changes.unarchival(parsed), reason, actor, dry_run)

    def delete(
        self,
        ref: str,
        *,
        force: bool = False,
        reason: str | None = None,
        actor: str | None = None,
        dry_run: bool = False,
    ) -> Commit:
        """Delete a version: its files go to ``.registry/trash``, its name is never used again.

        Raises:
            ConflictError: it is in production; or tagged, held by a channel or leased, and not ``force``.
            NotFoundError: no such version.
        """
        parsed = parse_ref(ref)
        return self._change(
            parsed.name,
            None,
            changes.deletion(parsed, force, self._leased(parsed.name)),
            reason,
            actor,
            dry_run,
        )

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

    def _judge(
        self, configured: ChannelGates, state: ModelState, op: ChannelOp, metadata: Metadata, override: bool
    ) -> ChannelOp:
        results = gates.evaluate(configured, metadata.metrics, state, str(op.version), self._clock())
        results += self._dataset_gate(metadata)
        missed = [str(result) for result in results if not result.passed]
        if not missed:
            return op
        if not override:
            told = "; ".join(missed)
            raise PromotionGateError(
                f"{state.name}:{op.version} doesn't pass the gates of {op.channel}: {told}. Override them with "
                "--override-gates and a reason that stays in the log",
                results,
            )
        return structs.replace(op, overridden=tuple(missed))

    def _dataset_gate(self, metadata: Metadata) -> list[GateResult]:
        told = self.settings.datasets
        if not (told.file or told.command) or not metadata.dataset_version_ids:
            return []
        from modelreg.compatibility import VersionCompatibilityChecker, current_versions

        current = current_versions(told.file, told.command)
        found = VersionCompatibilityChecker(told.strict).check(metadata.dataset_version_ids, current)
        for warning in found.warnings if found.compatible else ():
            log.warning("%s:%s: %s", metadata.name, metadata.version, warning)
        return [
            GateResult("datasets", warning, None, False)
            for warning in (found.warnings if not found.compatible else ())
        ]

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
