"""Whether the trees of a LightGBM text file are trees: what LightGBM takes for granted when it predicts.

It reads a feature, a child or a set of categories wherever the file says, so a number out of range loads, passes every
test row that doesn't come by, and then answers with whatever lies in memory, or ends the process.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from modelreg.errors import LoadError
from modelreg.lgbtext import Header

Fields = dict[bytes, bytes]
Ints = NDArray[np.int64]


def check_trees(data: bytes, header: Header, *, where: str) -> None:
    """Check every number that LightGBM follows: features, children, sets of categories, and how many there are.

    `header` is `check_complete`'s. About 20 ms for 500 trees of 63 leaves.

    Raises:
        LoadError: what can't be.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", DeprecationWarning)  # numpy's, where a number is none
            problem = _problem([_fields(tree) for tree in _trees(data, header)], len(header.features))
    except (KeyError, ValueError, DeprecationWarning) as error:
        problem = f"a tree isn't as LightGBM writes it: {error}"
    if problem is not None:
        raise LoadError(f"{where}: {problem}; damaged or edited")


def _trees(data: bytes, header: Header) -> list[bytes]:
    if header.tree_sizes is None:  # as written before LightGBM 2.2
        text = data[header.trees_at - 1 : data.find(b"end of trees", header.trees_at)]
        return text.split(b"\nTree=")[1:]
    ends = np.cumsum(header.tree_sizes, dtype=np.int64) + header.trees_at
    return [data[end - size : end] for size, end in zip(header.tree_sizes, ends.tolist(), strict=True)]


def _fields(tree: bytes) -> Fields:
    pairs = [line.partition(b"=") for line in tree.split(b"\n")]
    fields = {name: value for name, separator, value in pairs if separator}
    if len(fields) != sum(bool(separator) for _, separator, _ in pairs):
        raise ValueError("a line is there twice")
    return fields


def _problem(trees: list[Fields], n_features: int) -> str | None:
    """What can't be, or None. Arrays have all trees' numbers of one kind one behind the other."""
    n_leaves = _numbers([tree[b"num_leaves"] for tree in trees], len(trees))
    if (n_leaves < 1).any():
        return "a tree without leaves"
    n_nodes = n_leaves - 1
    total = int(n_nodes.sum())
    grown = [tree for tree, nodes in zip(trees, n_nodes.tolist(), strict=True) if nodes]
    feature = _numbers([tree[b"split_feature"] for tree in grown], total)
    if (outside := (feature < 0) | (feature >= n_features)).any():
        return f"a split on feature {feature[outside][0]}, of {n_features}"
    nodes_of = np.repeat(n_nodes, n_nodes)
    own = np.arange(total) - np.repeat(np.cumsum(n_nodes) - n_nodes, n_nodes)
    for name in (b"left_child", b"right_child"):
        child = _numbers([tree[name] for tree in grown], total)
        # Nodes are numbered as they are split, so a child comes behind its parent: no path leads back.
        fine = np.where(child < 0, ~child <= nodes_of, (child > own) & (child < nodes_of))
        if not fine.all():
            return (
                f"node {own[~fine][0]} of a tree has the {name.decode().replace('_', ' ')} {child[~fine][0]}"
            )
    _count([tree[b"leaf_value"] for tree in trees], total + len(trees))
    _count([tree[b"threshold"] for tree in grown], total)
    categorical = _numbers([tree[b"decision_type"] for tree in grown], total) & 1 > 0
    with_sets = [
        tree for tree, nodes in zip(trees, _each_tree(categorical, n_nodes), strict=True) if nodes.any()
    ]
    return _each(with_sets, _sets_problem) or _each(
        [tree for tree in trees if tree.get(b"is_linear", b"0").strip() != b"0"],
        lambda tree: _linear_problem(tree, n_features),
    )


def _sets_problem(tree: Fields) -> str | None:
    sets = int(tree.get(b"num_cat", b"0"))
    categorical = _numbers([tree[b"decision_type"]], None) & 1 > 0
    which = np.array(tree[b"threshold"].split(), np.float64)[categorical]
    if not ((which >= 0) & (which < sets)).all():
        return "a split on a set of categories that isn't there"
    bounds = _numbers([tree[b"cat_boundaries"]], sets + 1)
    words = _numbers([tree[b"cat_threshold"]], None)
    if bounds[0] != 0 or (np.diff(bounds) < 0).any() or bounds[-1] != len(words):
        return "sets of categories that overlap, or that aren't there"
    return None


def _linear_problem(tree: Fields, n_features: int) -> str | None:
    leaves = int(tree[b"num_leaves"])
    terms = _numbers([tree[b"num_features"]], leaves)
    features = _numbers([tree[b"leaf_features"]], int(terms.sum()))
    _count([tree[b"leaf_coeff"]], len(features))
    _count([tree[b"leaf_const"]], leaves)
    if (terms < 0).any() or ((features < 0) | (features >= n_features)).any():
        return "a linear leaf with a feature that the model doesn't have"
    return None


def _each_tree(nodes: NDArray[np.bool_], n_nodes: Ints) -> list[NDArray[np.bool_]]:
    return np.split(nodes, np.cumsum(n_nodes)[:-1])


def _each(trees: list[Fields], check: Callable[[Fields], str | None]) -> str | None:
    return next((problem for tree in trees if (problem := check(tree)) is not None), None)


def _numbers(lines: list[bytes], count: int | None) -> Ints:
    """Raises ValueError or DeprecationWarning where something else is among them; ValueError for another count."""
    text = b" ".join(lines)
    numbers = np.fromstring(text, np.int64, sep=" ") if text.strip() else np.empty(0, np.int64)
    if count is not None and len(numbers) != count:
        raise ValueError(f"{len(numbers)} numbers where {count} belong")
    return numbers


def _count(lines: list[bytes], count: int) -> None:
    """As many words as that; what they say LightGBM itself reads."""
    if (found := sum(len(line.split()) for line in lines)) != count:
        raise ValueError(f"{found} numbers where {count} belong")
