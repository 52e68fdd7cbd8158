"""Validation of a registered version: checksums, then load and golden replay in a process that may die."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from modelreg.disk import DISK, Disk
from modelreg.errors import IntegrityError
from modelreg.metadata import Metadata
from modelreg.sealed import read_sealed
from modelreg.settings import Settings


@dataclass(frozen=True, slots=True)
class Check:
    """One step: its name, and what it found."""

    name: str
    detail: str


@dataclass(frozen=True, slots=True)
class ValidationReport:
    """A version that passed; a version that doesn't raises instead.

    ``golden_rows``: how many were replayed.
    """

    name: str
    version: str
    digest: str
    golden_rows: int
    checks: tuple[Check, ...]


def verify(directory: Path, name: str, version: str, digest: str, *, max_bytes: int, disk: Disk) -> Metadata:
    """Check a version's bytes, and that its metadata speaks of it; loads nothing.

    Raises:
        IntegrityError: names the file.
    """
    return _verified(directory, name, version, digest, max_bytes, disk)[0]


def validate_version(
    directory: Path, name: str, version: str, digest: str, *, settings: Settings, disk: Disk = DISK
) -> ValidationReport:
    """Check bytes, load, and replay the golden rows.

    Raises:
        IntegrityError: the bytes differ (the file is named), or the model can't be loaded or answers
        otherwise.
    """
    from modelreg import golden as goldens
    from modelreg.isolation import probe

    metadata, count, sealed_golden = _verified(
        directory, name, version, digest, settings.limits.version_bytes, disk
    )
    checks = [Check("checksums", f"{count} files fit {digest}")]
    golden = None if sealed_golden is None else goldens.load(sealed_golden)
    result = probe(
        directory,
        digest=digest,
        rows=None if golden is None else golden.rows,
        outputs=list(metadata.outputs),
        settings=settings,
        where=str(directory),
    )
    checks.append(Check("load", f"{metadata.format}, outputs {', '.join(metadata.outputs)}"))
    if golden is None or result.golden is None:
        checks.append(Check("golden", "no golden rows were sealed; only loading is proved"))
        return ValidationReport(name, version, digest, 0, tuple(checks))
    difference = goldens.first_difference(golden, result.golden.outputs, result.golden.libraries)
    if difference is not None:
        raise IntegrityError(f"{directory}: the golden rows aren't answered as sealed: {difference}")
    checks.append(Check("golden", f"{len(golden.rows)} rows answered as sealed"))
    return ValidationReport(name, version, digest, len(golden.rows), tuple(checks))


def _verified(
    directory: Path, name: str, version: str, digest: str, max_bytes: int, disk: Disk
) -> tuple[Metadata, int, bytes | None]:
    sealed = read_sealed(directory, expect_digest=digest, max_bytes=max_bytes, disk=disk)
    if (sealed.metadata.name, sealed.metadata.version) != (name, version):
        raise IntegrityError(
            f"{directory / 'metadata.json'}: speaks of {sealed.metadata.name}:{sealed.metadata.version}"
        )
    return sealed.metadata, len(sealed.files), sealed.files.get("golden.npz")
