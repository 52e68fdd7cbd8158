"""A whole registry examined: every record, every sealed byte, every projection; and what can be mended.

What can be made again from the logs is mended by ``repair``; what was lost can't be, and is only told.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from modelreg import trash
from modelreg.disk import Disk
from modelreg.errors import RegistryError
from modelreg.sealed import read_export, read_sealed

if TYPE_CHECKING:
    from modelreg.core import Core
    from modelreg.state import ModelState


#: What a registration left is only a finding when it is this old, in hours: younger, it may be at work.
STALE_H = 24.0


@dataclass(frozen=True, slots=True)
class Finding:
    """Something wrong. ``kind``: unreadable, log, version, leftover, projection, staging. ``repaired``: mended."""

    kind: str
    where: str
    problem: str
    repairable: bool
    repaired: bool = False


Mend = Callable[[], None]


def examine(registry: Core, disk: Disk, progress: Callable[[str], None]) -> list[tuple[Finding, Mend | None]]:
    """Everything that is wrong, each with what would mend it, or None."""
    found: list[tuple[Finding, Mend | None]] = []
    models = registry.models()
    for name, problem in registry.unreadable().items():
        found.append((Finding("unreadable", name, problem, False), None))
    for name in models:
        progress(name)
        try:
            state = registry.state(name)
        except RegistryError as error:
            found.append((Finding("log", name, str(error), False), None))
            continue
        if state.broken:
            found.append((Finding("log", name, state.broken, False), None))
        found += _versions(registry, state, disk)
        found += _leftovers(registry, state, disk)
        if state.broken is None and not registry.is_projected(name, models):

            def project(model: str = name) -> None:
                registry.project_again(model)

            problem = "symlinks or state files lag behind the log"
            found.append((Finding("projection", name, problem, True), project))
    staging = registry.root / ".registry" / "staging"
    for entry in disk.listdir(staging) if disk.exists(staging) else ():
        if not _stale(staging / entry):
            continue

        def clear(file: str = entry) -> None:
            disk.remove_flat_dir(staging / file)

        problem = "a registration that never ended"
        found.append((Finding("staging", str(staging / entry), problem, True), clear))
    return found


def _versions(registry: Core, state: ModelState, disk: Disk) -> list[tuple[Finding, Mend | None]]:
    found: list[tuple[Finding, Mend | None]] = []
    for version in state.versions.values():
        directory = registry.version_dir(state.name, version.version)
        if version.status == "deleted":
            if disk.exists(directory):

                def project() -> None:
                    registry.project_again(state.name)

                found.append(
                    (Finding("leftover", str(directory), "deleted, but its files are here", True), project)
                )
            continue
        try:
            limit = registry.settings.limits.version_bytes
            read_sealed(directory, expect_digest=version.digest, max_bytes=limit, disk=disk)
            for export in version.exports:
                read_export(registry.root / state.name, export, max_bytes=limit, disk=disk)
        except RegistryError as error:
            found.append((Finding("version", f"{state.name}:{version.version}", str(error), False), None))
    return found


def _leftovers(registry: Core, state: ModelState, disk: Disk) -> list[tuple[Finding, Mend | None]]:
    directory = registry.root / state.name / "versions"
    found: list[tuple[Finding, Mend | None]] = []
    for entry in disk.listdir(directory) if disk.exists(directory) else ():
        if entry not in state.versions and _stale(directory / entry):

            def set_aside(path: Path = directory / entry) -> None:
                trash.move(path, registry.root, disk)

            problem = "sealed, but never committed: a registration that was interrupted"
            found.append((Finding("leftover", str(directory / entry), problem, True), set_aside))
    return found


def _stale(path: Path) -> bool:
    """Whether whoever made this can't be at work any more."""
    try:
        return time.time() - path.stat().st_mtime > STALE_H * 3600
    except FileNotFoundError:
        return False
