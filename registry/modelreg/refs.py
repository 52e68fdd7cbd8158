"""References: ``name``, ``name:version``, ``name:<channel>``, ``name:production~1``, ``name@sha256:…``."""

from __future__ import annotations

import re
from dataclasses import dataclass

from modelreg.errors import ConflictError, NotFoundError, UsageError
from modelreg.names import check_channel, check_model_name, is_version
from modelreg.state import ModelState, VersionState

_DIGEST = re.compile(r"sha256:[0-9a-f]{6,64}")


@dataclass(frozen=True, slots=True)
class Ref:
    """A parsed reference; at most one of version, channel and digest is set. ``back``: holders before now."""

    name: str
    version: str | None = None
    channel: str | None = None
    back: int = 0
    digest: str | None = None

    @property
    def bare(self) -> bool:
        """Only a model's name was given."""
        return self.version is None and self.channel is None and self.digest is None


def parse_ref(text: str) -> Ref:
    """Read a reference.

    Raises:
        UsageError: it isn't one.
    """
    name, at, digest = text.partition("@")
    if at:
        if not _DIGEST.fullmatch(digest):
            raise UsageError(f"{text!r}: after @ comes sha256: and 6 to 64 hexadecimal digits")
        return Ref(check_model_name(name), digest=digest)
    name, colon, rest = text.partition(":")
    check_model_name(name)
    if not colon:
        return Ref(name)
    if is_version(rest):
        return Ref(name, version=rest)
    channel, tilde, count = rest.partition("~")
    if tilde and not (count.isascii() and count.isdigit() and len(count) <= 6):
        raise UsageError(f"{text!r}: after ~ comes how many holders back, as in production~1")
    try:
        return Ref(name, channel=check_channel(channel), back=int(count or 0))
    except UsageError:
        raise UsageError(f"{text!r}: {rest!r} is neither a version nor a channel") from None


def resolve(ref: Ref, state: ModelState) -> VersionState:
    """Find the version that ``ref`` means in ``state``; a deleted one is found too.

    A bare name means the production version, or the newest one that may be promoted where nothing is in
    production.

    Raises:
        NotFoundError: there is no such version.
        ConflictError: a shortened digest fits several versions.
    """
    if ref.version is not None:
        return _version(state, ref.version, f"{ref.name}:{ref.version}")
    if ref.digest is not None:
        found = [version for version in state.versions.values() if version.digest.startswith(ref.digest)]
        if not found:
            raise NotFoundError(
                f"no version of {ref.name} has the digest {ref.digest}; see: modelreg list {ref.name}"
            )
        if len(found) > 1:
            raise ConflictError(f"{ref.name}@{ref.digest} fits {len(found)} versions; give more digits")
        return found[0]
    channel = state.channels.get(ref.channel or "production")
    if ref.channel is None and (channel is None or channel.version is None):
        newest = [
            version for version in state.versions.values() if version.status in ("registered", "validated")
        ]
        if not newest:
            raise NotFoundError(f"{ref.name} has no usable version; see: modelreg list {ref.name}")
        return newest[-1]
    if channel is None or (channel.version is None and not ref.back):
        raise NotFoundError(
            f"nothing is in the channel {ref.channel!r} of {ref.name}; see: modelreg list {ref.name}"
        )
    if not ref.back:
        return _version(state, str(channel.version), f"{ref.name}:{channel.channel}")
    if ref.back > len(channel.previous):
        raise NotFoundError(
            f"{ref.name}:{channel.channel}~{ref.back}: only {len(channel.previous)} earlier; "
            f"see: modelreg history {ref.name}"
        )
    return _version(state, channel.previous[ref.back - 1], f"{ref.name}:{channel.channel}~{ref.back}")


def _version(state: ModelState, version: str, what: str) -> VersionState:
    found = state.versions.get(version)
    if found is None:
        raise NotFoundError(f"no version {what}; see: modelreg list {state.name}")
    return found
