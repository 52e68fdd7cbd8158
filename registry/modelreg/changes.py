"""What each verb that writes decides. Pure: a state in, operations out, or a refusal."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Any, Final, Literal

from modelreg.errors import ConflictError, NotFoundError, UsageError
from modelreg.modellog import Decision
from modelreg.names import check_channel, check_tag, is_version
from modelreg.records import ApproveOp, ChannelOp, KnownOp, StatusOp, TagOp, UntagOp
from modelreg.refs import Ref, parse_ref, resolve
from modelreg.state import PROMOTABLE, TRANSITIONS, ChannelState, ModelState, VersionState

Decide = Callable[[ModelState], Decision]


class _Any(Enum):
    ANY = "any"


#: No condition on what the channel holds.
ANY: Final = _Any.ANY

Expected = str | None | Literal[_Any.ANY]


def promotion(ref: Ref, channel: str, expect: Expected, allow_schema_change: bool = False) -> Decide:
    """Point ``channel`` at what ``ref`` means."""
    check_channel(channel)

    def decide(state: ModelState) -> Decision:
        conditions = _check_expected(state, channel, expect)
        found = resolve(ref, state)
        if ref.bare and holder(state, channel) == found.version:
            raise ConflictError(
                f"{ref.name} alone means {ref.name}:{found.version}, already in {channel}; name a version"
            )
        _refuse_unpromotable(state.name, found)
        now = state.channels.get(channel)
        # Saying for the first time that another schema is meant is something new.
        if (
            now is not None
            and now.version == found.version
            and now.allow_schema_change >= allow_schema_change
        ):
            raise AlreadyThereError(now, found)
        op = ChannelOp(channel, found.version, allow_schema_change=allow_schema_change)
        return Decision([op], conditions)

    return decide


class AlreadyThereError(ConflictError):
    """A channel holds just that version, so there is nothing to decide. Callers of the registry never see it."""

    def __init__(self, channel: ChannelState, found: VersionState) -> None:
        super().__init__(f"{channel.channel} holds {found.version} already")
        self.channel = channel
        self.found = found


def retreat(name: str, to: str | None, channel: str, mark_failed: bool, expect: Expected) -> Decide:
    """Point ``channel`` back, and mark the version that it leaves as failed if wanted."""
    check_channel(channel)
    target = None if to is None else parse_ref(f"{name}:{to}" if is_version(to) else to)
    if target is not None and target.name != name:
        raise UsageError(f"--to {to}: that is another model than {name}")

    def decide(state: ModelState) -> Decision:
        conditions = _check_expected(state, channel, expect)
        now = holder(state, channel)
        found = _previous(state, channel) if target is None else resolve(target, state)
        _refuse_unpromotable(name, found)
        if now == found.version:
            raise ConflictError(f"{name}: {channel} holds {now} already; roll back to another version")
        ops: list[KnownOp] = [ChannelOp(channel, found.version)]
        if mark_failed and now is not None and state.versions[now].status != "failed":
            _refuse_transition(name, state.versions[now], "failed")
            ops.append(StatusOp(now, "failed"))
        return Decision(ops, conditions)

    return decide


def next_retreat(state: ModelState, channel: str, ops: Sequence[KnownOp]) -> str | None:
    """Where the rollback after one with ``ops`` would go; ``state``: before it."""
    now = state.channels.get(channel)
    # What the channel gets, and what is marked as failed.
    out = {op.version for op in ops if isinstance(op, ChannelOp | StatusOp)}
    for version in (now.version, *now.previous) if now is not None else ():
        if version is not None and version not in out and state.versions[version].status in PROMOTABLE:
            return version
    return None


def failure(ref: Ref) -> Decide:
    """Mark what ``ref`` means as failed."""

    def decide(state: ModelState) -> Decision:
        found = resolve(ref, state)
        _refuse_transition(state.name, found, "failed")
        return Decision([StatusOp(found.version, "failed")])

    return decide


def approval(ref: Ref, actor: str) -> Decide:
    """Note that ``actor`` approves of what ``ref`` means; the registrant can't."""

    def decide(state: ModelState) -> Decision:
        found = resolve(ref, state)
        refuse_deleted(state.name, found)
        if found.actor == actor:
            raise ConflictError(
                f"{state.name}:{found.version} was registered by {actor}, who can't approve of it too; another "
                "actor has to (--actor)"
            )
        return Decision([ApproveOp(found.version)])

    return decide


def tagging(ref: Ref, tag: str) -> Decide:
    """Put a label on what ``ref`` means."""
    check_tag(tag)

    def decide(state: ModelState) -> Decision:
        found = resolve(ref, state)
        refuse_deleted(state.name, found)
        return Decision([TagOp(found.version, tag)])

    return decide


def untagging(ref: Ref, tag: str) -> Decide:
    """Take a label off what ``ref`` means."""

    def decide(state: ModelState) -> Decision:
        found = resolve(ref, state)
        if tag not in found.tags:
            raise NotFoundError(f"{state.name}:{found.version} has no tag {tag!r}")
        return Decision([UntagOp(found.version, tag)])

    return decide


def archival(ref: Ref) -> Decide:
    """Archive what ``ref`` means, and empty the channels that hold it; production first needs another version."""

    def decide(state: ModelState) -> Decision:
        found = resolve(ref, state)
        _refuse_transition(state.name, found, "archived")
        _refuse_production(state, found, "archived")
        held = [ChannelOp(channel, None) for channel in state.channels_of(found.version)]
        return Decision([*held, StatusOp(found.version, "archived")])

    return decide


def unarchival(ref: Ref) -> Decide:
    """Give what ``ref`` means the status back that it had before it was archived."""

    def decide(state: ModelState) -> Decision:
        found = resolve(ref, state)
        if found.status != "archived":
            raise ConflictError(f"{state.name}:{found.version} is {found.status}, not archived")
        return Decision([StatusOp(found.version, found.archived_from or "registered")])

    return decide


def deletion(ref: Ref, force: bool, leased: Mapping[str, str]) -> Decide:
    """Delete what ``ref`` means: never from production; tagged, held by a channel or leased only by ``force``.

    ``leased``: version → holder.
    """

    def decide(state: ModelState) -> Decision:
        found = resolve(ref, state)
        _refuse_transition(state.name, found, "deleted")
        _refuse_production(state, found, "deleted")
        held = state.channels_of(found.version)
        reasons = [f"the channel {channel} holds it" for channel in held]
        reasons += [f"it has the tag {tag}" for tag in found.tags]
        if found.version in leased:
            reasons.append(f"{leased[found.version]} is using it")
        if reasons and not force:
            raise ConflictError(
                f"{state.name}:{found.version} is needed: {'; '.join(reasons)}. Delete it all the same with --force"
            )
        return Decision([*(ChannelOp(channel, None) for channel in held), StatusOp(found.version, "deleted")])

    return decide


def holder(state: ModelState, channel: str) -> str | None:
    """The version in ``channel`` now, or None."""
    found = state.channels.get(channel)
    return None if found is None else found.version


def refuse_deleted(name: str, found: VersionState) -> None:
    """Raise ConflictError for a version whose files are gone."""
    if found.status == "deleted":
        raise ConflictError(f"{name}:{found.version} was deleted: {found.reason or 'no reason given'}")


def _previous(state: ModelState, channel: str) -> VersionState:
    found = state.channels.get(channel)
    for version in found.previous if found is not None else ():
        if state.versions[version].status in PROMOTABLE:
            return state.versions[version]
    raise ConflictError(
        f"{state.name} has no earlier usable version in {channel} to go back to; name one with --to, see: "
        f"modelreg history {state.name}"
    )


def _check_expected(state: ModelState, channel: str, expect: Expected) -> dict[str, Any]:
    if expect is ANY:
        return {}
    now = holder(state, channel)
    if now != expect:
        raise ConflictError(
            f"{state.name}: {channel} holds {now or 'nothing'}, expected {expect or 'nothing'}"
        )
    return {"channels": {channel: expect}}


def _refuse_unpromotable(name: str, found: VersionState) -> None:
    if found.status not in PROMOTABLE:
        why = f" ({found.reason})" if found.reason else ""
        raise ConflictError(f"{name}:{found.version} is {found.status}{why} and can't be promoted")


def _refuse_production(state: ModelState, found: VersionState, status: str) -> None:
    if holder(state, "production") == found.version:
        raise ConflictError(
            f"{state.name}:{found.version} is in production and can't be {status}; promote another version first"
        )


def _refuse_transition(name: str, found: VersionState, status: str) -> None:
    if status not in TRANSITIONS[found.status]:
        raise ConflictError(f"{name}:{found.version} is {found.status} and can't become {status}")
