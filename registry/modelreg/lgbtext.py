"""What LightGBM's text format says about itself, read without LightGBM.

Only the header is understood: feature names, their ranges in training, and how many bytes each tree takes.
The last finds a truncated file before LightGBM does, which would die of it or answer with half of the trees.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from modelreg.errors import LoadError

#: The most features that are believed.
MAX_FEATURES = 1_000_000


@dataclass(frozen=True, slots=True)
class Header:
    """The first lines of a LightGBM text file; ``infos`` are `[min:max]`, `a:b:c` (categories) or `none`."""

    features: tuple[str, ...]
    infos: tuple[str, ...]
    tree_sizes: tuple[int, ...] | None
    trees_at: int


def parse_header(data: bytes, *, where: str) -> Header:
    """Read the header.

    Raises:
        LoadError: this isn't LightGBM text, or it ends within the header.
    """
    head, separator, _ = data.partition(b"\n\n")
    trees_at = len(head) + len(separator)
    try:
        lines = head.decode().splitlines()
    except UnicodeDecodeError as error:
        raise LoadError(f"{where}: not LightGBM text (not UTF-8)") from error
    if not lines or lines[0] != "tree":
        raise LoadError(f"{where}: not LightGBM text (the first line isn't 'tree')")
    fields = dict(line.split("=", 1) for line in lines if "=" in line)
    if not separator or "feature_names" not in fields:
        raise LoadError(f"{where}: truncated within the header")
    features = tuple(fields["feature_names"].split())
    infos = tuple(fields.get("feature_infos", "").split())
    if len(features) > MAX_FEATURES or len(infos) not in (0, len(features)):
        raise LoadError(f"{where}: {len(features)} feature names, but {len(infos)} feature_infos")
    try:
        sizes = tuple(int(size) for size in fields["tree_sizes"].split()) if "tree_sizes" in fields else None
    except ValueError as error:
        raise LoadError(f"{where}: tree_sizes aren't numbers") from error
    return Header(features, infos, sizes, trees_at)


def check_complete(data: bytes, *, where: str) -> Header:
    """Check that each tree is where the header says and that the end is there. A help, not a proof.

    Raises:
        LoadError: what is missing.
    """
    header = parse_header(data, where=where)
    position = header.trees_at
    for index, size in enumerate(header.tree_sizes or ()):
        if size <= 0 or not data.startswith(b"Tree=%d\n" % index, position):
            raise LoadError(f"{where}: tree {index} isn't where the header says; truncated or edited")
        position += size
    if header.tree_sizes is not None and not data.startswith(b"end of trees", position):
        raise LoadError(f"{where}: 'end of trees' isn't where the header says; truncated or edited")
    tail = data.find(b"end of trees", position if header.tree_sizes is not None else header.trees_at)
    if tail < 0:
        raise LoadError(f"{where}: 'end of trees' is missing; truncated")
    if b"\nparameters:" in data[tail:] and b"\nend of parameters" not in data[tail:]:
        raise LoadError(f"{where}: 'end of parameters' is missing; truncated")
    return header


def value_range(info: str) -> tuple[float, float] | tuple[float, ...] | None:
    """The values that a feature took: (min, max) for numbers, all categories for categories, None if unused.

    Categories come as a tuple of any length but 2; two categories come as (a, b, a).
    """
    try:
        if info.startswith("[") and info.endswith("]"):
            low, high = (float(part) for part in info[1:-1].split(":"))
            return (low, high) if math.isfinite(low) and math.isfinite(high) and low <= high else None
        categories = tuple(float(part) for part in info.split(":"))
    except ValueError:
        return None
    if not all(math.isfinite(category) for category in categories):
        return None
    return (*categories, categories[0]) if len(categories) == 2 else categories
