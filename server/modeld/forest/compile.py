"""From LightGBM's text to a plan. Vectorised over all nodes: about a tenth of a second for 500 trees × 63 leaves."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from modeld.forest import format as form
from modeld.forest.errors import PlanUnsupported
from modeld.forest.format import Array, Header
from modeld.forest.lgbmodel import Ints, Trees, read
from modeld.forest.scaling import Scaling

#: auto: lanes where the model fits bytes, else walk.
Layout = Literal["auto", "lanes", "walk"]

#: Objectives whose outputs are exponentials of the sums, and those that may be signed squares of them (reg_sqrt).
_EXPONENTIALS = frozenset({"poisson", "gamma", "tweedie"})
_MAYBE_SQUARES = frozenset({"regression", "regression_l1", "fair", "quantile", "mape"})
_IDENTITIES = frozenset({"huber", "lambdarank", "rank_xendcg", "custom"})


def compile_text(
    text: str,
    *,
    start_iteration: int = 0,
    num_iteration: int | None = None,
    layout: Layout = "auto",
    scaling: Scaling | None = None,
) -> bytearray:
    """The plan of a LightGBM text model, or of some of its iterations; `scaling` is what its rows go through first.

    Raises:
        PlanUnsupported: the model has something that plans don't cover; the message says what.
    """
    try:
        trees = read(text, start_iteration=start_iteration, num_iteration=num_iteration)
        return compile_trees(trees, layout, scaling)
    except (ValueError, LookupError, ArithmeticError) as error:
        raise PlanUnsupported(f"the text isn't as LightGBM writes it: {error!r}") from error


def compile_trees(trees: Trees, layout: Layout = "auto", scaling: Scaling | None = None) -> bytearray:
    if scaling is not None:
        scaling.check(trees.n_features)
    if trees.n_outputs > form.MAX_OUTPUTS:
        raise PlanUnsupported(f"{trees.n_outputs} outputs")
    if layout != "walk":
        narrow = _Columns(trees, by_direction=False)
        if _fits_lanes(trees, narrow):
            return _lanes(trees, narrow, scaling)
        if layout == "lanes":
            raise PlanUnsupported("the model doesn't fit the lanes layout")
    wide = _Columns(trees, by_direction=True)
    if len(wide.columns) > form.MAX_COLUMNS16 or wide.most_thresholds > form.MAX_RANK16:
        raise PlanUnsupported(
            f"{len(wide.columns)} columns or {wide.most_thresholds} thresholds of a feature: too many for 16 bits"
        )
    if trees.n_nodes.max() >= form.MAX_LEAVES16:
        raise PlanUnsupported(f"a tree with {trees.n_nodes.max() + 1} leaves")
    return _walk(trees, wide, scaling)


def _transform(trees: Trees) -> tuple[int, float]:
    """What LightGBM's ConvertOutput does for the objective (src/objective/*.hpp of 4.7), and its sigmoid parameter."""
    kind, *words = trees.objective or ["custom"]
    values = dict(word.split(":", 1) for word in words if ":" in word)
    if kind in ("multiclass", "multiclassova") and int(values.get("num_class", "0")) != trees.n_outputs:
        raise PlanUnsupported(f"objective {' '.join(trees.objective)} with {trees.n_outputs} outputs")
    if kind in _MAYBE_SQUARES:
        return (form.SIGNED_SQUARE if "sqrt" in words else form.IDENTITY), 0.0
    if kind in _IDENTITIES:
        return form.IDENTITY, 0.0
    if kind in _EXPONENTIALS:
        return form.EXPONENTIAL, 0.0
    if kind in ("binary", "multiclassova"):
        return form.SIGMOID, float(values.get("sigmoid", "1"))
    if kind == "cross_entropy":
        return form.SIGMOID, 1.0
    if kind == "cross_entropy_lambda":
        return form.LOG1P_EXP, 0.0
    if kind == "multiclass":
        return form.SOFTMAX, 0.0
    raise PlanUnsupported(f"objective {kind!r}")


class _Columns:
    """What nodes look at: `of_node` has each node's column, `cut` the rank up to which it goes left.

    With `by_direction`, missing values that go left and right make two columns; without, nodes say it themselves.
    """

    def __init__(self, trees: Trees, *, by_direction: bool) -> None:
        numeric = ~trees.categorical
        self.of_node: Ints = np.zeros(len(trees.feature), np.int64)
        self.cut: Ints = np.zeros(len(trees.feature), np.int64)
        feature, cut, sections = self._thresholds(trees, numeric)
        self.cut[numeric] = cut
        # Every direction is the same where nothing counts as missing.
        right = (trees.missing[numeric] > 0) & ~trees.default_left[numeric] & by_direction
        keys = (feature * 4 + trees.missing[numeric]) * 2 + right
        distinct, self.of_node[numeric] = _distinct(keys)
        on = distinct // 8
        first, count, pivot = (section[on] for section in sections)
        columns = np.zeros(len(distinct), form.COLUMN)
        columns["feature"], columns["kind"] = on, distinct // 2 % 4
        columns["first"], columns["count"], columns["pivot"] = first, count, pivot
        columns["missing"] = np.where(distinct % 2 == 1, 0xFFFF, 0) if by_direction else form.MISSING8
        sets, self.words = self._sets(trees, len(distinct), 0xFFFF if by_direction else form.MISSING8)
        self.columns: Array = np.concatenate([columns, sets])

    def _thresholds(self, trees: Trees, numeric: NDArray[np.bool_]) -> tuple[Ints, Ints, list[Ints]]:
        """Each numeric node's feature and rank; and first block, blocks and first block of pivots by feature."""
        feature, threshold = trees.feature[numeric], trees.threshold[numeric]
        order = np.lexsort((threshold, feature))
        by_feature, sorted_ = feature[order], threshold[order]
        new = np.ones(len(order), np.bool_)
        new[1:] = (by_feature[1:] != by_feature[:-1]) | (sorted_[1:] != sorted_[:-1])
        number = np.cumsum(new) - 1
        n_distinct = np.bincount(by_feature[new], minlength=trees.n_features)
        before = np.cumsum(n_distinct) - n_distinct
        rank = np.empty(len(order), np.int64)
        rank[order] = number - before[by_feature]
        self.most_thresholds = int(n_distinct.max(initial=0))
        blocks = -(-n_distinct // form.BLOCK)
        pivot_blocks = -(-blocks // form.BLOCK)
        first, pivot = np.cumsum(blocks) - blocks, np.cumsum(pivot_blocks) - pivot_blocks
        self.thresholds = np.full(int(blocks.sum()) * form.BLOCK, np.inf)
        on, values = by_feature[new], sorted_[new]
        self.thresholds[first[on] * form.BLOCK + np.arange(len(on)) - before[on]] = values
        self.pivots = np.full(int(pivot_blocks.sum()) * form.BLOCK, np.inf)
        owner = np.repeat(np.arange(trees.n_features), blocks)
        at = pivot[owner] * form.BLOCK + np.arange(len(owner)) - first[owner]
        self.pivots[at] = self.thresholds[form.BLOCK - 1 :: form.BLOCK]
        return feature, rank, [first, blocks, pivot]

    def _sets(self, trees: Trees, column: int, missing: int) -> tuple[Array, Ints]:
        """A column for each distinct (feature, set of categories)."""
        found: dict[tuple[int, bytes], int] = {}
        rows: list[tuple[int, ...]] = []
        words: list[Ints] = []
        at = 0
        tree = np.repeat(np.arange(trees.n_trees), trees.n_nodes)
        for node in np.flatnonzero(trees.categorical).tolist():
            own = int(tree[node])
            number = int(trees.threshold[node])
            bound = int(trees.cat_first[own]) + number
            low, high = trees.cat_bounds[bound : bound + 2] + trees.cat_words_first[own]
            if number < 0 or not 0 <= low <= high <= len(trees.cat_words):
                raise PlanUnsupported("a set of categories that isn't there")
            bits = trees.cat_words[low:high]
            key = (int(trees.feature[node]), bits.tobytes())
            if key not in found:
                found[key] = column + len(rows)
                rows.append((key[0], form.CATEGORY, at, len(bits), 0, missing))
                words.append(bits)
                at += len(bits)
            self.of_node[node] = found[key]
        return np.array(rows, form.COLUMN), np.concatenate(words) if words else np.empty(0, np.int64)


def _distinct(keys: Ints) -> tuple[Ints, Ints]:
    distinct, inverse = np.unique(keys, return_inverse=True)
    return distinct, inverse.reshape(-1)


def _fits_lanes(trees: Trees, columns: _Columns) -> bool:
    return (
        len(columns.columns) <= 256
        and columns.most_thresholds < form.MISSING8
        and int(trees.n_nodes.max()) <= 255
    )


def _header(trees: Trees, columns: _Columns, layout: int, n_vectors: int, *, scaled: bool) -> Header:
    transform, sigmoid = _transform(trees)
    return Header(
        layout=layout,
        n_features=trees.n_features,
        n_columns=len(columns.columns),
        n_trees=trees.n_trees,
        n_outputs=trees.n_outputs,
        n_threshold_blocks=len(columns.thresholds) // form.BLOCK,
        n_pivot_blocks=len(columns.pivots) // form.BLOCK,
        n_words=len(columns.words),
        n_leaves=len(trees.leaf),
        n_nodes=len(trees.feature),
        n_vectors=n_vectors,
        transform=transform,
        average=int(trees.average),
        sigmoid=sigmoid,
        divisor=float(trees.n_trees // trees.n_outputs),
        scaled=int(scaled),
    )


def _sections(trees: Trees, columns: _Columns, scaling: Scaling | None) -> dict[str, Array]:
    n_leaves = trees.n_nodes + 1
    none = np.empty(0)
    return {
        "columns": columns.columns,
        "pivots": columns.pivots,
        "thresholds": columns.thresholds,
        "words": columns.words,
        "sizes": trees.n_nodes,
        "first_leaf": np.cumsum(n_leaves) - n_leaves,
        "leaves": trees.leaf,
        "means": none if scaling is None else scaling.means,
        "scales": none if scaling is None else scaling.scales,
    }


def _walk(trees: Trees, columns: _Columns, scaling: Scaling | None) -> bytearray:
    nodes = np.zeros(len(trees.feature) + 1, form.NODE)
    inner = nodes[:-1]
    inner["column"], inner["cut"] = columns.of_node, columns.cut
    inner["left"], inner["right"] = trees.left, trees.right
    first = np.cumsum(trees.n_nodes) - trees.n_nodes
    sections = _sections(trees, columns, scaling) | {"first_node": first, "nodes": nodes}
    header = _header(trees, columns, form.WALK, 0, scaled=scaling is not None)
    return form.assemble(header, sections)


def _lanes(trees: Trees, columns: _Columns, scaling: Scaling | None) -> bytearray:
    tree = np.repeat(np.arange(trees.n_trees), trees.n_nodes)
    position = np.arange(len(tree)) - (np.cumsum(trees.n_nodes) - trees.n_nodes)[tree]
    leaves, before, after = _labels(trees, tree, position)
    wraps = trees.default_left & (trees.missing > 0) & ~trees.categorical
    chunk, lane = np.divmod(np.arange(trees.n_trees), form.CHUNK)
    vectors = form.vectors_of(trees.n_trees)
    positions = np.array([trees.n_nodes[chunk == at].max() for at in range(len(vectors))], np.int64)
    n_vectors = int((vectors * positions).sum())
    first = np.cumsum(vectors * positions) - vectors * positions
    vector = first[chunk[tree]] + position * vectors[chunk[tree]] + lane[tree] // form.LANE
    bit = lane[tree] % form.LANE
    at = vector * form.LANE + bit
    made = {name: np.zeros(n_vectors * form.LANE, np.uint8) for name in ("slots", "cuts", "from", "to")}
    # Where a tree has no more nodes: no rank is above this cut.
    made["cuts"][:] = 255
    made["slots"][at] = columns.of_node
    made["cuts"][at] = columns.cut + wraps
    made["from"][at], made["to"][at] = before, after
    wrap_bits = np.zeros(n_vectors, np.uint64)
    np.bitwise_or.at(wrap_bits, vector[wraps], np.uint64(1) << bit[wraps].astype(np.uint64))
    sections = _sections(trees, columns, scaling) | made
    sections |= {"positions": positions, "wraps": wrap_bits, "leaves": leaves}
    header = _header(trees, columns, form.LANES, n_vectors, scaled=scaling is not None)
    return form.assemble(header, sections)


def _labels(trees: Trees, tree: Ints, position: Ints) -> tuple[Array, Ints, Ints]:
    """Leaves, and each node's labels: the leftmost leaf below its left side, and below its right side.

    Every tree's leftmost leaf of all is its leaf 0; leaves are renamed where LightGBM didn't number them so.
    """
    leftmost = np.zeros(len(tree), np.int64)
    first = np.cumsum(trees.n_nodes) - trees.n_nodes
    before, after = np.zeros_like(leftmost), np.zeros_like(leftmost)
    order = np.argsort(position, kind="stable")
    ends = np.cumsum(np.bincount(position)) if len(position) else np.empty(0, np.int64)
    # From the last position up: children come before their parents.
    for at in range(len(ends) - 1, -1, -1):
        nodes = order[ends[at - 1] if at else 0 : ends[at]]
        base = first[tree[nodes]]
        left, right = trees.left[nodes], trees.right[nodes]
        before[nodes] = np.where(left < 0, ~left, leftmost[np.where(left < 0, 0, base + left)])
        after[nodes] = np.where(right < 0, ~right, leftmost[np.where(right < 0, 0, base + right)])
        leftmost[nodes] = before[nodes]
    root = np.zeros(trees.n_trees, np.int64)
    root[trees.n_nodes > 0] = leftmost[first[trees.n_nodes > 0]]
    leaves = trees.leaf.copy()
    if root.any():
        n_leaves = trees.n_nodes + 1
        zero = np.cumsum(n_leaves) - n_leaves
        leaves[zero], leaves[zero + root] = trees.leaf[zero + root], trees.leaf[zero]
        own = root[tree]
        for labels in (before, after):
            labels[:] = np.where(labels == own, 0, np.where(labels == 0, own, labels))
    return leaves, before, after
