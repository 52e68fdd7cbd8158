"""What the front and the watcher say to each other: JSON with its length in front, over an AF_UNIX stream."""

from __future__ import annotations

import struct

import msgspec

from modeld.config import Source, Watch
from modeld.swap.policy import Pointer

#: One message at most; more is a broken peer. Bytes.
MAX_MESSAGE = 256 * 1024 * 1024
#: Of a reason, so much travels. Characters.
MAX_REASON = 2000

_LENGTH = struct.Struct("<I")


class Begin(msgspec.Struct, tag=True):
    """The first message: what to watch, and how."""

    source: Source
    watch: Watch
    state_dir: str


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


class Remembered(msgspec.Struct):
    """A rejection that outlives a restart."""

    version: str
    digest: str
    stage: str
    reason: str
    at: str
    #: The operator who rolled back from it; empty: the daemon found it out.
    actor: str = ""
    mark_failed: bool = True


class Kept(msgspec.Struct):
    """The last known good version of a model, the generation that it had, and what was rejected."""

    pointer: Pointer
    generation: int
    rejected: list[Remembered] = []
    #: Its features in order; empty where the record was written by a daemon that didn't keep them.
    features: list[str] = []
    #: Digests that the source has named and that never served.
    unserved: list[str] = []


class Keep(msgspec.Struct, tag=True):
    """Keep a copy of this version in the state directory."""

    kept: Kept


class Use(msgspec.Struct, tag=True):
    """What the daemon serves, keeps warm or tries from now on, as (model, version): nobody should delete it."""

    versions: list[tuple[str, str]]


class LeaseFailed(msgspec.Struct, tag=True):
    """What is in use can't be leased, for a reason that wasn't told yet."""

    error: str


class Holds(msgspec.Struct, tag=True):
    """Remember which models are held, and why; all that are."""

    held: dict[str, str]


class Given(msgspec.Struct, tag=True):
    """Remember the generation of every model that was given last, and the digest that has it."""

    generations: dict[str, tuple[int, str]]


class KeepFailed(msgspec.Struct, tag=True):
    """No copy could be made."""

    model: str
    error: str


class Observed(msgspec.Struct, tag=True):
    """What the source says now. `error`: why it can't be read, and then `pointers` says nothing."""

    pointers: list[Pointer]
    watching: str
    token: int | None = None
    error: str | None = None
    #: Models that can't be read, or not be written, with the reason.
    broken: dict[str, str] = {}
    #: By model: digests marked failed, archived or deleted.
    unfit: dict[str, list[str]] = {}
    #: What the state directory remembers; in a watcher's first word only.
    kept: list[Kept] = []
    holds: dict[str, str] = {}
    generations: dict[str, tuple[int, str]] = {}


class Written(msgspec.Struct, tag=True):
    """The outcome of a Write. `code`: the registry's error code, None where it was done."""

    token: int
    model: str
    code: str | None = None
    error: str | None = None
    from_version: str | None = None
    to_version: str | None = None


ToWatcher = Begin | Look | Write | Keep | Use | Holds | Given
FromWatcher = Observed | Written | KeepFailed | LeaseFailed
decode_to_watcher = msgspec.json.Decoder(ToWatcher).decode
decode_from_watcher = msgspec.json.Decoder(FromWatcher).decode
_encode = msgspec.json.Encoder().encode


def encode(message: ToWatcher | FromWatcher) -> bytes:
    """A message with its length in front."""
    body = _encode(message)
    return _LENGTH.pack(len(body)) + body


class Inbox:
    """Bytes of a stream to whole messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[bytes]:
        """The messages that `data` completes. Raises ValueError for a length that no honest peer sends."""
        self._buffer += data
        messages = []
        while len(self._buffer) >= _LENGTH.size:
            (size,) = _LENGTH.unpack_from(self._buffer)
            if size > MAX_MESSAGE:
                raise ValueError(f"a message of {size} bytes")
            end = _LENGTH.size + size
            if len(self._buffer) < end:
                break
            messages.append(bytes(self._buffer[_LENGTH.size : end]))
            del self._buffer[:end]
        return messages
