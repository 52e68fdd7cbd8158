"""How the front and its workers talk: AF_UNIX SEQPACKET, fixed binary framing, memfd for matrices above INLINE_BYTES.

One message is one packet: a 32-byte head (kind, rows, columns, job, nanoseconds), then its payload. No pickle, and no
length field that a peer could lie with: the packet's own length is the length.

    front -> worker   TRIAL (JSON Trial; with a memfd if there are live rows): prove the version, then serve it
                      PREDICT (float64 rows inline) · PREDICT_MEMFD (rows in the descriptor)
                      USE_PLANS (a sealed memfd): predict with these from now on
    worker -> front   STAGE (name) · READY (JSON Ready) · REJECTED (JSON Rejected)
                      RESULT (float64 outputs inline; for a memfd job they are in the memfd, behind the rows)
                      NON_FINITE (row and column of a value in a memfd that the contract doesn't allow)

    front -> prover   PROVE (JSON Trial): compile and prove plans of the version
    prover -> front   PLANS (JSON Planned; with a sealed memfd if there are any), and it exits

    front -> decoder  DECODE (`rows`: its limit of memory in MiB), once
                      READ (the sizes of a message's frames, 64 bits each; they are in the memfd): what is its header?
                      ROWS (JSON Columns in the memfd): the rows of the message that was read last
    decoder -> front  HEADING (JSON Heading) · ROWS_READ (float64 rows in the sealed memfd) · REFUSED (JSON Refused)

Outputs are laid out estimator after estimator, each row-major. The front reads every result with its own copy and
checks length, job and finiteness: a worker is not trusted.
"""

from __future__ import annotations

import struct
from typing import Any

import msgspec

from modeld.wire.header import Parameters, RequestId
from modelreg.settings import DatasetSettings

HEAD = struct.Struct("<B3xIIIQQ")
TRIAL, PREDICT, PREDICT_MEMFD, USE_PLANS, PROVE, DECODE, READ, ROWS = 1, 2, 3, 4, 5, 6, 7, 8
STAGE, READY, REJECTED, RESULT, PLANS, NON_FINITE = 16, 17, 18, 19, 20, 21
HEADING, ROWS_READ, REFUSED = 22, 23, 24

#: A payload up to this size travels in the packet; a larger matrix travels as a memfd. Bytes. The kernel's default
#: socket buffer (208 KiB) holds two of them.
INLINE_BYTES = 64 * 1024
#: A memfd up to this size is kept by both sides for the worker's next matrix: memory that was written to before takes a
#: fraction of the time to write to. Bytes, for each worker.
KEPT_BYTES = 16 * 1024 * 1024
#: A packet is never larger. Bytes.
MAX_PACKET = INLINE_BYTES + HEAD.size


def head(kind: int, *, rows: int = 0, columns: int = 0, job: int = 0, ns: int = 0) -> bytes:
    return HEAD.pack(kind, rows, columns, 0, job, ns)


class Live(msgspec.Struct):
    """Rows that were answered lately, in the memfd that comes with the trial: `rows` × features, then the answers
    output by output, all row-major float64. The limits are those of the trial's settings, None where there is none."""

    version: str
    n_features: int
    #: Of the ordered feature list.
    fingerprint: str
    outputs: list[tuple[str, int]]
    rows: int
    max_mean_abs_diff: float | None = None
    min_rank_correlation: float | None = None


class LiveDifference(msgspec.Struct):
    """How a candidate's answers differ from the serving version's on the same rows, in one output.

    `rank_correlation` is Spearman's; None where all the values of one side are equal.
    """

    output: str
    rows: int
    mean_abs_diff: float
    rank_correlation: float | None


class Trial(msgspec.Struct):
    """What a worker or a prover is to prove. The first of `directories` that can be read has the sealed version;
    nothing of it is believed but what fits `digest`."""

    directories: list[str]
    model: str
    version: str
    digest: str
    golden_rtol: float
    timeout_s: float
    memory_limit_mb: int
    max_bytes: int
    #: Whether pickled parts, which are code, may be loaded.
    allow_code: bool = False
    #: A row may take this long.
    max_row_us: float = 50_000
    #: What to compare with; a memfd comes with it.
    live: Live | None = None
    #: Public key files, one of which must have signed the version; none: no signature is asked for.
    keys: list[str] = []
    #: Where the signature may be.
    signatures: list[str] = []
    #: What tells the current data sets, where the version is to be compared with them.
    datasets: DatasetSettings | None = None


class Ready(msgspec.Struct):
    """A proven version: its contract and what the proof took."""

    features: list[str]
    schema: str
    outputs: list[tuple[str, int]]
    nan_allowed: bool
    platform: str
    golden_rows: int
    row_us: float
    fast_path: bool
    #: A row's outputs don't depend on the rows beside it, to the bit: rows of several requests may be put together.
    row_independent: bool
    stages_ms: dict[str, float]
    #: What came of the comparison on live rows; empty where there was nothing to compare with.
    live: list[LiveDifference]
    #: What an operator should know of the version though it may serve.
    warnings: list[str] = []
    #: Why there can be no plans; empty: a prover may find some.
    unplanned_why: str = ""


class Rejected(msgspec.Struct):
    """Why a version can't be served. `again`: its files can't be had now, which says nothing about the version."""

    stage: str
    reason: str
    again: bool = False


class Planned(msgspec.Struct):
    """What a prover found: a sealed memfd with a proved plan for each output comes with this, or `why` there is none.

    `again`: the files can't be had now, which says nothing about the version.
    """

    took_ms: float
    why: str = ""
    again: bool = False


class Heading(msgspec.Struct):
    """A message's header without its rows."""

    op: str
    id: RequestId
    model_name: str | None
    model_version: str | None
    parameters: Parameters | None


class Columns(msgspec.Struct):
    """What the rows of a message are for: a version, its features in order, and how many rows there may be."""

    model: str
    version: str
    features: list[str]
    max_rows: int


class Refused(msgspec.Struct):
    """A message that gets an error reply."""

    code: str
    text: str
    parameters: dict[str, Any]
    request_id: RequestId
