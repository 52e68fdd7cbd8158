"""What goes between registries and other tools: exports, signatures."""

from __future__ import annotations

import hashlib
from pathlib import Path

from modelreg import archive, changes, signing
from modelreg.bundle import LIGHTGBM_TEXT, ONNX
from modelreg.errors import ConflictError, NotFoundError, StoreUnavailableError, UsageError
from modelreg.modellog import Decision
from modelreg.queries import Queries
from modelreg.records import ExportOp
from modelreg.results import Commit
from modelreg.sealed import CHECKSUM_FILE, checksum_bytes, read_export, read_sealed
from modelreg.state import ModelState, VersionState


class Exchange(Queries):
    """The part of ``Registry`` that exports and signs."""

    def sign(self, ref: str, key: str | Path, *, dry_run: bool = False) -> Path:
        """Sign a version with an Ed25519 private key; returns the signature's file. Its bytes are checked first.

        ``dry_run``: check all that, and write nothing.

        Raises:
            NotFoundError: no such version or key. IntegrityError: its bytes differ. UsageError: not such a key.
        """
        name, found = self._present(ref)
        self._verify(name, found)
        signature = signing.sign(self._sums(name, found), Path(key), self._disk)
        path = signing.signature_file(self.root, name, found.version)
        if dry_run:
            return path
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

    def export(self, ref: str, *, format: str, to: str | Path | None = None, dry_run: bool = False) -> Path:
        """Write a version to a file: ``tar`` packs its sealed files; another format is one that was sealed or added.

        LightGBM text is converted to ``onnx`` where none was added: float32, so close to the sealed model's answers and
        not bit-equal; compared with them on the golden rows before it is written. ``dry_run``: do all but write.

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
        target = Path(to) if to is not None else Path(f"{name}-{found.version}.{format}")
        if dry_run and self._disk.exists(target):
            raise ConflictError(f"{target} exists; choose another name with --to")
        if format == "tar":
            files = {**sealed.files, CHECKSUM_FILE: checksum_bytes(sealed.files)}
            members = [(f"{name}-{found.version}/{file}", data) for file, data in files.items()]
            if not dry_run:
                archive.write_tar(target, members, self._disk)
            return target
        models = [f for f, info in sealed.metadata.files.items() if info.role == "estimator"]
        export = next((e for e in found.exports if e.format == format), None)
        if export is not None:
            limit = self.settings.limits.version_bytes
            data = read_export(self.root / name, export, max_bytes=limit, disk=self._disk)
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
        if dry_run:
            return target
        try:
            self._disk.write_new(target, data)
        except FileExistsError as error:
            raise ConflictError(f"{target} exists; choose another name with --to") from error
        except OSError as error:
            raise StoreUnavailableError(f"{target}: can't be written: {error.strerror or error}") from error
        return target

    def add_export(
        self,
        ref: str,
        file: str | Path,
        *,
        format: str,
        reason: str | None = None,
        actor: str | None = None,
        dry_run: bool = False,
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
            if not dry_run:
                self._disk.make_dirs(target.parent)
                self._disk.write_replace(target, data, mode=0o444)
                self._disk.fsync_dir(target.parent)
        except OSError as error:
            raise StoreUnavailableError(f"{target}: can't be written: {error.strerror or error}") from error
        op = ExportOp(found.version, format, relative, f"sha256:{digest}")

        def decide(state: ModelState) -> Decision:
            changes.refuse_deleted(name, state.versions[found.version])
            return Decision([op])

        return self._change(name, None, decide, reason, actor, dry_run)

    def _present(self, ref: str) -> tuple[str, VersionState]:
        name, found = self.resolve(ref)
        changes.refuse_deleted(name, found)
        return name, found

    def _sums(self, name: str, found: VersionState) -> bytes:
        return self._disk.read(self.version_dir(name, found.version) / CHECKSUM_FILE, max_bytes=1 << 20)
