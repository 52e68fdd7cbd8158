"""What the front makes of the plans that a prover sends: it believes nothing of them."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest
from tests.fakes import pointer
from tests.forest.models import data, train

from modeld.config import Config, PlanSettings
from modeld.forest import sealed
from modeld.forest.compile import compile_text
from modeld.front import proofs
from modeld.front.planned import PROVING
from modeld.front.proofs import RunningProof
from modeld.front.servable import Servable
from modeld.swap.policy import State
from modeld.wire.contract import Contract
from modeld.work import ipc

SIX = tuple("abcdef")
CONTRACT = Contract("alpha", "1.0.0", SIX, "s", (("predictions", 0),))


class Worker:
    """A prover as the front sees it, without a process."""

    def __init__(self, *, pid: int = 7) -> None:
        self.pid = pid
        self.fds: list[int] = []
        self.sent: list[bytes] = []
        self.closed = False
        self.on_packet: Any = None
        self.on_end: Any = None

    def send(self, packet: bytes) -> None:
        self.sent.append(packet)

    def close(self, *, kill: bool) -> None:
        assert kill
        self.closed = True


class Front:
    """A version that serves, its provers, and a clock that the test winds."""

    def __init__(self, inline_rows: int = 32, contract: Contract = CONTRACT) -> None:
        self.logged: list[tuple[str, dict[str, Any]]] = []
        self.workers: list[Worker] = []
        self.timers: list[Callable[[], None]] = []
        self.out_of_descriptors = False
        daemon: Any = SimpleNamespace(
            config=Config(plan=PlanSettings(inline_rows=inline_rows)),
            log=lambda event, **fields: self.logged.append((event, fields)),
            loop=SimpleNamespace(call_in=lambda _, callback: self.timers.append(callback)),
            spawner=SimpleNamespace(spawn=self.spawn),
        )
        self.served = Servable(
            pointer("1.0.0"), contract, lambda: 0, queue_requests=10, queue_bytes=1 << 20,
            on_bad_output=lambda *_: "", in_pieces=lambda _: None,
        )  # fmt: skip
        self.served.move(State.SERVING)
        self.served.prove(RunningProof(daemon, self.served))
        self.wind()

    def spawn(self) -> Any:
        if self.out_of_descriptors:
            raise OSError(24, "Too many open files")
        self.workers.append(Worker())
        return self.workers[-1]

    def wind(self) -> None:
        """All timers are due."""
        timers, self.timers = self.timers, []
        for timer in timers:
            timer()

    def say(self, fd: int | None = None, **fields: Any) -> None:
        """The newest prover answers."""
        worker = self.workers[-1]
        worker.fds = [] if fd is None else [fd]
        worker.on_packet(ipc.head(ipc.PLANS) + msgspec.json.encode(ipc.Planned(1.0, **fields)))

    @property
    def outcome(self) -> tuple[str, str]:
        """Which path serves, and why not the plan."""
        return self.served.path, self.served.unplanned_why


@pytest.fixture(scope="module")
def plan() -> bytes:
    return bytes(compile_text(train(data(80)).model_to_string()))


@pytest.fixture
def fd(plan: bytes) -> Iterator[int]:
    made = sealed.reserve(1 << 20)
    sealed.seal(made, [plan])
    yield made
    os.close(made)


@pytest.fixture
def make_front() -> Iterator[Callable[..., Front]]:
    made: list[Front] = []

    def make(*arguments: Any, **fields: Any) -> Front:
        made.append(Front(*arguments, **fields))
        return made[-1]

    yield make
    for one in made:
        one.served.close(kill=True)
    made.clear()


def test_a_good_plan_serves(make_front: Callable[..., Front], fd: int) -> None:
    """Sealed, checked, of the contract's shape: it serves from then on, and the log says so."""
    front = make_front()
    assert front.outcome == ("worker", PROVING)
    front.say(fd)
    assert front.outcome == ("plan", "")
    assert [event for event, _ in front.logged] == ["plan_serves"]
    assert front.workers[0].closed
    front.wind()
    assert front.outcome == ("plan", ""), "a deadline that came too late"


@pytest.mark.parametrize(
    "contract",
    [
        Contract("alpha", "1.0.0", SIX[:5], "s", (("predictions", 0),)),
        Contract("alpha", "1.0.0", SIX, "s", (("predictions", 3),)),
        Contract("alpha", "1.0.0", SIX, "s", (("1d", 0), ("7d", 0))),
    ],
    ids=["features", "classes", "outputs"],
)
def test_a_plan_of_another_shape_is_refused(
    make_front: Callable[..., Front], fd: int, contract: Contract
) -> None:
    """A plan that takes or gives other numbers than the contract would read or write past a row: it never serves."""
    front = make_front(contract=contract)
    front.say(fd)
    path, reason = front.outcome
    assert path == "worker"
    assert "don't fit the contract" in reason
    assert [event for event, _ in front.logged] == ["no_plan"]


def test_a_prover_that_sends_none_or_something_else(make_front: Callable[..., Front], plan: bytes) -> None:
    """Promised and not sent, not sealed, no message at all: the version serves by workers, with the reason."""
    front = make_front()
    front.say()
    assert front.outcome == ("worker", "the prover's plan is refused: none came")
    loose = os.memfd_create("loose", os.MFD_ALLOW_SEALING)
    os.write(loose, plan)
    front = make_front()
    front.say(loose)
    assert "sealed" in front.outcome[1]
    os.close(loose)
    for packet in (b"", ipc.head(ipc.RESULT), ipc.head(ipc.PLANS) + b"{"):
        front = make_front()
        front.workers[0].on_packet(packet)
        assert "can't be read" in front.outcome[1]


def test_a_plan_that_takes_long_gets_fewer_rows_or_none(
    make_front: Callable[..., Front], fd: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop serves nobody while it scores: what takes too long by the front's own measure goes to workers."""
    scorers = proofs.checked(fd, 1 << 20, CONTRACT)
    monkeypatch.setattr(proofs, "_row_ns", lambda *_: 100_000)
    assert proofs.inline_rows(scorers, CONTRACT, 32) == (10, "")
    monkeypatch.setattr(proofs, "_row_ns", lambda *_: 2_000_000)
    front = make_front()
    front.say(fd)
    assert front.outcome == ("worker", "a row takes 2000 µs, too long for the front's loop")


def test_the_prover_says_why_it_has_none(make_front: Callable[..., Front]) -> None:
    """What the proof found goes to the log and to the status."""
    front = make_front()
    front.say(why="predictions: linear trees")
    assert front.outcome == ("worker", "predictions: linear trees")
    assert front.logged == [
        ("no_plan", {"model": "alpha", "version": "1.0.0", "reason": "predictions: linear trees"})
    ]


def test_inline_rows_0_leaves_plans_to_workers(make_front: Callable[..., Front], fd: int) -> None:
    """Then the front scores nothing, whatever comes."""
    front = make_front(inline_rows=0)
    front.say(fd)
    assert front.outcome == ("worker", "plan.inline_rows is 0")


def test_a_prover_that_dies_or_hangs_leaves_the_worker_serving(make_front: Callable[..., Front]) -> None:
    """With the reason, and it isn't tried again: that is the plan's fault."""
    front = make_front()
    front.workers[0].on_end("the worker was killed by SIGSEGV")
    assert front.outcome == ("worker", "the worker was killed by SIGSEGV")
    front = make_front()
    front.wind()
    assert front.outcome == ("worker", "not proved after trial.timeout_s = 30 s")
    assert front.workers[0].closed
    assert len(front.workers) == 1


def test_a_prover_that_could_not_begin_is_tried_again(make_front: Callable[..., Front], fd: int) -> None:
    """A zygote that died, files that are away for a moment: another try, and after the third the reason."""
    front = make_front()
    front.workers[0].pid = 0
    front.workers[0].on_end("the worker died")
    front.wind()
    front.say(why="the root has vanished", again=True)
    assert front.outcome == ("worker", PROVING)
    front.out_of_descriptors = True
    front.wind()
    assert front.outcome == ("worker", "no prover can be made: Too many open files")
    front = make_front()
    front.say(why="the root has vanished", again=True)
    front.wind()
    front.say(fd)
    assert front.outcome == ("plan", "")


def test_a_superseded_version_drops_its_prover(make_front: Callable[..., Front], fd: int) -> None:
    """Nothing of it comes back; a version that has its plan keeps it while it is warm."""
    front = make_front()
    front.served.move(State.DRAINING)
    assert front.workers[0].closed
    assert front.served.wants_plans
    front.wind()
    assert (len(front.workers), front.outcome[0]) == (1, "worker")
    front = make_front()
    front.say(fd)
    front.served.move(State.DRAINING)
    front.served.move(State.WARM)
    assert front.outcome == ("plan", "")
    assert not front.served.wants_plans
