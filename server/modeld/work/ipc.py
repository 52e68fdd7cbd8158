"""How the front and its workers talk: AF_UNIX SEQPACKET, fixed binary framing, memfd for matrices above INLINE_BYTES.

One message is one packet: a 32-byte head (kind, rows, columns, job, nanoseconds), then its payload. No pickle, and no
length field that a peer could lie with: the packet's own length is the length.

    front -> worker   TRIAL (JSON Trial) · PREDICT (float64 rows inline) · PREDICT_MEMFD (rows in the descriptor)
    worker -> front   STAGE (name) · READY (JSON Ready; with a sealed memfd if it has plans) · REJECTED (JSON Rejected)
                      RESULT (float64 outputs inline; for a memfd job they are in the memfd, behind the rows)
                      FAILED (a sentence)

Outputs are laid out estimator after estimator, each row-major. The front reads every result with its own copy and
checks length, job and finiteness: a worker is not trusted.
"""

from __future__ import annotations

import struct

import msgspec

from modelreg.settings import DatasetSettings

HEAD = struct.Struct("<B3xIIIQQ")
TRIAL, PREDICT, PREDICT_MEMFD = 1, 2, 3
STAGE, READY, REJECTED, RESULT, FAILED = 16, 17, 18, 19, 20

#: A payload up to this size travels in the packet; a larger matrix travels as a memfd. Bytes. The kernel's default
#: socket buffer (208 KiB) holds two of them.
INLINE_BYTES = 64 * 1024
#: A packet is never larger. Bytes.
MAX_PACKET = INLINE_BYTES + HEAD.size


def head(kind: int, *, rows: int = 0, columns: int = 0, job: int = 0, ns: int = 0) -> bytes:
    return HEAD.pack(kind, rows, columns, 0, job, ns)


class Trial(msgspec.Struct):
    """What a worker is to prove. The first of `directories` that can be read has the sealed version; nothing of it is
    believed but what fits `digest`."""

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
    #: Whether a sealed memfd with a plan for each output comes with this message; if not, why not.
    #: What an operator should know of the version though it may serve.
    warnings: list[str] = []
    planned: bool = False
    unplanned_why: str = ""


class Rejected(msgspec.Struct):
    """Why a version can't be served. `again`: its files can't be had now, which says nothing about the version."""

    stage: str
    reason: str
    again: bool = False
