"""Where a version comes from, and what was derived from it; both across models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Relative:
    """``ref`` derives from ``parent``. ``distance``: −1 for the version's parent, 1 for its children, and so on."""

    ref: str
    parent: str | None
    distance: int


@dataclass(frozen=True, slots=True)
class Lineage:
    """``ancestors``: the parent first. ``descendants``: children first, each generation in order of name."""

    ref: str
    ancestors: tuple[Relative, ...]
    descendants: tuple[Relative, ...]


def trace(ref: str, parents: Mapping[str, str | None]) -> Lineage:
    """Follow ``parents`` (reference → the reference that it derives from) both ways.

    A parent that isn't a key (deleted, or of another registry) ends the line; a circle ends where it closes.
    """
    ancestors: list[Relative] = []
    seen = {ref}
    at = parents.get(ref)
    while at is not None and at not in seen:
        seen.add(at)
        ancestors.append(Relative(at, parents.get(at), -len(ancestors) - 1))
        at = parents.get(at)
    children: dict[str, list[str]] = {}
    for child, parent in parents.items():
        if parent is not None:
            children.setdefault(parent, []).append(child)
    descendants: list[Relative] = []
    generation, distance, known = [ref], 0, {ref}
    while generation:
        distance += 1
        following = []
        for parent in generation:
            for child in sorted(children.get(parent, ())):
                if child not in known:
                    known.add(child)
                    following.append(child)
                    descendants.append(Relative(child, parent, distance))
        generation = following
    return Lineage(ref, tuple(ancestors), tuple(descendants))
