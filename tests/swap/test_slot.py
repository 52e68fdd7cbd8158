"""One model's slot against an outside that can fail: who serves, under which generation, and what is written."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
from tests.fakes import FakePorts, FakeServed, contract, pointer

from modeld.swap.policy import State
from modeld.swap.ports import Rejection, WriteOutcome
from modeld.swap.probation import Terms
from modeld.swap.slot import Slot

ONE, TWO, THREE = pointer("1.0.0", 1), pointer("1.1.0", 2), pointer("1.2.0", 3)


def make_slot(ports: FakePorts, **settings: Any) -> Slot:
    chosen = {
        "actor": "modeld:uid:0",
        "rollback_on_reject": True,
        "allow_schema_change": False,
        "probation": Terms(30.0, 10),
    }
    return Slot("alpha", ports, **{**chosen, **settings})


@pytest.fixture
def ports() -> FakePorts:
    return FakePorts()


@pytest.fixture
def slot(ports: FakePorts) -> Slot:
    return make_slot(ports)


def serve(slot: Slot, ports: FakePorts, *pointers: Any) -> None:
    for one in pointers:
        slot.observe(one)
        ports.trials[-1].ready()
        ports.advance(31)
        slot.tick()


def versions(slot: Slot) -> tuple[str | None, str | None]:
    """What serves and what is warm."""
    serving, warm = slot.serving, slot.warm[0] if slot.warm else None
    return tuple(one.contract.version if one is not None else None for one in (serving, warm))  # type: ignore[return-value]


def kill(slot: Slot, served: FakeServed, how: str = "the worker was killed by SIGKILL") -> None:
    served.workers.clear()
    slot.service.worker_died(served, how)


def kinds(ports: FakePorts) -> list[str]:
    return [event["kind"] for event in ports.events]


def test_a_rollback_to_a_version_that_is_not_warm_is_told_as_one(slot, ports):
    """It has its trial first; the promotion after it is a swap again."""
    serve(slot, ports, ONE, TWO, THREE)
    slot.rolling_back(True)
    serve(
        slot, ports, replace(ONE, revision=4), replace(THREE, version="1.3.0", digest="sha256:4", revision=5)
    )
    assert kinds(ports)[-2:] == ["rollback", "swap"]


def test_a_version_that_passes_serves_and_the_one_before_gets_warm(slot, ports):
    """The old version goes on serving until the very moment of the swap, drains, and stays warm."""
    serve(slot, ports, ONE)
    slot.observe(TWO)
    old = slot.serving.served
    for state in (State.VERIFYING, State.LOADING, State.VALIDATING):
        ports.trials[-1].stage(state)
        assert (slot.trial.state, versions(slot)) == (state, ("1.0.0", None))
    old.pending = 2
    ports.trials[-1].ready()
    assert versions(slot) == ("1.1.0", "1.0.0")
    slot.tick()
    assert old.state is State.DRAINING
    old.pending = 0
    slot.tick()
    assert old.states == [State.READY, State.SERVING, State.DRAINING, State.WARM]
    assert ports.events[-1] == {
        "kind": "swap", "model": "alpha", "from": "1.0.0", "to": "1.1.0", "generation": 2,
        "digest": TWO.digest, "reason": "", "actor": "",
    }  # fmt: skip


def test_seeing_the_same_pointer_again_does_nothing(slot, ports):
    """Looks are level-triggered: only a difference counts."""
    serve(slot, ports, ONE)
    before = len(ports.events)
    for _ in range(3):
        slot.observe(ONE)
    assert (len(ports.trials), len(ports.events), slot.generation) == (1, before, 1)


def test_a_source_that_names_nothing_stops_nothing(slot, ports):
    """A vanished registry or channel leaves the last good version serving."""
    serve(slot, ports, ONE)
    slot.observe(TWO)
    slot.observe(None)
    assert ports.trials[-1].dropped
    assert versions(slot) == ("1.0.0", None)


def test_the_third_version_retires_the_first_once_it_is_drained(slot, ports):
    """One warm version is kept; the one before it is closed when its last request is answered."""
    serve(slot, ports, ONE, TWO)
    first = slot.warm[0].served
    first.pending = 1
    slot.observe(THREE)
    ports.trials[-1].ready()
    slot.tick()
    assert (versions(slot), first.state, first.closed) == (("1.2.0", "1.1.0"), State.RETIRED, False)
    first.pending = 0
    slot.tick()
    assert first.closed


@pytest.mark.parametrize("fail", ["reject", "die"])
def test_a_rejected_version_is_written_back_by_compare_and_set(slot, ports, fail):
    """The old version serves on, the digest is remembered, and the source is pointed back only from what failed."""
    serve(slot, ports, ONE)
    slot.observe(TWO)
    ports.trials[-1].stage(State.VALIDATING)
    getattr(ports.trials[-1], fail)("it is broken")
    (write,) = ports.writes
    assert (write.expect, write.to, write.mark_failed) == ("1.1.0", "1.0.0", True)
    assert (write.reason, write.actor) == ("validating: it is broken", "modeld:uid:0")
    assert slot.last_rejection.version == "1.1.0"
    assert kinds(ports) == ["swap", "rejected"]
    slot.observe(replace(ONE, revision=3))
    write.done(WriteOutcome(None, None, "1.1.0", "1.0.0"))
    assert (versions(slot), slot.generation, slot.settled) == (("1.0.0", None), 3, True)
    assert kinds(ports) == ["swap", "rejected", "state", "rollback"]
    assert len(ports.trials) == 2


def test_with_hold_on_reject_nothing_is_written():
    """`on_reject: hold` keeps the old version and leaves the source as it is."""
    ports = FakePorts()
    slot = make_slot(ports, rollback_on_reject=False)
    serve(slot, ports, ONE)
    slot.observe(TWO)
    ports.trials[-1].reject()
    slot.tick()
    assert (ports.writes, versions(slot)) == ([], ("1.0.0", None))
    assert ports.kept[-1] == (ONE.digest, 1, [TWO.digest]), "a restart doesn't try it again"


def test_a_conflict_on_the_way_back_ends_with_the_next_pointer(slot, ports):
    """The pointer has moved on meanwhile: what it names now is tried, the failed version isn't written again."""
    serve(slot, ports, ONE)
    slot.observe(TWO)
    ports.trials[-1].reject()
    ports.writes[0].done(WriteOutcome("conflict", "production is 1.2.0"))
    assert "isn't written" in slot.degraded["source"]
    slot.observe(THREE)
    assert "source" not in slot.degraded
    ports.advance(5)
    ports.trials[-1].ready()
    assert (versions(slot), len(ports.writes)) == (("1.2.0", "1.0.0"), 1)


def test_a_write_that_fails_is_tried_again_later(slot, ports):
    """A registry that can't be written is shown as degraded and asked again about once a second."""
    serve(slot, ports, ONE)
    slot.observe(TWO)
    ports.trials[-1].reject()
    ports.writes[0].done(WriteOutcome("store_unavailable", "read-only"))
    slot.tick()
    assert len(ports.writes) == 1
    assert "1.1.0 isn't written to the source: read-only" in slot.degraded["source"]
    ports.advance(1.01)
    assert len(ports.writes) == 2
    ports.advance(10)
    assert len(ports.writes) == 2, "one write at a time"
    slot.observe(replace(ONE, revision=3))
    ports.writes[1].done(WriteOutcome(None, None, "1.1.0", "1.0.0"))
    assert (slot.degraded, slot.settled) == ({}, True)


def test_a_rejected_digest_is_never_tried_again_unless_forgiven(slot, ports):
    """No reload loop: neither another look nor another revision of the same bytes starts a trial."""
    serve(slot, ports, ONE)
    slot.observe(TWO)
    ports.trials[-1].reject()
    ports.writes[0].done(WriteOutcome("store_unavailable", "read-only"))
    slot.observe(replace(TWO, revision=9))
    ports.advance(60)
    slot.tick()
    assert len(ports.trials) == 2
    slot.forgive()
    assert len(ports.trials) == 3
    ports.trials[-1].ready()
    assert versions(slot) == ("1.1.0", "1.0.0")


def test_the_first_version_that_fails_leaves_nothing_to_point_back_to(slot, ports):
    """Nothing serves, so nothing is written, and the next version gets its chance."""
    slot.observe(ONE)
    ports.trials[-1].reject()
    assert (slot.serving, ports.writes) == (None, [])
    slot.observe(TWO)
    ports.trials[-1].ready()
    assert versions(slot) == ("1.1.0", None)


def test_the_newest_pointer_wins(slot, ports):
    """A candidate that is superseded is dropped, even if it passes after that."""
    serve(slot, ports, ONE)
    slot.observe(TWO)
    old = ports.trials[-1]
    slot.observe(THREE)
    assert old.dropped
    old.trial.passed(FakeServed(TWO, contract("1.1.0")), None, {})
    assert versions(slot) == ("1.0.0", None)
    ports.trials[-1].ready()
    assert (versions(slot), len(ports.trials)) == (("1.2.0", "1.0.0"), 3)


def test_going_back_to_the_warm_version_is_one_step(slot, ports):
    """It needs no trial and gets a higher generation; it is a rollback if an operator asked for one, else a swap."""
    serve(slot, ports, ONE, TWO)
    slot.rolling_back(True)
    slot.observe(pointer("1.0.0", 3))
    assert (versions(slot), slot.generation, len(ports.trials)) == (("1.0.0", "1.1.0"), 3, 2)
    slot.observe(pointer("1.1.0", 4))
    assert (versions(slot), slot.generation, len(ports.trials)) == (("1.1.0", "1.0.0"), 4, 2)
    assert kinds(ports)[-2:] == ["rollback", "swap"]


def test_other_features_are_a_rejection(slot, ports):
    """Clients of the serving version would send the wrong columns."""
    serve(slot, ports, ONE)
    slot.observe(TWO)
    ports.trials[-1].ready(contract("1.1.0", ("sma_5", "rsi")))
    assert versions(slot) == ("1.0.0", None)
    assert ports.trials[-1].dropped
    assert "1 new (rsi), 1 gone (sma_20)" in slot.last_rejection.reason
    slot.observe(THREE)
    ports.trials[-1].ready(contract("1.2.0", ("sma_20", "sma_5")))
    assert "another order" in slot.last_rejection.reason
    fourth = pointer("2.0.0", 4, allow_schema_change=True)
    slot.observe(fourth)
    ports.trials[-1].ready(contract("2.0.0", ("rsi",)))
    assert versions(slot) == ("2.0.0", "1.0.0")


def test_other_features_are_the_promotions_fault(slot, ports):
    """The version isn't marked failed, and the same digest is tried anew when it is promoted again, as it may be."""
    other = ("sma_5", "rsi")
    serve(slot, ports, ONE)
    slot.observe(TWO)
    ports.trials[-1].ready(contract("1.1.0", other))
    assert "modelreg promote --allow-schema-change" in slot.last_rejection.reason
    assert not ports.writes[0].mark_failed
    slot.observe(replace(ONE, revision=3))
    ports.writes[0].done(WriteOutcome(None, None, "1.1.0", "1.0.0"))
    slot.observe(replace(TWO, revision=4, allow_schema_change=True))
    ports.trials[-1].ready(contract("1.1.0", other))
    assert versions(slot) == ("1.1.0", "1.0.0")


def test_other_features_are_not_tried_in_a_loop():
    """Where the source goes on naming them, one trial is enough, until it says something else."""
    ports = FakePorts()
    slot = make_slot(ports, rollback_on_reject=False)
    serve(slot, ports, ONE)
    slot.observe(TWO)
    ports.trials[-1].ready(contract("1.1.0", ("rsi",)))
    for _ in range(3):
        slot.observe(TWO)
        ports.advance(10)
        slot.tick()
    assert (len(ports.trials), slot.settled) == (2, True)
    slot.observe(replace(TWO, revision=3, allow_schema_change=True))
    assert len(ports.trials) == 3


def test_a_restart_does_not_let_other_features_in(slot, ports):
    """What clients sent before it is known from the state directory; the version kept serves, and that one waits."""
    slot.resume(ONE, 7, [], ("sma_5", "sma_20"))
    slot.observe(TWO)
    ports.trials[-1].ready(contract("1.1.0", ("rsi",)))
    assert slot.last_rejection.version == "1.1.0"
    assert ports.trials[-1].pointer.version == "1.0.0"
    ports.trials[-1].ready()
    assert (versions(slot), ports.writes[0].expect) == (("1.0.0", None), "1.1.0")


def test_a_kept_version_that_cannot_be_had_binds_nobody(slot, ports):
    """Better other features than nothing at all: no client of the version before can be answered any more."""
    slot.resume(ONE, 7, [], ("sma_5", "sma_20"))
    slot.observe(TWO)
    ports.trials[-1].ready(contract("1.1.0", ("rsi",)))
    ports.trials[-1].reject("the copy is damaged", "verifying")
    ports.trials[-1].ready(contract("1.1.0", ("rsi",)))
    assert versions(slot) == ("1.1.0", None)


def test_a_candidate_that_dies_after_it_passed_is_rejected(slot, ports):
    """While a hold keeps it waiting, a ready worker can still die; it doesn't serve then."""
    serve(slot, ports, ONE)
    slot.observe(TWO)
    slot.held = "the open"
    ports.trials[-1].ready()
    assert slot.trial.outcome == "ready"
    ports.trials[-1].die()
    assert (versions(slot), slot.last_rejection.version) == (("1.0.0", None), "1.1.0")


def test_a_hold_freezes_and_a_release_goes_on(slot, ports):
    """Held, nothing new is tried or swapped in; released, what is wanted by then is."""
    serve(slot, ports, ONE)
    slot.held = "the open"
    slot.observe(TWO)
    assert len(ports.trials) == 1
    slot.observe(THREE)
    slot.held = None
    slot.reconcile()
    ports.trials[-1].ready()
    assert (versions(slot), len(ports.trials)) == (("1.2.0", "1.0.0"), 2)


def test_an_operator_goes_back_under_a_hold(slot, ports):
    """Only the pointer that the rollback has moved gets in; the hold stays for the next one."""
    serve(slot, ports, ONE, TWO)
    slot.held = "the open"
    slot.rolling_back(True)
    slot.observe(replace(ONE, revision=4))
    assert versions(slot) == ("1.1.0", "1.0.0"), "nobody has said yet that this is the rollback"
    slot.rolled_back("1.1.0", "1.0.0")
    assert (versions(slot), kinds(ports)[-1]) == (("1.0.0", "1.1.0"), "rollback")
    slot.observe(replace(TWO, revision=5))
    assert (versions(slot), slot.held) == (("1.0.0", "1.1.0"), "the open")
    slot.rolled_back("1.3.0", "1.2.0")
    assert versions(slot) == ("1.0.0", "1.1.0"), "somebody moved the pointer on meanwhile"


def test_a_rollback_under_a_hold_outlives_a_restart(slot, ports):
    """In probation and on trial: what was left, and is marked failed, is neither kept nor let in before it."""
    serve(slot, ports, ONE, TWO, THREE)
    slot.held = "the open"
    slot.rolling_back(True)
    back, unfit = replace(ONE, revision=4, held_before=True), frozenset({THREE.digest})
    slot.observe(back, unfit)
    slot.rolled_back("1.2.0", "1.0.0")
    for at, kept in (("on trial", THREE), ("in probation", ONE)):
        assert ports.kept[-1][0] == kept.digest, at
        again = make_slot(ports)
        again.resume(kept, 4, [])
        again.held = "the open"
        again.observe(back, unfit)
        ports.trials[-1].ready()
        assert versions(again) == ("1.0.0", None), at
        if at == "on trial":
            ports.trials[-2].ready()
            assert versions(slot) == ("1.0.0", "1.2.0")


@pytest.mark.parametrize("later", [ONE, THREE])
def test_a_rollback_under_a_hold_gets_in_when_the_source_shows_it(slot, ports, later):
    """The look after the write failed: whoever waits goes on waiting, and the next look is that rollback, or isn't."""
    serve(slot, ports, ONE, TWO)
    slot.held = "the open"
    slot.rolling_back(True)
    slot.rolled_back("1.1.0", "1.0.0")
    assert (versions(slot), slot.settled) == (("1.1.0", "1.0.0"), False)
    slot.observe(replace(later, revision=4))
    assert (versions(slot)[0], slot.settled) == ("1.0.0" if later is ONE else "1.1.0", True)
    slot.observe(replace(ONE, revision=5))
    slot.observe(replace(TWO, revision=6))
    slot.observe(replace(ONE, revision=7))
    assert slot.waiting == ("1.0.0" if later is THREE else None), "it was that one look"


@pytest.mark.parametrize("how", ["death", "bad output"])
def test_a_failure_in_probation_falls_back(slot, ports, how):
    """The warm version serves at once under a new generation, the failed one is rejected and written back."""
    serve(slot, ports, ONE)
    slot.observe(TWO)
    ports.trials[-1].ready()
    failed = slot.serving.served
    if how == "death":
        failed.pending = 3
        kill(slot, failed)
        assert (failed.refused, slot.serving.served.pending) == ([], 3)
    else:
        slot.service.bad_output(failed, "an output isn't finite")
        assert versions(slot) == ("1.1.0", "1.0.0"), "not in the middle of the batch"
        ports.advance(0)
    assert (versions(slot), slot.generation) == (("1.0.0", None), 3)
    assert failed.state is State.RETIRED
    assert slot.last_rejection.stage == "probation"
    (write,) = ports.writes
    assert (write.expect, write.to) == ("1.1.0", "1.0.0")
    slot.observe(replace(ONE, revision=3))
    write.done(WriteOutcome(None, None, "1.1.0", "1.0.0"))
    assert slot.generation == 3
    assert kinds(ports)[2:] == ["rejected", "rollback", "state"], "one rollback is told of once"
    assert ports.events[-2]["reason"].startswith("probation: ")
    slot.tick()
    assert failed.closed


@pytest.mark.parametrize("over", ["time", "requests"])
def test_after_probation_a_bad_output_and_a_death_are_no_reason_to_fall_back(slot, ports, over):
    """Probation ends with the first of its two limits; then a dead worker is replaced by one of the same version."""
    serve(slot, ports, ONE)
    slot.observe(TWO)
    ports.trials[-1].ready()
    assert slot.service.on_probation
    if over == "time":
        ports.advance(30)
    else:
        for _ in range(10):
            slot.service.replied(100)
    assert not slot.service.on_probation
    slot.service.bad_output(slot.serving.served, "an output isn't finite")
    ports.advance(0)
    kill(slot, slot.serving.served)
    assert (versions(slot), slot.service.revival is not None) == (("1.1.0", "1.0.0"), True)


def test_in_probation_without_a_warm_version_serving_goes_on(slot, ports):
    """The first version has nothing behind it: its worker is replaced."""
    slot.observe(ONE)
    ports.trials[-1].ready()
    slot.service.bad_output(slot.serving.served, "an output isn't finite")
    ports.advance(0)
    kill(slot, slot.serving.served)
    assert (versions(slot), slot.service.revival is not None) == (("1.0.0", None), True)


def test_a_dead_worker_is_replaced_and_requests_wait(slot, ports):
    """The same version proves itself anew; its generation stays."""
    serve(slot, ports, ONE)
    served = slot.serving.served
    served.pending = 2
    kill(slot, served)
    assert ports.trials[-1].pointer is ONE
    assert (served.alive, served.pending) == (False, 2)
    ports.trials[-1].ready()
    assert (served.alive, served.refused, slot.generation) == (True, [], 1)
    assert slot.degraded == {}


def test_a_worker_that_can_not_be_replaced_is_tried_with_patience(slot, ports):
    """After two failures the requests are refused, and tries go on further apart."""
    serve(slot, ports, ONE)
    served = slot.serving.served
    served.pending = 2
    kill(slot, served)
    ports.trials[-1].die()
    assert served.pending == 2
    ports.advance(0.1)
    ports.trials[-1].die()
    assert [e.code for e in served.refused] == ["NOT_READY"] * 2
    assert "no worker of 1.0.0" in slot.degraded["worker"]
    tries = len(ports.trials)
    ports.advance(0.4)
    assert len(ports.trials) == tries
    ports.advance(0.11)
    assert len(ports.trials) == tries + 1
    ports.trials[-1].ready()
    assert (served.alive, slot.degraded) == (True, {})


def test_a_lost_version_falls_back_to_the_warm_one(slot, ports):
    """Without a worker the warm version answers; the other one is tried again, and only then judged."""
    serve(slot, ports, ONE, TWO)
    lost = slot.serving.served
    lost.pending = 2
    kill(slot, lost)
    ports.trials[-1].reject()
    ports.advance(0.2)
    ports.trials[-1].reject()
    assert (lost.refused, slot.serving.served.pending) == ([], 2), "what waited is answered by it"
    assert (versions(slot), slot.last_rejection, ports.writes) == (("1.0.0", None), None, [])
    ports.trials[-1].reject()
    assert (versions(slot), ports.writes[0].expect) == (("1.0.0", None), "1.1.0")


def test_a_failed_version_is_nothing_to_fall_back_to(slot, ports):
    """What an operator marked failed doesn't come back because its successor lost its worker."""
    serve(slot, ports, ONE, TWO)
    slot.observe(pointer("1.0.0", 3), frozenset({TWO.digest}))
    kill(slot, slot.serving.served)
    for _ in range(3):
        ports.trials[-1].abort()
        ports.advance(2)
    assert versions(slot)[0] == "1.0.0"


def test_a_trial_that_could_not_be_held_is_held_again(slot, ports):
    """No worker, no disk: the version is tried later and not judged."""
    serve(slot, ports, ONE)
    slot.observe(TWO)
    for _ in range(4):
        ports.trials[-1].abort()
        assert "can't be tried" in slot.degraded["trial"]
        ports.advance(5)
    assert (slot.last_rejection, ports.writes) == (None, [])
    ports.trials[-1].ready()
    assert (versions(slot), slot.degraded) == (("1.1.0", "1.0.0"), {})


def test_a_start_without_the_source_serves_what_is_kept(slot, ports):
    """With the generation that it had, and without trying again what was rejected."""
    slot.resume(ONE, 7, [Rejection("1.1.0", TWO.digest, "loading", "truncated", "2026-01-01T00:00:00Z")])
    slot.observe(None)
    ports.trials[-1].ready()
    assert (versions(slot), slot.generation) == (("1.0.0", None), 7)
    slot.observe(TWO)
    assert (len(ports.trials), ports.writes[0].expect) == (1, "1.1.0")


def test_generations_go_on_after_a_restart_in_probation(ports):
    """Without the source the kept version serves above the one that was on probation, which comes back above it."""
    slot = make_slot(ports)
    slot.resume(ONE, 1, [])
    slot.resume_generation(12, TWO.digest)
    slot.observe(None)
    ports.trials[-1].ready()
    assert (versions(slot)[0], slot.generation) == ("1.0.0", 13)
    slot.observe(replace(TWO, revision=12))
    ports.trials[-1].ready()
    assert (versions(slot)[0], slot.generation) == ("1.1.0", 14)


def test_a_version_keeps_its_generation_over_a_restart(ports):
    """The one on probation is served again at once: nothing has come between. An older record says nothing."""
    slot = make_slot(ports)
    slot.resume(ONE, 7, [])
    slot.resume_generation(3, THREE.digest)
    slot.resume_generation(12, TWO.digest)
    slot.observe(replace(TWO, revision=12))
    ports.trials[-1].ready()
    assert slot.generation == 12


def test_a_start_amid_promotions_serves_what_is_kept_first(slot, ports):
    """One candidate after the other is superseded before it is proved: then the version from before fills the gap."""
    slot.resume(ONE, 7, [])
    for number in (2, 3, 4):
        slot.observe(pointer(f"1.{number}.0", number + 6))
    assert [one.pointer.version for one in ports.trials] == ["1.2.0", "1.3.0", "1.0.0"]
    slot.observe(pointer("1.5.0", 20))
    ports.trials[-1].ready()
    assert (versions(slot)[0], slot.generation) == ("1.0.0", 21), "20 may have been 1.5.0 before the restart"
    assert ports.trials[-1].pointer.version == "1.5.0"
    ports.trials[-1].ready()
    assert versions(slot) == ("1.5.0", "1.0.0")


def test_a_start_amid_promotions_never_serves_what_the_source_calls_failed(slot, ports):
    """Not even where there is nothing else."""
    slot.resume(ONE, 7, [])
    for number in (2, 3, 4):
        slot.observe(pointer(f"1.{number}.0", number + 6), frozenset({ONE.digest}))
    assert ports.trials[-1].pointer.version == "1.4.0"


def test_what_could_not_be_copied_is_once_the_source_is_back(slot, ports):
    """The registry vanished while the first version's copy was made: there is none, and nothing better is kept."""
    serve(slot, ports, ONE)
    copies = len(ports.kept)
    slot.source_is_back()
    assert len(ports.kept) == copies
    slot.degraded["state_dir"] = "no copy is kept: it is gone"
    slot.source_is_back()
    assert ports.kept[copies:] == [(ONE.digest, 1, [])]


def test_what_passed_its_probation_is_kept(slot, ports):
    """The copy is of the version before while the new one is on probation."""
    serve(slot, ports, ONE)
    slot.observe(TWO)
    ports.trials[-1].ready()
    assert {digest for digest, _, _ in ports.kept} == {ONE.digest}
    ports.advance(3600)
    slot.tick()
    assert ports.kept[-1][:2] == (TWO.digest, slot.generation)


def test_a_revival_with_another_contract_is_none(slot, ports):
    """The same digest that says something else now is not let in, and the reason is told."""
    serve(slot, ports, ONE)
    kill(slot, slot.serving.served)
    ports.trials[-1].ready(contract("1.0.0", ("other",)))
    assert ports.trials[-1].dropped or ports.trials[-2].dropped
    assert not slot.serving.served.alive
    assert "other features" in slot.degraded["worker"]


def test_a_swap_ends_a_revival(slot, ports):
    """A new version that passes first serves, and answers what waited for the one that is gone."""
    serve(slot, ports, ONE)
    old = slot.serving.served
    slot.observe(TWO)
    candidate = ports.trials[-1]
    old.pending = 1
    kill(slot, old)
    revival = ports.trials[-1]
    candidate.ready()
    assert (versions(slot), revival.dropped, old.refused) == (("1.1.0", None), True, [])
    assert slot.serving.served.pending == 1


def test_a_dead_serving_version_does_not_cost_the_warm_one(slot, ports):
    """Where the version that served can't be kept, the warm one before it still can."""
    serve(slot, ports, ONE, TWO)
    slot.observe(THREE)
    candidate = ports.trials[-1]
    kill(slot, slot.serving.served)
    candidate.ready()
    assert versions(slot) == ("1.2.0", "1.0.0")


def test_a_dead_warm_worker_is_let_go(slot, ports):
    """What waited for it is refused, and a rollback proves the version anew."""
    serve(slot, ports, ONE, TWO)
    warm = slot.warm[0].served
    warm.pending = 1
    kill(slot, warm)
    assert (versions(slot), len(warm.refused), warm.state) == (("1.1.0", None), 1, State.RETIRED)
    slot.observe(pointer("1.0.0", 3))
    assert len(ports.trials) == 3


def test_a_relabel_never_lowers_the_generation(slot, ports):
    """A source that was rebuilt may count from the start again; generations don't."""
    serve(slot, ports, pointer("1.0.0", 7))
    slot.observe(pointer("1.0.0", 9))
    assert slot.generation == slot.serving.generation == 9
    slot.observe(pointer("1.0.0", 2))
    assert slot.generation == slot.serving.generation == 9
    assert len(ports.trials) == 1


def test_every_swap_raises_the_generation(slot, ports):
    """Also where the revision that asks for it is an old one."""
    seen = []
    for version, revision in (("1.0.0", 5), ("1.1.0", 3), ("1.2.0", 5), ("1.1.0", 4)):
        slot.observe(pointer(version, revision))
        if slot.trial is not None:
            ports.trials[-1].ready()
        seen.append(slot.generation)
    assert seen == sorted(set(seen))


def test_waiters_are_asked_when_nothing_is_under_way(slot, ports):
    """A reload that waits is answered after the trial, once."""
    asked = []
    slot.observe(ONE)
    slot.waiters.append(lambda: asked.append(versions(slot)[0]) or True)
    assert asked == []
    ports.trials[-1].ready()
    slot.tick()
    assert asked == ["1.0.0"]


def test_closing_answers_what_was_admitted_and_lets_everybody_go(slot, ports):
    """Serving, warm and retiring versions refuse what waits; the trial is dropped."""
    serve(slot, ports, ONE, TWO)
    slot.warm[0].served.pending = 1
    slot.observe(THREE)
    ports.trials[-1].ready()
    slot.observe(pointer("1.3.0", 4))
    everyone = [slot.serving.served, slot.warm[0].served, *slot.service.former.retiring]
    slot.warm[0].served.pending = slot.serving.served.pending = 1
    slot.close()
    assert ports.trials[-1].dropped
    assert [(one.closed, [e.code for e in one.refused]) for one in everyone] == [(True, ["DRAINING"])] * 3


def test_errors_over_the_limit_in_probation_fall_back(ports):
    """Errors of ours count as much as a death; not in the middle of a batch, and with the reason."""
    slot = make_slot(ports, probation=Terms(30.0, 1000, 0.01))
    serve(slot, ports, ONE)
    slot.observe(TWO)
    ports.trials[-1].ready()
    slot.service.erred()
    slot.service.replied(100)
    slot.service.erred()
    assert versions(slot) == ("1.1.0", "1.0.0")
    ports.advance(0)
    assert versions(slot) == ("1.0.0", None)
    assert slot.last_rejection.reason == "2 of 3 requests failed, probation.max_error_rate is 0.01"
    assert ports.writes[0].expect == "1.1.0"


def test_latency_over_the_budget_in_probation_falls_back(ports):
    """Looked at by the tick where replies are few."""
    slot = make_slot(ports, probation=Terms(30.0, 1000, 0.01, 500))
    serve(slot, ports, ONE)
    slot.observe(TWO)
    ports.trials[-1].ready()
    for _ in range(20):
        slot.service.replied(501)
    ports.advance(1)
    slot.tick()
    ports.advance(0)
    assert versions(slot) == ("1.0.0", None)


@pytest.mark.parametrize("keep", [0, 1, 2, 3])
def test_keep_warm_says_how_many_stay(ports, keep):
    """The one that served last first; none with 0, but in probation there is always a way back."""
    slot = make_slot(ports, keep_warm=keep)
    serve(slot, ports, ONE, TWO, THREE)
    everyone = ["1.1.0", "1.0.0"]
    assert [one.contract.version for one in slot.warm] == everyone[:keep]
    slot.observe(pointer("1.3.0", 4))
    ports.trials[-1].ready()
    assert [one.contract.version for one in slot.warm] == ["1.2.0", *everyone][: max(1, keep)]
    slot.tick()
    slot.service.bad_output(slot.serving.served, "an output isn't finite")
    ports.advance(0)
    assert versions(slot)[0] == "1.2.0"


def test_going_back_to_any_warm_version_is_one_step(ports):
    """Two versions ago as well as one; the others stay warm."""
    slot = make_slot(ports, keep_warm=2)
    serve(slot, ports, ONE, TWO, THREE)
    slot.observe(pointer("1.0.0", 4))
    assert (slot.serving.contract.version, len(ports.trials)) == ("1.0.0", 3)
    assert [one.contract.version for one in slot.warm] == ["1.2.0", "1.1.0"]
    kill(slot, slot.warm[0].served)
    assert [one.contract.version for one in slot.warm] == ["1.1.0"]


def test_a_drain_has_a_deadline(ports):
    """What the superseded version hasn't answered by then gets one error; warm or retired, it is done with."""
    slot = make_slot(ports, drain_timeout_s=10.0, keep_warm=1)
    serve(slot, ports, ONE, TWO)
    first = slot.warm[0].served
    first.pending = 1
    slot.observe(THREE)
    second = slot.serving.served
    second.pending = 2
    ports.trials[-1].ready()
    ports.advance(9.9)
    slot.tick()
    assert (first.refused, first.closed, second.refused, second.state) == ([], False, [], State.DRAINING)
    ports.advance(0.2)
    slot.tick()
    assert [e.code for e in (*first.refused, *second.refused)] == ["DRAINING"] * 3
    assert (first.closed, second.closed, second.state) == (True, False, State.WARM)


def test_a_version_that_serves_again_drains_no_more(ports):
    """A rollback in the middle of a drain: its requests have all the time that they had."""
    slot = make_slot(ports, drain_timeout_s=1.0)
    serve(slot, ports, ONE)
    slot.observe(TWO)
    slot.serving.served.pending = 1
    ports.trials[-1].ready()
    slot.observe(pointer("1.0.0", 3))
    ports.advance(5)
    slot.tick()
    assert (versions(slot), slot.serving.served.refused) == (("1.0.0", "1.1.0"), [])


@pytest.mark.parametrize("mark_failed", [True, False])
def test_an_operator_rolls_back_while_the_source_is_away(slot, ports, mark_failed):
    """The warm version serves at once; the record follows when the source is back, in the operator's name."""
    serve(slot, ports, ONE, TWO)
    assert slot.roll_back_here(None, "spread widened", "uid:7", mark_failed=mark_failed, why="it is gone")
    assert (versions(slot), slot.generation, len(ports.trials)) == (("1.0.0", None), 3, 2)
    assert slot.degraded["source"] == "the rollback from 1.1.0 isn't written to the source: it is gone"
    assert {k: ports.events[-1][k] for k in ("kind", "from", "to", "reason", "actor")} == {
        "kind": "rollback", "from": "1.1.0", "to": "1.0.0", "reason": "spread widened", "actor": "uid:7",
    }  # fmt: skip
    assert slot.last_rejection is None
    ports.writes.pop().done(WriteOutcome("store_unavailable", "it is gone"))
    ports.advance(0.5)
    assert ports.writes == []
    slot.source_is_back()
    slot.observe(TWO)
    (write,) = ports.writes
    assert (write.expect, write.to, write.mark_failed) == ("1.1.0", "1.0.0", mark_failed)
    assert (write.reason, write.actor) == ("spread widened", "uid:7")
    slot.observe(pointer("1.0.0", 3))
    write.done(WriteOutcome(None, None, "1.1.0", "1.0.0"))
    assert (versions(slot), slot.generation, slot.degraded) == (("1.0.0", None), 3, {})
    slot.observe(pointer("1.1.0", 4))
    ports.trials[-1].ready()
    assert versions(slot)[0] == "1.1.0", "the daemon's own memory holds nothing against it"


def test_a_rollback_that_the_source_has_overtaken_is_dropped(slot, ports):
    """Production moved on while the daemon couldn't see it: the newest pointer wins, and nothing stays degraded."""
    serve(slot, ports, ONE, TWO)
    slot.roll_back_here(None, "spread widened", "uid:7", mark_failed=True, why="it is gone")
    slot.observe(THREE)
    ports.writes[0].done(WriteOutcome("conflict", "production is 1.2.0"))
    assert "source" not in slot.degraded
    ports.trials[-1].ready()
    ports.advance(100)
    assert (versions(slot), len(ports.writes), slot.degraded) == (("1.2.0", "1.0.0"), 1, {})


def test_an_operator_goes_back_where_the_source_names_what_was_rejected(slot, ports):
    """And can't be written: the warm version serves. What is promoted after that, be it the same again, is served."""
    serve(slot, ports, ONE, TWO)
    slot.observe(THREE)
    ports.trials[-1].reject()
    ports.writes[-1].done(WriteOutcome("store_unavailable", "read-only"))
    assert slot.roll_back_here(None, "spread widened", "uid:7", mark_failed=True, why="read-only")
    assert versions(slot) == ("1.0.0", None)
    ports.advance(10)
    assert (ports.writes[-1].expect, ports.writes[-1].to) == ("1.2.0", "1.0.0")
    slot.observe(replace(ONE, revision=4))
    ports.writes[-1].done(WriteOutcome(None, None, "1.2.0", "1.0.0"))
    assert slot.degraded == {}
    slot.observe(replace(TWO, revision=5))
    ports.trials[-1].ready()
    assert versions(slot) == ("1.1.0", "1.0.0")


def test_an_operators_rollback_is_written_where_rejections_are_not(ports):
    """on_reject: hold is about what the daemon finds, not about what an operator says."""
    slot = make_slot(ports, rollback_on_reject=False)
    serve(slot, ports, ONE, TWO)
    slot.roll_back_here(None, "spread widened", "uid:7", mark_failed=True, why="it is gone")
    assert [write.expect for write in ports.writes] == ["1.1.0"]


def test_there_is_no_rolling_back_to_what_is_not_warm(ports):
    """Without the source only what is in memory can be had; the one that is named, if one is."""
    slot = make_slot(ports, keep_warm=2)
    serve(slot, ports, ONE)
    assert not slot.roll_back_here(None, "no", "uid:7", mark_failed=True, why="it is gone")
    serve(slot, ports, TWO, THREE)
    assert not slot.roll_back_here("0.9.0", "no", "uid:7", mark_failed=True, why="it is gone")
    assert slot.roll_back_here("1.0.0", "two back", "uid:7", mark_failed=True, why="it is gone")
    assert versions(slot)[0] == "1.0.0"


def test_a_plan_is_proved_only_while_a_version_serves(slot, ports):
    """Each time that it begins to serve it may be; a version that was superseded drops its proof."""
    serve(slot, ports, ONE)
    first = slot.serving.served
    assert first.proving
    serve(slot, ports, TWO)
    assert (first.proving, slot.serving.served.proving) == (False, True)
    slot.observe(pointer("1.0.0", 3))
    assert first.proving
