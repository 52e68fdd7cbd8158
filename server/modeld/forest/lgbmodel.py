"""LightGBM's text format as arrays: all trees' numbers of one kind one behind the other.

What is read here is what LightGBM's own loader reads (src/boosting/gbdt_model_text.cpp, src/io/tree.cpp of 4.7). Only
for processes that may die, and for libraries' users: the daemon's front never parses a model.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modeld.forest.errors import PlanUnsupported

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

#: More than anybody has: what memory is taken for on a header's word.
MAX_FEATURES = 1 << 20

_FIELD = re.compile(r"^(\w+)=(.*)$", re.MULTILINE)
_CATEGORICAL, _DEFAULT_LEFT, _MISSING_SHIFT = 1, 2, 2


@dataclass(slots=True)
class Trees:
    """A model: nodes and leaves of all trees one behind the other; children are numbered in their tree, leaves ~leaf.

    `n_nodes` has each tree's nodes; it has one leaf more. `cat_index` is a categorical node's set among its tree's,
    `cat_first` where each tree's sets begin in `cat_bounds`, and `cat_words_first` where its words do in `cat_words`.
    """

    n_features: int
    n_outputs: int
    objective: list[str]
    average: bool
    n_nodes: Ints
    feature: Ints
    threshold: Floats
    categorical: NDArray[np.bool_]
    default_left: NDArray[np.bool_]
    missing: Ints
    left: Ints
    right: Ints
    leaf: Floats
    cat_bounds: Ints
    cat_words: Ints
    cat_first: Ints
    cat_words_first: Ints

    @property
    def n_trees(self) -> int:
        return len(self.n_nodes)


def read(text: str, *, start_iteration: int = 0, num_iteration: int | None = None) -> Trees:
    """Read a model, or some iterations of it: `num_iteration` None or ≤ 0 means all from `start_iteration` on.

    Raises:
        PlanUnsupported: linear trees, or text that isn't as LightGBM writes it.
    """
    if not isinstance(text, str):
        raise PlanUnsupported(f"LightGBM's text is a str, not {type(text).__name__}")
    head, *parts = text.split("\nTree=")
    header = dict(_FIELD.findall(head))
    try:
        n_outputs = int(header.get("num_tree_per_iteration") or header["num_class"])
        n_features = int(header["max_feature_idx"]) + 1
    except KeyError as error:
        raise PlanUnsupported(f"not LightGBM's text format: its header has no {error.args[0]}") from error
    except ValueError as error:
        raise PlanUnsupported(f"the header isn't LightGBM's: {error}") from error
    if n_outputs < 1 or not 0 < n_features <= MAX_FEATURES:
        raise PlanUnsupported(f"{n_outputs} outputs, {n_features} features")
    if not parts:
        raise PlanUnsupported("the model has no trees")
    parts[-1], end, _ = parts[-1].partition("\nend of trees")
    if not end:
        raise PlanUnsupported("the text ends before the trees do: it was cut off")
    first = min(max(start_iteration, 0), len(parts) // n_outputs) * n_outputs
    last = first + num_iteration * n_outputs if num_iteration is not None and num_iteration > 0 else None
    trees = [dict(_FIELD.findall(part)) for part in parts[first:last]]
    if not trees or len(trees) % n_outputs:
        raise PlanUnsupported(f"{len(trees)} trees for {n_outputs} outputs")
    if any(tree.get("is_linear", "0") != "0" for tree in trees):
        raise PlanUnsupported("linear trees")
    try:
        return _arrays(header, trees, n_features, n_outputs, "average_output" in head.split("\n"))
    except (KeyError, ValueError, IndexError) as error:
        raise PlanUnsupported(f"a tree isn't as LightGBM writes it: {error!r}") from error


def _arrays(
    header: dict[str, str], trees: list[dict[str, str]], n_features: int, n_outputs: int, average: bool
) -> Trees:
    n_nodes = np.array([int(tree["num_leaves"]) - 1 for tree in trees], np.int64)
    n_sets = np.array([int(tree.get("num_cat", "0")) for tree in trees], np.int64)
    grown = [tree for tree, nodes in zip(trees, n_nodes.tolist(), strict=True) if nodes]
    with_sets = [tree for tree, sets in zip(trees, n_sets.tolist(), strict=True) if sets]
    total = int(n_nodes.sum())

    def gather(key: str, of: list[dict[str, str]], dtype: Any, count: int | None) -> Any:
        values = _numbers(" ".join([tree[key] for tree in of]), dtype)
        if count is not None and len(values) != count:
            raise ValueError(f"{key}: {len(values)} numbers, not {count}")
        return values

    decisions = gather("decision_type", grown, np.int64, total)
    bounds = gather("cat_boundaries", with_sets, np.int64, int((n_sets + 1)[n_sets > 0].sum()))
    has_sets = n_sets > 0
    cat_first = np.zeros(len(trees), np.int64)
    cat_first[has_sets] = _starts((n_sets + 1)[has_sets])
    words_first = np.zeros(len(trees), np.int64)
    n_words = bounds[(cat_first + n_sets)[has_sets]] if len(bounds) else bounds
    words_first[has_sets] = _starts(n_words)
    categorical = (decisions & _CATEGORICAL) > 0
    if (categorical & (np.repeat(n_sets, n_nodes) == 0)).any():
        raise PlanUnsupported("a categorical split in a tree that says it has none")
    found = Trees(
        n_features=n_features,
        n_outputs=n_outputs,
        objective=header.get("objective", "").split(),
        average=average,
        n_nodes=n_nodes,
        feature=gather("split_feature", grown, np.int64, total),
        threshold=gather("threshold", grown, np.float64, total),
        categorical=categorical,
        default_left=(decisions & _DEFAULT_LEFT) > 0,
        missing=(decisions >> _MISSING_SHIFT) & 3,
        left=gather("left_child", grown, np.int64, total),
        right=gather("right_child", grown, np.int64, total),
        leaf=gather("leaf_value", trees, np.float64, total + len(trees)),
        cat_bounds=bounds,
        cat_words=gather("cat_threshold", with_sets, np.int64, int(n_words.sum())),
        cat_first=cat_first,
        cat_words_first=words_first,
    )
    _validate(found)
    return found


def _validate(trees: Trees) -> None:
    """What LightGBM takes for granted, and what the compiler does."""
    tree = np.repeat(np.arange(trees.n_trees), trees.n_nodes)
    own = np.arange(len(tree)) - _starts(trees.n_nodes)[tree]
    for child in (trees.left, trees.right):
        inner = (child > own) & (child < trees.n_nodes[tree])
        if not (inner | ((child < 0) & (~child <= trees.n_nodes[tree]))).all():
            raise PlanUnsupported("a child that isn't behind its parent")
    if ((trees.feature < 0) | (trees.feature >= trees.n_features)).any():
        raise PlanUnsupported("a feature that the model doesn't have")
    if not np.isfinite(trees.leaf).all() or np.isnan(trees.threshold).any() or (trees.missing > 2).any():
        raise PlanUnsupported("a leaf that isn't finite, or a threshold or missing type that is none")


def _starts(sizes: Ints) -> Ints:
    return np.cumsum(sizes) - sizes


def _numbers(text: str, dtype: Any) -> Any:
    return np.fromstring(text, dtype, sep=" ") if text.strip() else np.empty(0, dtype)
