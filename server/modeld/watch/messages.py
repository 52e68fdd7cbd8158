"""What the front and the watcher say to each other: JSON over AF_UNIX SEQPACKET, tagged structs."""

from __future__ import annotations

import msgspec

from modeld.config import Source, Watch
from modeld.swap.policy import Pointer

#: One message at most. Bytes.
MAX_MESSAGE = 192 * 1024


class Begin(msgspec.Struct, tag=True):
    """The first message: what to watch, and how."""

    source: Source
    watch: Watch


class Look(msgspec.Struct, tag=True):
    """Look at the source now and answer with an Observed that bears `token`."""

    token: int


class Write(msgspec.Struct, tag=True):
    """Point `model` away from `failed`, by compare-and-set: only while the channel names `expect`.

    `to` None means the previous distinct version.
    """

    token: int
    model: str
    expect: str
    to: str | None
    mark_failed: bool
    reason: str
    actor: str


class Observed(msgspec.Struct, tag=True):
    """What the source says now. `error`: why it can't be read, and then `pointers` says nothing."""

    pointers: list[Pointer]
    watching: str
    token: int | None = None
    error: str | None = None
    #: Models that can be read but not written, with the reason.
    broken: dict[str, str] = {}


class Written(msgspec.Struct, tag=True):
    """The outcome of a Write. `code`: the registry's error code, None where it was done."""

    token: int
    model: str
    code: str | None = None
    error: str | None = None
    from_version: str | None = None
    to_version: str | None = None


ToWatcher = Begin | Look | Write
FromWatcher = Observed | Written
encode = msgspec.json.Encoder().encode
decode_to_watcher = msgspec.json.Decoder(ToWatcher).decode
decode_from_watcher = msgspec.json.Decoder(FromWatcher).decode
