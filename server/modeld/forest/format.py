"""The plan: a LightGBM model as flat data, and the check that has to pass before the kernel sees it.

A plan is one block of bytes, little-endian: a header, then sections, each at a multiple of 64 bytes, their lengths
given by the header's counts. Nothing else is in it, and no byte too many.

    header      128 bytes, see HEADER
    columns     24 bytes each: feature, kind, first, count, pivot, missing (see the kernel's struct column)
    pivots      float64, blocks of 16: the last threshold of each block of thresholds, +inf behind
    thresholds  float64, blocks of 16, sorted, +inf behind
    words       uint32: bit sets of categories
    sizes       uint32, nodes of each tree
    first_leaf  uint32, where each tree's leaves begin
    leaves      float64
    means       float64 a feature, where the plan is scaled
    scales      float64 a feature, where the plan is scaled
    LANES  positions uint32 a chunk (256 trees); slots, cuts, from, to: 64 uint8 a vector; wraps: uint64 a vector
    WALK   first_node uint32 a tree; nodes, 8 bytes each: column, cut, left, right (a node of the tree, or ~leaf)

A *column* is what nodes look at: the rank of a feature's value among the thresholds that the model has for it, with
one way of telling missing values; or whether the value is in one set of categories. In a scaled plan the value is
(what came - the feature's mean) / its scale, in float64, before all else.

**Why a checked plan can't read out of bounds or run for ever**, whatever made it. Each index that the kernel takes from
a plan is one of these, and the check has seen all of them: a column's feature (below n_features), its blocks of
thresholds, of pivots and its words (inside their sections, and at least one block, as the search for a block never
gives one at or above the count; means and scales have n_features each), a slot or a node's column (below n_columns), a
label (below its tree's leaves, as it is 0 or some `to` of its tree), a child (above its node and below its tree's size,
or one of its tree's leaves), first_leaf and first_node (exactly the sums of what came before). Ranks and cuts are
compared and never used as an index, so their values don't matter. Each loop of the kernel ends at one of the header's
or tables' counts, except the walk and the search for a block: a walk's node index grows with each step, and the search
halves its count. The memory must not change after the check: it is a sealed memfd, or bytes of our own.
"""

from __future__ import annotations

import ctypes
import math
import struct
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from modeld.forest.errors import PlanRefused

MAGIC = b"modeldPL"
VERSION = 2
LANES, WALK = 1, 2
VALUE, ZERO_MISSING, NAN_MISSING, CATEGORY = range(4)
IDENTITY, SIGMOID, SOFTMAX, EXPONENTIAL, SIGNED_SQUARE, LOG1P_EXP = range(6)
#: Thresholds in a block; trees in a vector; trees in a chunk; bytes that a section begins at a multiple of.
BLOCK, LANE, CHUNK, ALIGN = 16, 64, 256, 64
#: The rank of a missing value in the lanes layout, and so one more than thresholds may make.
MISSING8 = 255
#: What the walk's 16-bit numbers hold.
MAX_COLUMNS16, MAX_RANK16, MAX_LEAVES16 = 65536, 65534, 32768
#: Values a row: what the front has to find memory for on a worker's word.
MAX_OUTPUTS = 4096
#: Bounds that keep sums of counts far from any overflow. A plan has to have as many bytes anyway.
_MOST = 1 << 31

#: magic, version, layout, bytes in all, features, columns, trees, outputs, blocks of thresholds, blocks of pivots,
#: words, leaves, nodes, vectors, transform, average (0 or 1), sigmoid, divisor, scaled (0 or 1).
HEADER = struct.Struct("<8sIIQ10III2dI36x")
COLUMN = np.dtype([(name, "<u4") for name in ("feature", "kind", "first", "count", "pivot", "missing")])
NODE = np.dtype([("column", "<u2"), ("cut", "<u2"), ("left", "<i2"), ("right", "<i2")])

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Header:
    """A plan's counts, in the order of HEADER."""

    layout: int
    n_features: int
    n_columns: int
    n_trees: int
    n_outputs: int
    n_threshold_blocks: int
    n_pivot_blocks: int
    n_words: int
    n_leaves: int
    n_nodes: int
    n_vectors: int
    transform: int
    average: int
    sigmoid: float
    divisor: float
    scaled: int

    def sections(self) -> list[tuple[str, np.dtype[Any], int]]:
        """Name, element and number of elements of each section, in order."""
        u4, f8 = np.dtype("<u4"), np.dtype("<f8")
        both = [
            ("columns", COLUMN, self.n_columns),
            ("pivots", f8, self.n_pivot_blocks * BLOCK),
            ("thresholds", f8, self.n_threshold_blocks * BLOCK),
            ("words", u4, self.n_words),
            ("sizes", u4, self.n_trees),
            ("first_leaf", u4, self.n_trees),
            ("leaves", f8, self.n_leaves),
            ("means", f8, self.n_features * self.scaled),
            ("scales", f8, self.n_features * self.scaled),
        ]
        if self.layout == WALK:
            # One node more than there are: what stands in for the root of a last tree that has none.
            return [*both, ("first_node", u4, self.n_trees), ("nodes", NODE, self.n_nodes + 1)]
        u1, bytes_ = np.dtype("u1"), self.n_vectors * LANE
        return [
            *both,
            ("positions", u4, n_chunks(self.n_trees)),
            *((name, u1, bytes_) for name in ("slots", "cuts", "from", "to")),
            ("wraps", np.dtype("<u8"), self.n_vectors),
        ]

    def pack(self, total: int) -> bytes:
        return HEADER.pack(
            MAGIC, VERSION, self.layout, total, self.n_features, self.n_columns, self.n_trees, self.n_outputs,
            self.n_threshold_blocks, self.n_pivot_blocks, self.n_words, self.n_leaves, self.n_nodes, self.n_vectors,
            self.transform, self.average, self.sigmoid, self.divisor, self.scaled,
        )  # fmt: skip


def n_chunks(trees: int) -> int:
    return -(-trees // CHUNK)


def vectors_of(trees: int) -> Array:
    """The vectors of each chunk."""
    chunks = np.arange(n_chunks(trees))
    return -(-np.minimum(trees - chunks * CHUNK, CHUNK) // LANE)


def aligned(size: int) -> int:
    return -(-size // ALIGN) * ALIGN


def assemble(header: Header, sections: dict[str, Array]) -> bytearray:
    """A plan from its parts."""
    places: list[tuple[int, Array]] = []
    at = HEADER.size
    for name, dtype, count in header.sections():
        at = aligned(at)
        array = np.ascontiguousarray(sections[name], dtype)
        assert array.size == count, f"{name}: {array.size} elements, not {count}"
        places.append((at, array))
        at += array.nbytes
    plan = bytearray(aligned(at))
    plan[: HEADER.size] = header.pack(len(plan))
    for place, array in places:
        plan[place : place + array.nbytes] = array.tobytes()
    return plan


class Checked:
    """A plan that has passed the check: what the kernel needs, and what keeps its memory. Immutable."""

    __slots__ = ("header", "nbytes", "sections", "struct")

    def __init__(self, header: Header, sections: dict[str, Array], nbytes: int) -> None:
        self.header = header
        self.sections = sections
        self.nbytes = nbytes
        self.struct = PlanStruct(
            **{name: array.ctypes.data for name, array in sections.items()},
            **{name: getattr(header, name) for name in _FROM_HEADER},
        )


#: What the kernel's struct plan takes from the header as it is.
_FROM_HEADER = (
    "layout", "n_features", "n_columns", "n_trees", "n_outputs", "transform", "average", "scaled", "sigmoid",
    "divisor",
)  # fmt: skip


class PlanStruct(ctypes.Structure):
    """The kernel's struct plan."""

    _fields_ = (
        *(
            (name, ctypes.c_void_p)
            for name in (
                "columns", "thresholds", "pivots", "words", "first_leaf", "sizes", "leaves", "means", "scales",
                "positions", "slots", "cuts", "from", "to", "wraps", "first_node", "nodes",
            )
        ),
        *(
            (name, ctypes.c_uint32)
            for name in (
                "layout", "n_features", "n_columns", "n_trees", "n_outputs", "transform", "average", "scaled",
            )
        ),
        ("sigmoid", ctypes.c_double),
        ("divisor", ctypes.c_double),
    )  # fmt: skip


def total_bytes(plan: memoryview) -> int:
    """What the plan at the beginning of `plan` says of its length. Raises PlanRefused where that can't be."""
    if len(plan) < HEADER.size:
        raise PlanRefused(f"{len(plan)} bytes are too few for a plan")
    magic, version, _, total = struct.unpack_from("<8sIIQ", plan)
    if magic != MAGIC or version != VERSION:
        raise PlanRefused(f"not a plan of version {VERSION}")
    if not HEADER.size <= total <= len(plan) or total % ALIGN:
        raise PlanRefused(f"the plan says that it has {total} bytes; there are {len(plan)}")
    return int(total)


def check(plan: memoryview) -> Checked:
    """Check everything that the kernel relies on. A few milliseconds for 500 trees × 63 leaves at most.

    The memory has to be one that nobody can change any more, and at an address that float64 may have.

    Raises:
        PlanRefused: with what is wrong.
    """
    if total_bytes(plan) != len(plan):
        raise PlanRefused(f"{len(plan) - total_bytes(plan)} bytes behind the plan")
    _, _, layout, _, *rest = HEADER.unpack_from(plan)
    header = Header(layout, *rest)
    _check_header(header)
    raw = np.frombuffer(plan, np.uint8)
    if raw.ctypes.data % 8:
        raise PlanRefused("the plan isn't aligned in memory")
    sections: dict[str, Array] = {}
    at = HEADER.size
    for name, dtype, count in header.sections():
        at = aligned(at)
        size = count * dtype.itemsize
        if at + size > len(plan):
            raise PlanRefused(f"section {name} ends behind the plan")
        sections[name] = raw[at : at + size].view(dtype)
        at += size
    if aligned(at) != len(plan):
        raise PlanRefused(f"the sections end at byte {at}, the plan at {len(plan)}")
    _check_columns(header, sections)
    _check_leaves(header, sections)
    _check_scaling(sections)
    (_check_lanes if layout == LANES else _check_walk)(header, sections)
    return Checked(header, sections, len(plan))


def _require(holds: Any, what: str) -> None:
    if not holds:
        raise PlanRefused(what)


def _check_header(h: Header) -> None:
    _require(h.layout in (LANES, WALK), f"layout {h.layout}")
    _require(0 < h.n_features < _MOST, f"{h.n_features} features")
    _require(
        0 < h.n_trees < _MOST and 0 < h.n_outputs <= MAX_OUTPUTS, f"{h.n_trees} trees, {h.n_outputs} outputs"
    )
    _require(h.n_trees % h.n_outputs == 0, f"{h.n_trees} trees for {h.n_outputs} outputs")
    for count in (h.n_leaves, h.n_nodes, h.n_words, h.n_threshold_blocks, h.n_pivot_blocks, h.n_vectors):
        _require(count < _MOST, f"a count of {count}")
    _require(h.layout == LANES or not h.n_vectors, "vectors in the walk layout")
    _require(h.n_columns <= (256 if h.layout == LANES else MAX_COLUMNS16), f"{h.n_columns} columns")
    _require(h.transform <= LOG1P_EXP and h.average <= 1, f"transform {h.transform}, average {h.average}")
    _require(h.scaled <= 1, f"scaled {h.scaled}")
    _require(math.isfinite(h.sigmoid) and math.isfinite(h.divisor) and h.divisor > 0, "sigmoid or divisor")


def _check_columns(h: Header, s: dict[str, Array]) -> None:
    columns = s["columns"]
    if not len(columns):
        # Ranks are found a column: without any, a node would look at memory that nobody has written.
        _require(not h.n_nodes, "nodes without columns")
        return
    kind = columns["kind"]
    first, count, pivot = (columns[name].astype(np.int64) for name in ("first", "count", "pivot"))
    numeric = kind != CATEGORY
    _require(columns["feature"].max() < h.n_features, "a column's feature")
    _require(kind.max() <= CATEGORY, "a column's kind")
    last = (first + count)[numeric]
    blocks = -(-count // BLOCK)
    _require(count[numeric].min(initial=1) >= 1, "a column without thresholds")
    _require(last.max(initial=0) <= h.n_threshold_blocks, "a column's thresholds")
    _require((pivot + blocks)[numeric].max(initial=0) <= h.n_pivot_blocks, "a column's pivots")
    _require((first + count)[~numeric].max(initial=0) <= h.n_words, "a column's categories")


def _check_leaves(h: Header, s: dict[str, Array]) -> None:
    n_leaves = s["sizes"].astype(np.int64) + 1
    ends = np.cumsum(n_leaves)
    _require(ends[-1] == h.n_leaves, "the trees' sizes don't sum up to the leaves")
    _require(h.n_nodes == h.n_leaves - h.n_trees, "nodes and leaves don't go together")
    _require((s["first_leaf"] == ends - n_leaves).all(), "a tree's first leaf")
    _require(np.isfinite(s["leaves"]).all(), "a leaf isn't finite")


def _check_scaling(s: dict[str, Array]) -> None:
    _require(np.isfinite(s["means"]).all(), "a mean isn't finite")
    _require((np.isfinite(s["scales"]) & (s["scales"] != 0)).all(), "a scale is zero or isn't finite")


def _check_lanes(h: Header, s: dict[str, Array]) -> None:
    vectors, positions = vectors_of(h.n_trees), s["positions"].astype(np.int64)
    _require((vectors * positions).sum() == h.n_vectors, "the chunks' positions don't sum up to the vectors")
    slots, to = s["slots"], s["to"]
    _require(slots.max(initial=0) < max(h.n_columns, 1), "a slot")
    at = 0
    for chunk, (width, deep) in enumerate(zip(vectors.tolist(), positions.tolist(), strict=True)):
        sizes = s["sizes"][chunk * CHUNK : (chunk + 1) * CHUNK]
        _require(sizes.max() <= min(deep, 255), "a tree's size")
        labels = to[at * LANE : (at + width * deep) * LANE].reshape(deep, width * LANE)
        _require((labels.max(0, initial=0)[: len(sizes)] <= sizes).all(), "a leaf's label")
        at += width * deep


def _check_walk(h: Header, s: dict[str, Array]) -> None:
    sizes, nodes = s["sizes"].astype(np.int64), s["nodes"]
    ends = np.cumsum(sizes)
    _require(ends[-1] == h.n_nodes and (s["first_node"] == ends - sizes).all(), "a tree's first node")
    _require(sizes.max() < MAX_LEAVES16, "a tree's size")
    _require(nodes["column"].max() < max(h.n_columns, 1), "a node's column")
    tree = np.repeat(np.arange(h.n_trees), sizes)
    own = np.arange(h.n_nodes) - (ends - sizes)[tree]
    for side in ("left", "right"):
        child = nodes[side][: h.n_nodes].astype(np.int64)
        inner = (child > own) & (child < sizes[tree])
        _require((inner | ((child < 0) & (~child <= sizes[tree]))).all(), "a child")
