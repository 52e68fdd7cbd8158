"""What to do next for one model: a pure function of what is wanted and what is there.

The loop calls `next_action` after anything has happened, carries out the one action that it returns, and calls it
again until it returns None. Nothing is decided from the kind of an event: events only mean "look again".

A version's way, and the only legal transitions:

    absent → verifying → loading → validating → ready → serving → draining → warm → retired
                └──────────┴──────────┴──▶ rejected      serving ⇄ warm (a rollback)

Load before unload, always: no action takes the serving version away before its successor is ready.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal


class State(StrEnum):
    """Where a version stands in the daemon."""

    ABSENT = "absent"
    VERIFYING = "verifying"
    LOADING = "loading"
    VALIDATING = "validating"
    READY = "ready"
    SERVING = "serving"
    DRAINING = "draining"
    WARM = "warm"
    RETIRED = "retired"
    REJECTED = "rejected"


_TRIAL = {State.REJECTED, State.RETIRED}
TRANSITIONS: dict[State, frozenset[State]] = {
    State.ABSENT: frozenset({State.VERIFYING} | _TRIAL),
    State.VERIFYING: frozenset({State.LOADING} | _TRIAL),
    State.LOADING: frozenset({State.VALIDATING} | _TRIAL),
    State.VALIDATING: frozenset({State.READY} | _TRIAL),
    State.READY: frozenset({State.SERVING} | _TRIAL),
    State.SERVING: frozenset({State.DRAINING, State.RETIRED}),
    State.DRAINING: frozenset({State.WARM, State.SERVING, State.RETIRED}),
    State.WARM: frozenset({State.SERVING, State.RETIRED}),
    State.REJECTED: frozenset(),
    State.RETIRED: frozenset(),
}


@dataclass(frozen=True, slots=True)
class Pointer:
    """What a source says should be served: one version of one model.

    `revision` orders what one source says (the registry: the log sequence that set the channel). `directory` holds
    the sealed version.
    """

    model: str
    version: str
    digest: str
    revision: int
    directory: str
    allow_schema_change: bool = False
    #: Who moved the pointer, and why: for events and the log.
    actor: str = ""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class Resident:
    """A version that has passed its trial: serving or warm.

    `alive`: a worker can answer. `short`: it has fewer workers than it should, and it is time to prove another.
    `lost`: it has none, and more than one attempt at another failed, so waiting is no plan.
    """

    version: str
    digest: str
    revision: int
    alive: bool = True
    short: bool = False
    lost: bool = False


@dataclass(frozen=True, slots=True)
class OnTrial:
    """A candidate. `outcome` is None while the trial runs."""

    digest: str
    outcome: Literal["ready", "rejected"] | None


@dataclass(frozen=True, slots=True)
class View:
    """All that a decision rests on."""

    desired: Pointer | None
    serving: Resident | None = None
    warm: Resident | None = None
    trial: OnTrial | None = None
    #: Digests that failed a trial or a probation.
    rejected: frozenset[str] = frozenset()
    held: bool = False
    #: The serving version failed its probation.
    condemned: bool = False
    #: Whether a rejected version is to be written back to the source now.
    may_write: bool = True


class Act(StrEnum):
    """The actions. Each is carried out whole, between two requests."""

    DROP_TRIAL = "drop trial"  # the candidate is no longer wanted
    REJECT = "reject"  # the candidate failed: remember its digest
    SWAP = "swap"  # the candidate serves, the serving version gets warm
    SWAP_TO_WARM = "swap to warm"  # the wanted version is the warm one
    RELABEL = "relabel"  # the wanted version serves already: a new generation of it
    FALL_BACK = "fall back"  # the serving version failed in probation: the warm one serves
    REVIVE = "revive"  # the serving version lacks a worker: prove another; with none left, requests wait
    WRITE_ROLLBACK = "write rollback"  # the source still names a rejected version: point it back
    START_TRIAL = "start trial"


def next_action(view: View) -> Act | None:
    """The next action, or None where all is as wanted."""
    desired, serving, warm, trial = view.desired, view.serving, view.warm, view.trial

    if trial is not None and trial.outcome == "rejected":
        return Act.REJECT
    if trial is not None and (desired is None or trial.digest != desired.digest):
        return Act.DROP_TRIAL

    if serving is not None and (view.condemned or serving.lost) and warm is not None and warm.alive:
        return Act.FALL_BACK
    if serving is not None and serving.short:
        return Act.REVIVE

    if desired is None:
        return None
    if serving is not None and desired.digest == serving.digest:
        return Act.RELABEL if desired.revision != serving.revision else None
    if desired.digest in view.rejected:
        return Act.WRITE_ROLLBACK if serving is not None and view.may_write else None
    if view.held and serving is not None:
        return None
    if warm is not None and warm.alive and desired.digest == warm.digest:
        return Act.SWAP_TO_WARM
    if trial is None:
        return Act.START_TRIAL
    return Act.SWAP if trial.outcome == "ready" else None
