"""The registry as a Python object: open it once, share it between threads."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from modelreg import changes, enrol, gates, judging, signing, validation
from modelreg.errors import ConflictError, StoreUnavailableError
from modelreg.gates import GateResult
from modelreg.lifecycle import Lifecycle
from modelreg.modellog import Decision
from modelreg.names import check_model_name, check_text, check_version
from modelreg.records import StatusOp
from modelreg.refs import parse_ref
from modelreg.results import UNSET, Commit, Expect, Version
from modelreg.settings import ChannelGates
from modelreg.state import ModelState, VersionState

log = logging.getLogger("modelreg")


class Registry(Lifecycle):
    """A registry on disk. Thread-safe; any number of processes may have it open. Arguments: see ``Reading``."""

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
        dry_run: bool = False,
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
            dry_run: do all but commit; the Version has the sequence that it would have got.

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
            dry_run=dry_run,
        )
        model = self._log(name)
        store = enrol.Store(self.root, self.settings, self._clock, self._disk)
        found = enrol.enrol(store, model, request)
        if not dry_run:
            self._project(model)
        path = self.version_dir(name, found.version)
        return Version(name, found.version, found.digest, found.seq, found.at, path)

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
        judge = judging.judge(self.settings, to, self._clock, override=override_gates)
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
        isn't. The version that is left becomes the previous one: without ``mark_failed`` a second rollback goes back
        to it, as ``next_rollback`` of the Commit says.

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
        return self._change(name, channel, decide, reason, actor, dry_run, expect_seq=expect_seq, back=True)

    def validate(
        self, ref: str, *, key: str | Path | None = None, actor: str | None = None, dry_run: bool = False
    ) -> validation.ValidationReport:
        """Check a version's bytes and signature, load it in a process that may die, and replay its golden rows.

        A version that passes gets the status ``validated``, where it was ``registered`` and the registry can
        be written; a version that doesn't pass keeps its status, and with ``dry_run`` every version does.

        Args:
            key: a public key whose signature the version must have. Without one a signature is only told of.

        Raises:
            IntegrityError: what differs or how the process ended. NotFoundError: no such version or key.
            UsageError: not an Ed25519 key.
        """
        name, found = self.resolve(ref)
        changes.refuse_deleted(name, found)
        if key is not None:
            self.verify(ref, key)
        signed = validation.Check("signature", self._signature(name, found, key))
        report = validation.validate_version(
            self.version_dir(name, found.version),
            name,
            found.version,
            found.digest,
            settings=self.settings,
            disk=self._disk,
        )
        if not dry_run and found.status == "registered" and self.state(name).broken is None:
            self._note_validated(name, found.version, actor)
        checksums, *others = report.checks
        return replace(report, checks=(checksums, signed, *others))

    def _signature(self, name: str, found: VersionState, key: str | Path | None) -> str:
        """What there is to say of a version's signature."""
        if key is not None:
            return f"by {key}"
        if self._disk.exists(signing.signature_file(self.root, name, found.version)):
            return "there; whose it is tells --key"
        return "none"

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
