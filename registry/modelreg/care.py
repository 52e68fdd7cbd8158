"""Care of a registry: leases, retention, backups, examination, signatures, exports."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from modelreg import archive, changes, doctor, gc, leases, signing, trash
from modelreg import backup as backups
from modelreg.bundle import LIGHTGBM_TEXT, ONNX
from modelreg.errors import ConflictError, IntegrityError, NotFoundError, StoreUnavailableError, UsageError
from modelreg.modellog import Decision
from modelreg.names import check_model_name, check_text, check_version
from modelreg.queries import Queries
from modelreg.records import ExportOp, KnownOp, StatusOp
from modelreg.results import Commit
from modelreg.sealed import CHECKSUM_FILE, checksum_bytes, read_sealed
from modelreg.state import ModelState, VersionState


def _silent(_: str) -> None:
    """No progress is shown."""


class Care(Queries):
    """The part of ``Registry`` that keeps it in order."""

    def lease(
        self, name: str, version: str, holder: str, *, ttl_s: float = leases.DEFAULT_TTL_S
    ) -> leases.Lease:
        """Say that a version is in use: gc spares it. Renew the lease before ``ttl_s`` is over, or use a context.

        Raises:
            UsageError: not a name or version. StoreUnavailableError: it can't be written.
        """
        return leases.Lease(
            self.root / ".registry" / "leases", check_model_name(name), check_version(version), holder,
            ttl_s=ttl_s, clock=self._clock, disk=self._disk,
        )  # fmt: skip

    def leases(self) -> list[leases.LeaseInfo]:
        """The leases that hold now.

        Raises:
            StoreUnavailableError: they can't be read.
        """
        return leases.active(self.root / ".registry" / "leases", self._clock(), self._disk)

    def gc(
        self,
        *,
        keep: int = gc.DEFAULT_KEEP,
        grace_h: float = gc.DEFAULT_GRACE_H,
        name: str | None = None,
        actor: str | None = None,
        dry_run: bool = False,
    ) -> gc.Swept:
        """Delete old versions that nobody needs, and empty the trash of what is older than its grace.

        The newest ``keep`` stay, and whatever a channel holds, was in production before, is leased, tagged, or the
        parent of another version.

        Raises:
            UsageError: ``keep`` is negative. StoreUnavailableError: something can't be read or written, so it isn't
            known what derives from what; nothing is deleted.
        """
        if keep < 0:
            raise UsageError(f"--keep {keep}: can't be negative")
        survey = self.survey()
        for model, trouble in survey.items():
            if trouble is not None:
                raise StoreUnavailableError(
                    f"{self.root}/{model}: can't be read: {trouble.strerror or trouble}; what its versions derive "
                    "from isn't known, so nothing is deleted"
                )
        parents = self._parents(list(survey))
        deleted = []
        for model in survey if name is None else [name]:
            state = self.state(model)
            if state.broken is None:
                deleted += self._sweep(state, keep, parents, actor, dry_run)
        over = gc.expired(trash.entries(self.root, self._disk), self._clock(), grace_h)
        if not dry_run:
            gc.purge(over, self._disk)
            leases.sweep(self.root / ".registry" / "leases", self._clock(), self._disk)
        return gc.Swept(tuple(deleted), tuple(f"{entry.name}@{entry.version}" for entry in over))

    def backup(
        self, target: str | Path | None = None, *, progress: Callable[[str], None] = _silent
    ) -> tuple[Path, int]:
        """Write a backup that is consistent while others write; returns where, and how many files.

        Raises:
            ConflictError: the target exists. IntegrityError: what would be backed up is damaged.
            StoreUnavailableError: it can't be written.
        """
        return backups.back_up(self, None if target is None else Path(target), progress, self._disk)

    def doctor(
        self, *, repair: bool = False, progress: Callable[[str], None] = _silent
    ) -> list[doctor.Finding]:
        """Examine every record, every sealed byte and every projection; mend what can be made again.

        Raises:
            StoreUnavailableError: the root can't be read.
        """
        found = []
        for finding, mend in doctor.examine(self, self._disk, progress):
            if repair and mend is not None:
                mend()
                finding = replace(finding, repaired=True)
            found.append(finding)
        return found

    def sign(self, ref: str, key: str | Path) -> Path:
        """Sign a version with an Ed25519 private key; returns the signature's file. Its bytes are checked first.

        Raises:
            NotFoundError: no such version or key. IntegrityError: its bytes differ. UsageError: not such a key.
        """
        name, found = self._present(ref)
        self._verify(name, found)
        signature = signing.sign(self._sums(name, found), Path(key), self._disk)
        path = signing.signature_file(self.root, name, found.version)
        try:
            self._disk.make_dirs(path.parent)
            self._disk.write_replace(path, signature)
            self._disk.fsync_dir(path.parent)
        except OSError as error:
            raise StoreUnavailableError(f"{path}: can't be written: {error.strerror or error}") from error
        return path

    def verify(self, ref: str, key: str | Path) -> None:
        """Check a version's signature with a public key, and every byte of it.

        Raises:
            IntegrityError: no signature, not by this key, or bytes differ. NotFoundError, UsageError.
        """
        name, found = self._present(ref)
        path = signing.signature_file(self.root, name, found.version)
        signature = signing.read_signature(path, self._disk)
        signing.check(signature, self._sums(name, found), Path(key), self._disk, where=str(path))
        self._verify(name, found)

    def export(self, ref: str, *, format: str, to: str | Path | None = None) -> Path:
        """Write a version to a file: ``tar`` packs its sealed files; another format is one that was sealed or added.

        LightGBM text is converted to ``onnx`` where none was added: float32, so close to the sealed model's answers and
        not bit-equal; compared with them on the golden rows before it is written.

        Raises:
            NotFoundError: no such version, or it isn't there in that format. ConflictError: the file exists.
            IntegrityError: bytes differ. LoadError: it can't be converted. StoreUnavailableError: it can't be
            written.
        """
        name, found = self._present(ref)
        sealed = read_sealed(
            self.version_dir(name, found.version),
            expect_digest=found.digest,
            max_bytes=self.settings.limits.version_bytes,
            disk=self._disk,
        )
        if format == "tar":
            target = Path(to) if to is not None else Path(f"{name}-{found.version}.tar")
            files = {**sealed.files, CHECKSUM_FILE: checksum_bytes(sealed.files)}
            members = [(f"{name}-{found.version}/{file}", data) for file, data in files.items()]
            archive.write_tar(target, members, self._disk)
            return target
        models = [f for f, info in sealed.metadata.files.items() if info.role == "estimator"]
        export = next((e for e in found.exports if e.format == format), None)
        if export is not None:
            data = self._disk.read(
                self.root / name / export.file, max_bytes=self.settings.limits.version_bytes
            )
            if hashlib.sha256(data).hexdigest() != export.digest.removeprefix("sha256:"):
                raise IntegrityError(f"{self.root / name / export.file}: its bytes aren't those added")
        elif sealed.metadata.format == format and len(models) == 1:
            data = sealed.files[models[0]]
        elif format == ONNX and sealed.metadata.format == LIGHTGBM_TEXT:
            from modelreg.isolation import convert_to_onnx

            directory = self.version_dir(name, found.version)
            data = convert_to_onnx(
                directory, digest=found.digest, settings=self.settings, where=f"{name}:{found.version}"
            )
        else:
            raise NotFoundError(
                f"{name}:{found.version} isn't there as {format}; add it with: modelreg add-export {ref} "
                f"--format {format} FILE"
            )
        target = Path(to) if to is not None else Path(f"{name}-{found.version}.{format}")
        try:
            self._disk.write_new(target, data)
        except FileExistsError as error:
            raise ConflictError(f"{target} exists; choose another name with --to") from error
        except OSError as error:
            raise StoreUnavailableError(f"{target}: can't be written: {error.strerror or error}") from error
        return target

    def add_export(
        self, ref: str, file: str | Path, *, format: str, reason: str | None = None, actor: str | None = None
    ) -> Commit:
        """Keep a version in another format beside it, and note it in the log; a newer one takes its place.

        Raises:
            UsageError: the format isn't a plain word. NotFoundError: no such version or file.
        """
        if not (format.isascii() and format.isalnum() and len(format) <= 32) or format == "tar":
            raise UsageError(f"--format {format!r}: use a plain word such as onnx, torchscript, pmml")
        name, found = self._present(ref)
        try:
            data = self._disk.read(Path(file).resolve(), max_bytes=self.settings.limits.version_bytes)
        except OSError as error:
            raise NotFoundError(f"{file}: can't be read: {error.strerror or error}") from error
        digest = hashlib.sha256(data).hexdigest()
        relative = f"exports/{found.version}/{digest[:16]}.{format}"
        target = self.root / name / relative
        try:
            self._disk.make_dirs(target.parent)
            self._disk.write_replace(target, data, mode=0o444)
            self._disk.fsync_dir(target.parent)
        except OSError as error:
            raise StoreUnavailableError(f"{target}: can't be written: {error.strerror or error}") from error
        op = ExportOp(found.version, format, relative, f"sha256:{digest}")

        def decide(state: ModelState) -> Decision:
            changes.refuse_deleted(name, state.versions[found.version])
            return Decision([op])

        return self._change(name, None, decide, reason, actor, False)

    def _sweep(
        self,
        state: ModelState,
        keep: int,
        parents: dict[str, str | None],
        actor: str | None,
        dry_run: bool,
    ) -> list[str]:
        def old(state: ModelState) -> list[str]:
            leased = self._leased(state.name)
            return gc.candidates(state, keep=keep, leased=leased, parents=parents)

        def decide(state: ModelState) -> Decision:
            ops: list[KnownOp] = [StatusOp(version, "deleted") for version in old(state)]
            if not ops:
                raise ConflictError(f"{state.name}: nothing to delete by now")
            return Decision(ops)

        found = old(state)
        if found and not dry_run:
            model = self._log(state.name)
            reason = check_text(f"gc: keep {keep}", "the reason")
            try:
                record, _ = model.commit(decide, actor=self._acting(actor), reason=reason, clock=self._clock)
            except ConflictError:
                return []
            self._project(model)
            found = [op.version for op in record.ops if isinstance(op, StatusOp)]
        return [f"{state.name}:{version}" for version in found]

    def _parents(self, present: list[str]) -> dict[str, str | None]:
        """What each version of these models derives from; never a part of it."""
        from modelreg.catalogsearch import Search, parents
        from modelreg.listing import scan

        try:
            with self.catalog.current(present=present) as connection:
                found = parents(connection)
        except StoreUnavailableError:
            rows = scan(self, Search(), present)
            found = [(r["ref"], (r["metadata"] or {}).get("parent"), r.get("problem")) for r in rows]
        for ref, _, problem in found:
            if problem is not None:
                raise StoreUnavailableError(
                    f"{problem}; what {ref} derives from isn't known, so nothing is deleted; restore it from a "
                    f"backup, or: modelreg delete {ref}"
                )
        return {ref: parent for ref, parent, _ in found}

    def _leased(self, name: str) -> dict[str, str]:
        return {lease.version: lease.holder for lease in self.leases() if lease.name == name}

    def _present(self, ref: str) -> tuple[str, VersionState]:
        name, found = self.resolve(ref)
        changes.refuse_deleted(name, found)
        return name, found

    def _sums(self, name: str, found: VersionState) -> bytes:
        return self._disk.read(self.version_dir(name, found.version) / CHECKSUM_FILE, max_bytes=1 << 20)
