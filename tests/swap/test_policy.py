"""The policy: a view in, at most one action out. No clock, no thread."""

from __future__ import annotations

from dataclasses import replace
from itertools import product

import pytest
from tests.fakes import pointer

from modeld.swap.policy import TRANSITIONS, Act, OnTrial, Pointer, Resident, State, View, next_action, target

ONE, TWO = pointer("1.0.0", 1), pointer("1.1.0", 2)


def resident(of: Pointer, **fields: bool) -> Resident:
    return Resident(of.version, of.digest, of.revision, **fields)


def trial(of: Pointer, outcome: str | None = None) -> OnTrial:
    return OnTrial(of.digest, outcome)  # type: ignore[arg-type]


QUIET = View(desired=ONE, serving=resident(ONE))
RUNNING = View(desired=TWO, serving=resident(ONE), trial=trial(TWO))
FAILED = View(desired=TWO, serving=resident(ONE), rejected=frozenset({TWO.digest}))
PROBATION = View(desired=TWO, serving=resident(TWO), warm=(resident(ONE),), condemned=True)


@pytest.mark.parametrize(
    ("view", "act"),
    [
        pytest.param(View(None), None, id="nothing wanted, nothing there"),
        pytest.param(View(None, resident(ONE)), None, id="the source names none: go on serving"),
        pytest.param(View(ONE), Act.START_TRIAL, id="the first version"),
        pytest.param(QUIET, None, id="as wanted"),
        pytest.param(View(TWO, resident(ONE)), Act.START_TRIAL, id="a new version"),
        pytest.param(RUNNING, None, id="the trial runs: wait"),
        pytest.param(replace(RUNNING, trial=trial(TWO, "ready")), Act.SWAP, id="it passed"),
        pytest.param(replace(RUNNING, trial=trial(TWO, "rejected")), Act.REJECT, id="it failed"),
        pytest.param(View(ONE, None, trial=trial(ONE, "ready")), Act.SWAP, id="the first version passed"),
        pytest.param(View(ONE, None, trial=trial(ONE, "rejected")), Act.REJECT, id="the first version failed"),
        pytest.param(replace(RUNNING, desired=ONE), Act.DROP_TRIAL, id="superseded by what serves"),
        pytest.param(replace(RUNNING, desired=pointer("3")), Act.DROP_TRIAL, id="superseded by a third"),
        pytest.param(replace(RUNNING, desired=None), Act.DROP_TRIAL, id="no longer wanted"),
        pytest.param(
            replace(RUNNING, desired=ONE, trial=trial(TWO, "ready")), Act.DROP_TRIAL, id="passed too late"
        ),
        pytest.param(FAILED, Act.WRITE_ROLLBACK, id="rejected and still named"),
        pytest.param(replace(FAILED, may_write=False), None, id="rejected, not to be written now"),
        pytest.param(replace(FAILED, serving=None), None, id="rejected, and nothing to point back to"),
        pytest.param(replace(FAILED, held=True), Act.WRITE_ROLLBACK, id="a hold doesn't keep a failed pointer"),
        pytest.param(View(TWO, resident(ONE), (resident(TWO),)), Act.SWAP_TO_WARM, id="back to the warm one"),
        pytest.param(
            View(TWO, resident(ONE), (resident(TWO, alive=False),)), Act.START_TRIAL, id="the warm one is dead"
        ),
        pytest.param(replace(QUIET, desired=pointer("1.0.0", 5)), Act.RELABEL, id="a new revision of it"),
        pytest.param(
            replace(QUIET, desired=pointer("1.0.0", 5), held=True), Act.RELABEL, id="a hold is no reason to mislabel"
        ),
        pytest.param(PROBATION, Act.FALL_BACK, id="failed in probation"),
        pytest.param(replace(PROBATION, held=True), Act.FALL_BACK, id="failed in probation, held"),
        pytest.param(replace(PROBATION, warm=()), None, id="failed in probation, nothing warm: go on"),
        pytest.param(
            replace(PROBATION, warm=(resident(ONE, alive=False),)), None, id="failed in probation, warm one dead"
        ),
        pytest.param(
            View(ONE, resident(ONE, alive=False, short=True)), Act.REVIVE, id="a dead worker is replaced"
        ),
        pytest.param(View(ONE, resident(ONE, alive=False)), None, id="a dead worker, a revival under way"),
        pytest.param(
            View(TWO, resident(TWO, alive=False, short=True, lost=True), (resident(ONE),)),
            Act.FALL_BACK,
            id="lost, with a warm one",
        ),
        pytest.param(
            View(TWO, resident(TWO, alive=False, short=True, lost=True)), Act.REVIVE, id="lost, none warm"
        ),
        pytest.param(View(TWO, resident(ONE), held=True), None, id="held: no trial"),
        pytest.param(
            replace(RUNNING, trial=trial(TWO, "ready"), held=True), None, id="held: a ready candidate waits"
        ),
        pytest.param(View(TWO, resident(ONE), (resident(TWO),), held=True), None, id="held: no swap to warm"),
        pytest.param(View(ONE, held=True), Act.START_TRIAL, id="held with nothing served: serve"),
    ],
)  # fmt: skip
def test_next_action(view, act):
    """One view, one action."""
    assert next_action(view) is act


def everything():
    """Every combination of what a view can hold, for two versions."""
    desires = (None, ONE, TWO, pointer("1.0.0", 5))
    residents = (
        None,
        *(
            resident(of, alive=alive, short=short, lost=lost)
            for of, (alive, short, lost) in product(
                (ONE, TWO),
                ((True, False, False), (False, False, False), (False, True, False), (False, True, True)),
            )
        ),
    )
    trials = (
        None,
        *(trial(of, outcome) for of in (ONE, TWO) for outcome in (None, "ready", "rejected", "aborted")),
    )
    refused = (frozenset(), frozenset({ONE.digest}), frozenset({TWO.digest}))
    flags = tuple(product((False, True), repeat=3))
    for desired, serving, warm, on, no in product(desires, residents, residents, trials, refused):
        for held, condemned, may_write in flags:
            yield View(desired, serving, (warm,) if warm else (), on, no, held, condemned, may_write)
    for desired, on, no, (aborted, may_try) in product(
        desires, trials, refused, product((False, True), repeat=2)
    ):
        yield View(desired, trial=on, rejected=no, kept=ONE, aborted=aborted, may_try=may_try)


def test_no_view_takes_service_away_and_every_action_is_reachable():
    """Load before unload, no second trial of a rejected digest, no swap while held: in every view."""
    seen = set()
    for view in everything():
        act = next_action(view)
        seen.add(act)
        if act is Act.SWAP:
            assert view.trial is not None
            assert (view.trial.outcome, view.trial.digest) == ("ready", target(view).digest)
        elif act in (Act.SWAP_TO_WARM, Act.FALL_BACK):
            (warm,) = view.warm
            assert warm.alive
            assert warm.fit or act is Act.SWAP_TO_WARM
        elif act is Act.START_TRIAL:
            assert view.trial is None
            assert target(view).digest not in view.rejected
        elif act is Act.WRITE_ROLLBACK:
            assert view.serving.digest != view.desired.digest
        if view.held and view.serving is not None:
            assert act not in (Act.SWAP, Act.SWAP_TO_WARM, Act.START_TRIAL)
    assert seen == {*Act, None}


def test_transitions_lead_from_absent_to_every_state_and_end_in_two():
    """Each state can be reached; only a rejected and a retired version have no way on."""
    reached, more = set(), {State.ABSENT}
    while more:
        reached |= more
        more = {to for state in more for to in TRANSITIONS[state]} - reached
    assert reached == set(State) == set(TRANSITIONS)
    assert {state for state, to in TRANSITIONS.items() if not to} == {State.REJECTED, State.RETIRED}
