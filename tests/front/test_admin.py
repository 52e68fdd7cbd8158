"""An operator's rollback where a hold keeps another version waiting: a real slot, no sockets."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from tests.fakes import FakePorts, pointer

from modeld.errors import RequestError
from modeld.front.admin import _OPS, AdminService
from modeld.swap.ports import WriteOutcome
from modeld.swap.probation import Terms
from modeld.swap.slot import Slot
from modeld.wire.header import AdminRequest

ONE, TWO, THREE = pointer("1.0.0", 1), pointer("1.1.0", 2), pointer("1.2.0", 3)


class Desk:
    """An operator's desk: 1.1.0 serves, 1.0.0 is warm, and production names 1.2.0, which a hold keeps waiting."""

    def __init__(self) -> None:
        self.ports = FakePorts()
        self.slot = Slot(
            "alpha", self.ports, actor="modeld:uid:0", rollback_on_reject=True, allow_schema_change=False,
            probation=Terms(30.0, 10),
        )  # fmt: skip
        for one in (ONE, TWO):
            self.slot.observe(one)
            self.ports.trials[-1].ready()
            self.ports.advance(31)
            self.slot.tick()
        self.slot.held = "the open"
        self.slot.observe(THREE)
        daemon: Any = SimpleNamespace(
            models={"alpha": SimpleNamespace(slot=self.slot)},
            source=SimpleNamespace(error=None, broken={}),
            write=self.ports.write,
            loop=self.ports,
            config=SimpleNamespace(trial=SimpleNamespace(timeout_s=30)),
        )
        self.admin = AdminService(SimpleNamespace(), daemon)  # type: ignore[arg-type]
        self.replies: list[Any] = []

    def roll_back(self, **fields: Any) -> None:
        request = AdminRequest("rollback", reason="1.1.0 is bad", **fields)
        try:
            _OPS["rollback"](self.admin, request, "uid:7", self.replies.append)
        except RequestError as e:
            self.replies.append(e)

    def written(self, to: Any) -> None:
        """The write was done, and the look after it found `to`."""
        write = self.ports.writes.pop()
        self.slot.observe(to)
        write.done(WriteOutcome(None, None, write.expect, to.version))

    @property
    def serving(self) -> str | None:
        return self.slot.service.version


@pytest.fixture
def desk() -> Desk:
    return Desk()


def test_a_rollback_that_could_mean_either_does_nothing(desk):
    """From what serves, or from what production names: the operator says, and nothing is marked failed before that."""
    desk.roll_back()
    (refused,) = desk.replies
    assert (refused.code, desk.ports.writes, desk.serving) == ("CONFLICT", [], "1.1.0")
    assert "1.2.0 is in production and waits behind the hold, 1.1.0 serves" in str(refused)


def test_a_rollback_past_what_waits_marks_nothing_failed(desk):
    """What waits was never tried, and what serves isn't what production names: the reply says that it isn't marked."""
    desk.roll_back(to="1.0.0")
    (write,) = desk.ports.writes
    assert (write.expect, write.to, write.mark_failed) == ("1.2.0", "1.0.0", False)
    desk.written(replace(ONE, revision=4))
    (reply,) = desk.replies
    assert (reply["to"], desk.serving, desk.slot.held) == ("1.0.0", "1.0.0", "the open")
    assert reply["reason"].startswith("1.1.0 isn't marked failed")


def test_what_serves_is_put_back_into_production(desk):
    """Over what waits."""
    desk.roll_back(to="1.1.0")
    assert desk.ports.writes[0].mark_failed is False
    desk.written(replace(TWO, revision=4))
    assert (desk.serving, desk.slot.waiting, desk.slot.generation) == ("1.1.0", None, 4)
    assert "reason" not in desk.replies[0]


def test_what_waits_is_let_in_by_its_name(desk):
    """It is in production already: nothing is to be written, and it has its trial."""
    desk.roll_back(to="1.2.0")
    assert (desk.ports.writes, desk.replies) == ([], [])
    desk.roll_back()
    assert desk.ports.writes[0].to == "1.1.0", "it doesn't wait behind the hold any more"
    desk.ports.trials[-1].ready()
    assert (desk.serving, desk.replies[0]["to"], desk.replies[0]["from"]) == ("1.2.0", "1.2.0", "1.1.0")


def test_a_rejected_version_in_production_is_left_under_a_hold_too(desk):
    """It was tried and is what the operator means: production is pointed to what serves, and it is marked failed."""
    desk.slot.held = None
    desk.slot.reconcile()
    desk.ports.trials[-1].reject()
    desk.ports.writes.pop().done(WriteOutcome("store_unavailable", "read-only"))
    desk.slot.held = "the open"
    desk.roll_back()
    (write,) = desk.ports.writes
    assert (write.expect, write.to, write.mark_failed) == ("1.2.0", "1.1.0", True)
