"""What ``import DIR`` did with each version that it found."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from modelreg.errors import ConflictError, RegistryError
from modelreg.importing import Found

if TYPE_CHECKING:
    from modelreg.registry import Registry


@dataclass(frozen=True, slots=True)
class Adopted:
    """One version. ``outcome``: ``imported``, ``exists``, ``would be imported`` or why it was refused."""

    source: str
    ref: str
    outcome: str
    ok: bool


def adopt(
    registry: Registry, versions: Iterable[Found], *, allow_joblib: bool, load: bool, dry_run: bool = False
) -> list[Adopted]:
    """Register what ``importing.discover`` found; what was in production there is promoted here, what failed there
    fails.

    A version that can't be registered doesn't keep the others.
    """
    done = []
    for found in versions:
        ref = f"{found.name}:{found.version or '(now)'}"
        try:
            done.append(_adopt(registry, found, allow_joblib, load, dry_run))
        except ConflictError as error:
            exists = "exists already" in str(error)
            done.append(Adopted(str(found.model), ref, "exists" if exists else str(error), exists))
        except RegistryError as error:
            done.append(Adopted(str(found.model), ref, str(error), False))
    return done


def _adopt(registry: Registry, found: Found, allow_joblib: bool, load: bool, dry_run: bool) -> Adopted:
    reason = f"imported from {found.model.parent.name}/{found.model.name}"
    made = registry.register(
        found.name,
        found.model,
        version=found.version,
        features=found.features,
        golden=None if load else False,
        meta={**found.facts, "imported_from": str(found.model.parent.name)},
        artefacts=found.artefacts,
        scaler=found.scaler,
        allow_joblib=allow_joblib,
        reason=reason,
        dry_run=dry_run,
    )
    if dry_run:
        return Adopted(str(found.model), made.ref, "would be imported", True)
    match (found.status or "").lower():
        case "production":
            registry.promote(made.ref, reason=f"{reason}, was in production there", override_gates=True)
        case "staged" | "staging":
            registry.promote(
                made.ref, to="staging", reason=f"{reason}, was staged there", override_gates=True
            )
        case "failed":
            registry.fail(made.ref, reason=f"{reason}, had failed there")
        case "archived" | "retired" | "deprecated":
            registry.archive(made.ref, reason=f"{reason}, was retired there")
    return Adopted(str(found.model), made.ref, "imported", True)
