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
    #: The source named the version before: going back to it is meant, if it served then.
    held_before: bool = False
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
    #: Not marked failed, archived or deleted by the source since.
    fit: bool = True


@dataclass(frozen=True, slots=True)
class OnTrial:
    """A candidate. `outcome` is None while the trial runs; `aborted`: it couldn't be tried, which isn't its fault."""

    digest: str
    outcome: Literal["ready", "rejected", "aborted"] | None


@dataclass(frozen=True, slots=True)
class View:
    """All that a decision rests on."""

    desired: Pointer | None
    serving: Resident | None = None
    #: The one that served last comes first.
    warm: tuple[Resident, ...] = ()
    trial: OnTrial | None = None
    #: Digests that failed a trial or a probation.
    rejected: frozenset[str] = frozenset()
    held: bool = False
    #: The serving version failed its probation.
    condemned: bool = False
    #: Whether a rejected version is to be written back to the source now.
    may_write: bool = True
    #: The last version known to be good, from the state directory: for a start at which nothing better can be had.
    kept: Pointer | None = None
    #: Not marked failed, archived or deleted by the source since.
    kept_fit: bool = True
    #: The wanted version couldn't be tried the last time.
    aborted: bool = False
    #: Nothing serves yet, and one candidate after the other was superseded on trial.
    starved: bool = False
    #: Whether it is time to start a trial.
    may_try: bool = True


class Act(StrEnum):
    """The actions. Each is carried out whole, between two requests."""

    DROP_TRIAL = "drop trial"  # the candidate is no longer wanted
    ABORT = "abort"  # the candidate couldn't be tried: again later
    REJECT = "reject"  # the candidate failed: remember its digest
    SWAP = "swap"  # the candidate serves, the serving version gets warm
    SWAP_TO_WARM = "swap to warm"  # the wanted version is a warm one
    RELABEL = "relabel"  # the wanted version serves already: a new generation of it
    FALL_BACK = (
        "fall back"  # the serving version failed in probation or has no worker left: the warm one serves
    )
    REVIVE = "revive"  # the serving version lacks a worker: prove another; with none left, requests wait
    WRITE_ROLLBACK = "write rollback"  # the source still names a rejected version: point it back
    START_TRIAL = "start trial"


def target(view: View) -> Pointer | None:
    """What should serve: what the source wants, or at a start without it the version kept from before."""
    desired, kept = view.desired, view.kept
    unusable = desired is None or desired.digest in view.rejected or view.aborted
    put_off = (view.starved or view.held) and view.kept_fit
    if (
        view.serving is None
        and (unusable or put_off)
        and kept is not None
        and kept.digest not in view.rejected
    ):
        return kept
    return desired


def way_back(view: View, version: str | None = None) -> Resident | None:
    """The warm version that may serve again, where the one that serves mustn't; `version`: only that one."""
    for one in view.warm:
        if one.alive and one.fit and one.digest not in view.rejected and version in (None, one.version):
            return one
    return None


def next_action(view: View) -> Act | None:
    """The next action, or None where all is as wanted."""
    wanted, serving, trial = target(view), view.serving, view.trial

    if trial is not None and trial.outcome == "rejected":
        return Act.REJECT
    if trial is not None and trial.outcome == "aborted":
        return Act.ABORT
    if trial is not None and (wanted is None or trial.digest != wanted.digest):
        return Act.DROP_TRIAL

    fall_back = serving is not None and (view.condemned or serving.lost)
    if fall_back and way_back(view) is not None:
        return Act.FALL_BACK
    if serving is not None and serving.short:
        return Act.REVIVE

    if wanted is None:
        return None
    if serving is not None and wanted.digest == serving.digest:
        return Act.RELABEL if wanted.revision != serving.revision else None
    if wanted.digest in view.rejected:
        return Act.WRITE_ROLLBACK if serving is not None and view.may_write else None
    if view.held and serving is not None:
        return None
    if any(one.alive and one.digest == wanted.digest for one in view.warm):
        return Act.SWAP_TO_WARM
    if trial is None:
        return Act.START_TRIAL if view.may_try else None
    return Act.SWAP if trial.outcome == "ready" else None
