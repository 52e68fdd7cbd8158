"""What promote, rollback and fail decide. Pure: a state in, operations out, or a refusal."""

from __future__ import annotations

from collections.abc import Callable
from enum import Enum
from typing import Any, Final, Literal

from modelreg.errors import ConflictError, UsageError
from modelreg.modellog import Decision
from modelreg.names import check_channel, is_version
from modelreg.records import ChannelOp, KnownOp, StatusOp
from modelreg.refs import Ref, parse_ref, resolve
from modelreg.state import PROMOTABLE, TRANSITIONS, ModelState, VersionState

Decide = Callable[[ModelState], Decision]


class _Any(Enum):
    ANY = "any"


#: No condition on what the channel holds.
ANY: Final = _Any.ANY

Expected = str | None | Literal[_Any.ANY]


def promotion(ref: Ref, channel: str, expect: Expected) -> Decide:
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
        return Decision([ChannelOp(channel, found.version)], conditions)

    return decide


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
        ops: list[KnownOp] = [ChannelOp(channel, found.version)]
        if mark_failed and now is not None:
            if now == found.version:
                raise ConflictError(f"{name}:{now} can't be rolled back to and marked as failed at once")
            if state.versions[now].status != "failed":
                _refuse_transition(name, state.versions[now], "failed")
                ops.append(StatusOp(now, "failed"))
        return Decision(ops, conditions)

    return decide


def failure(ref: Ref) -> Decide:
    """Mark what ``ref`` means as failed."""

    def decide(state: ModelState) -> Decision:
        found = resolve(ref, state)
        _refuse_transition(state.name, found, "failed")
        return Decision([StatusOp(found.version, "failed")])

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


def _refuse_transition(name: str, found: VersionState, status: str) -> None:
    if status not in TRANSITIONS[found.status]:
        raise ConflictError(f"{name}:{found.version} is {found.status} and can't become {status}")
