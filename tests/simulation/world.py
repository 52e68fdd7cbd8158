"""One schedule: a seed decides what operators, clients, disks and machines do, and when; checks run all the while."""

from __future__ import annotations

import random
from collections.abc import Callable
from typing import Any, NamedTuple

import msgspec
from tests.simulation.clock import Clock
from tests.simulation.disk import Disk, digest_of
from tests.simulation.front import Answer, Front
from tests.simulation.watcher import POLL_S, StateDirectory
from tests.simulation.workers import NATURES, NEVER_SERVE, Version, value

from modeld.config import Config
from modeld.errors import RequestError
from modeld.swap.policy import Pointer, State

#: A trial that hangs is given up after this long; everything else in a schedule is quicker. Seconds.
_TRIAL_S = 2.0
#: From a promotion that nothing disturbs to its service: a poll, and less than this for the trial. Seconds.
_CONVERGES_S = POLL_S + 1.0
#: From a swap to its generation in the state directory: a watcher that died is started again. Seconds.
_WRITTEN_S = 2.0
#: From a failure in probation to the version before. Seconds.
_FALLS_BACK_S = 1.0
#: The longest wait that the daemon sets itself between two writes to the source. Seconds.
_QUIET_S = 70.0
#: What a client may be told instead of a prediction.
_EXCUSES = {
    "NOT_READY",
    "BUSY",
    "DRAINING",
    "DEADLINE_EXCEEDED",
    "SHAPE_MISMATCH",
    "VERSION_NOT_AVAILABLE",
    "INTERNAL",
}


class Change(NamedTuple):
    """What serves, and what the daemon knew when it was told of that."""

    serves: str
    desired: Pointer | None
    unfit: frozenset[str]
    rejected: frozenset[str]


class World:
    """`run` raises AssertionError where a promise is broken."""

    front_class: type[Front] = Front

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.clock = Clock(self.chance)
        self.versions: dict[str, Version] = {}
        self.disk = Disk(self.clock, self.chance)
        self.state = StateDirectory()
        chance = self.chance
        self.config = msgspec.convert(
            {
                "trial": {"timeout_s": _TRIAL_S},
                "limits": {"predict_timeout_s": 1.0},
                "probation": {"seconds": chance.choice((1, 5)), "requests": chance.choice((3, 1000))},
                "on_reject": chance.choice(("rollback", "rollback", "hold")),
                "keep_warm": chance.choice((0, 1, 1, 3)),
                "workers": chance.choice((1, 1, 2)),
            },
            Config,
        )
        self.trace: list[str] = []
        self.requests = 0
        self.waiting: dict[int, float] = {}
        self.answers_due = 0
        self.generation = 0
        self.served_once = False
        #: When the version that serves was condemned; 0 while it isn't.
        self.condemned_ns = 0
        self.labels: dict[int, str] = {}
        #: What served last, all that ever did, and that did in this life; what was promoted with the word that other
        #: features are meant.
        self.last: str | None = None
        #: What served, each time that something was told since the last check, and what was known then.
        self.changes: list[Change] = []
        self.served: set[str] = set()
        self.proved: set[str] = set()
        #: By version: whether the channel had held it when this life first heard of it.
        self.named: dict[str, bool] = {}
        self.meant: set[str] = set()
        #: Versions that an operator named to go back to.
        self.named_back: set[str] = set()
        #: What served when the hold in force was first seen, or since.
        self.frozen: str | None = None
        self.disk.promote(self.make("good").name)
        self.front = self.start()

    # -- the parts

    def note(self, what: str) -> None:
        self.trace.append(f"{self.clock.ns / 1e9:10.6f} {what}")

    def make(self, nature: str | None = None) -> Version:
        chosen = nature or self.chance.choices(list(NATURES), list(NATURES.values()))[0]
        version = Version(len(self.versions), chosen)
        self.versions[version.name] = version
        return version

    def start(self) -> Front:
        """A new life: what was asked of the one before went down with it, and is asked again by who cares."""
        # What the life before had no time to write down is forgotten; the rest holds for the next one too.
        self.generation, _ = self.state.generations.get("alpha", (0, ""))
        self.labels = {g: label for g, label in self.labels.items() if g <= self.generation}
        self.served_once, self.condemned_ns, self.unwritten_ns = False, 0, 0
        self.frozen = self.last = None
        self.changes.clear()
        self.proved, self.named, self.disturbed = set(), {}, False
        self.waiting.clear()
        self.answers_due = 0
        front = self.front_class(
            self.config, self.clock, self.chance, self.disk, self.state, self.versions, self.replied
        )
        front.on_event, front.on_told = self.note, self.heard
        return front

    @property
    def slot(self) -> Any:
        served = self.front.models.get("alpha")
        return served.slot if served is not None else None

    # -- clients

    def request(self) -> None:
        if not self.front.up:
            return
        self.requests += 1
        number = self.requests
        self.waiting[number] = float(number)
        self.front.predict({"id": number, "features": [float(number)]})

    def replied(self, frame: bytes) -> None:
        reply = msgspec.json.decode(frame)
        x = self.waiting.pop(reply["id"], None)
        assert x is not None, f"two replies to one request: {reply}"
        if "error" in reply:
            assert reply["code"] in _EXCUSES, reply
            return
        label, generation = reply["model_version"], reply["parameters"]["generation"]
        assert reply["outputs"][0]["data"] == [value(label, x)], f"not what {label} predicts: {reply}"
        assert reply["parameters"]["digest"] == digest_of(label), reply
        assert self.versions[label].nature not in NEVER_SERVE, f"an answer by {self.versions[label]}"
        assert self.labels.setdefault(generation, label) == label, (
            f"two versions under generation {generation}"
        )

    # -- what may happen

    def step(self) -> None:
        acts: list[tuple[int, Callable[[], None]]] = [
            (12, self.promote_new), (4, self.promote_old), (14, self.burst), (4, self.operator_reloads),
            (4, self.operator_rolls_back), (2, self.operator_holds), (4, self.worker_dies), (2, self.watcher_dies),
            (3, self.disk_fails), (3, self.disk_recovers), (1, self.backup_is_restored), (2, self.machine_is_full),
            (1, self.daemon_dies),
        ]  # fmt: skip
        if not self.front.up:
            self.front = self.start()  # as the service manager would
        act = self.chance.choices([act for _, act in acts], [weight for weight, _ in acts])[0]
        self.note(act.__name__.replace("_", " "))
        act()

    def promote_new(self) -> None:
        version = self.make()
        self.note(f"  {version}")
        meant = self.chance.random() < 0.5
        self.meant |= {version.name} if meant else set()
        self.disk.promote(version.name, allow_schema_change=meant)

    def promote_old(self) -> None:
        fit = [name for name in self.versions if name not in self.disk.failed]
        if fit:
            self.disk.promote(self.chance.choice(fit))

    def burst(self) -> None:
        for _ in range(self.chance.randint(1, 12)):
            self.clock.within(0, 0.02, self.request)

    def ask(self, op: str, **fields: Any) -> None:
        front = self.front
        self.answers_due += 1
        answered = False

        def respond(answer: Answer) -> None:
            nonlocal answered
            assert not answered, f"two answers to one {op}"
            answered = True
            if front is self.front:
                self.answers_due -= 1
            said = f"{answer.code}: {answer}" if isinstance(answer, RequestError) else answer
            self.note(f"  {op} → {said}")

        front.ask(op, respond, **fields)

    def operator_reloads(self) -> None:
        self.ask("reload", wait=self.chance.random() < 0.7, force=self.chance.random() < 0.3)

    def operator_rolls_back(self) -> None:
        stale = self.chance.random() < 0.2
        fields: dict[str, Any] = {"expect_generation": 0} if stale else {}
        if self.chance.random() < 0.3:
            fields["to"] = self.chance.choice(list(self.versions))
            self.named_back.add(fields["to"])
        self.ask("rollback", reason="a test", **fields)

    def operator_holds(self) -> None:
        held = self.slot is not None and self.slot.held
        self.ask("release" if held else "hold", reason="the open")

    def worker_dies(self) -> None:
        if alive := self.front.spawner.alive:
            self.disturbed = True
            self.chance.choice(alive).die("killed by SIGKILL")

    def watcher_dies(self) -> None:
        self.front.source.link.kill("SIGKILL")

    def disk_fails(self) -> None:
        self.disk.fault = self.chance.choice(("gone", "broken", "read-only"))

    def disk_recovers(self) -> None:
        self.disk.fault = None

    def backup_is_restored(self) -> None:
        self.disk.restore_backup()
        self.proved.clear()  # the log has forgotten what held the channel

    def machine_is_full(self) -> None:
        machine = self.front.spawner
        machine.full = self.disturbed = True

        def room() -> None:
            machine.full = False

        self.clock.within(0.01, 1.0, room)

    def daemon_dies(self) -> None:
        self.front.crash()

    # -- what must hold

    def run(self, steps: int) -> None:
        self.wait(0.5)
        for _ in range(steps):
            self.step()
            self.wait(10 ** self.chance.uniform(-3.5, 0.5))
        self.come_to_rest()

    def wait(self, seconds: float) -> None:
        """Let time pass in slices, checking after each."""
        slices = min(8, 1 + int(seconds / 0.005))
        for _ in range(slices):
            self.clock.run(seconds / slices)
            self.check()

    def check(self) -> None:
        slot = self.slot
        if slot is None or not self.front.up:
            return
        serving, warm = slot.serving, slot.warm
        self.served_once = self.served_once or serving is not None
        self.check_hold(slot)
        if self.served_once:
            assert serving is not None, "nothing serves any more"
            assert serving.served.state is State.SERVING
            assert serving.digest not in slot.rejected, (
                f"{serving.contract.version} serves, though it was rejected"
            )
            assert slot.generation == serving.generation >= self.generation, "the generation went backwards"
            self.generation = slot.generation
            written = self.state.generations.get("alpha") == (slot.generation, serving.digest)
            self.unwritten_ns = 0 if written else self.unwritten_ns or self.clock.ns
            late = self.unwritten_ns and self.clock.ns - self.unwritten_ns > _WRITTEN_S * 1e9
            assert not late, f"generation {slot.generation} isn't written down"
            self.heard()
            for change in self.changes:
                self.check_start(change)
                self.check_features(change)
            self.changes.clear()
            for one in slot.rejected.values():
                assert not (one.of_promotion and one.version in self.proved), (
                    f"{one.version} served: {one.reason}"
                )
        for one in warm:
            assert one.served is not serving.served
            assert one.served.state in (State.DRAINING, State.WARM)
        assert len(warm) <= max(1, self.config.keep_warm), "too many are kept warm"
        unfit = {digest_of(version) for version in self.disk.failed} | slot.rejected.keys()
        if self.disk.fault is not None:  # what was restored to fitness since can't be known
            unfit |= {one.digest for one in slot.view().warm if not one.fit}
        condemned = slot.service.condemned is not None and any(
            one.served.alive and one.digest not in unfit for one in warm
        )
        self.condemned_ns = (self.condemned_ns or self.clock.ns) if condemned else 0
        overdue = condemned and self.clock.ns - self.condemned_ns > _FALLS_BACK_S * 1e9
        assert not overdue, f"{serving.contract.version} goes on serving: {slot.service.condemned}"
        if slot.trial is not None:
            assert slot.trial.pointer.digest not in slot.rejected, "a rejected version is tried again"

    def heard(self) -> None:
        """What serves may change more than once between two checks."""
        slot = self.slot
        if slot is not None and slot.serving is not None:
            rejected = frozenset(slot.rejected)
            self.changes.append(Change(slot.serving.contract.version, slot.desired, slot._unfit, rejected))

    def check_start(self, now: Change) -> None:
        """What was marked failed is a restart's last resort, where nothing better can be tried; under a hold too."""
        digest, desired = digest_of(now.serves), now.desired
        better = desired is not None and desired.digest not in {digest, *now.rejected}
        if self.last is None and better and not (self.disturbed or self.front.aborted):
            assert digest not in now.unfit, (
                f"{now.serves} serves after a restart, and {desired.version} waits"
            )

    def check_features(self, change: Change) -> None:
        """Other features than before come in where that was meant; going back to what served always is."""
        now, desired = change.serves, change.desired
        if desired is not None:
            self.named.setdefault(desired.version, desired.held_before)
        if now != self.last and self.last is not None:
            same = self.versions[now].features == self.versions[self.last].features
            # What was promoted and superseded while nobody looked can't be told from what served.
            unseen = desired is not None and desired.held_before and self.named.get(now)
            assert same or unseen or now in self.served | self.meant, (
                f"{now} has other features than {self.last}"
            )
        self.last = now
        self.served.add(now)
        self.proved.add(now)

    def check_hold(self, slot: Any) -> None:
        """Under a hold the only way is back: by an operator's rollback, or in probation."""
        now = slot.serving.contract.version if slot.serving is not None else None
        if not slot.held or self.frozen is None:
            self.frozen = now if slot.held else None
        elif now != self.frozen:
            assert now in self.named_back.union(self.disk.past, self.served), f"{now} is let in under a hold"
            self.frozen = now

    def come_to_rest(self) -> None:
        """All faults end: then what production names must serve, whatever went before; and so must the next version."""
        self.disk.fault = None
        for _ in range(2):  # it may be about to give up for a fault that has just ended
            if not self.front.up:
                self.front = self.start()
            self.front.spawner.full = False
            self.wait(POLL_S + _TRIAL_S)
        if self.slot is not None and self.slot.held:
            self.ask("release", reason="the end")
        if self.chance.random() < 0.05:
            self.note("rest")
            self.wait(_QUIET_S)
            self.at_rest()
        last = self.make("good")
        self.note(f"the last: {last}")
        self.meant.add(last.name)
        self.disk.promote(last.name, allow_schema_change=True)
        if not self.front.up:  # there was nothing that it could have served
            self.front = self.start()
        self.wait(_CONVERGES_S)
        self.burst()
        self.wait(2.0)
        assert self.front.up, "the daemon gave up"
        assert self.slot.serving.contract.version == last.name, "the last promotion isn't served"
        assert self.labels.get(self.generation) == last.name, "it serves and doesn't answer"
        assert not self.waiting, f"never answered: {sorted(self.waiting)}"
        self.wait(_TRIAL_S)
        assert not self.answers_due, "an operator waits for ever"
        self.at_rest()

    def at_rest(self) -> None:
        """Nothing is left over of what is past."""
        if not self.front.up:
            return  # every version that it could have served was bad: it says so and ends
        slot = self.slot
        pointer = self.disk.pointer
        assert pointer is not None
        if pointer.digest not in slot.rejected:
            assert slot.serving.contract.version == pointer.version, f"production is {pointer.version}"
            assert slot.serving.revision == pointer.revision
        else:
            lost = slot.serving is None or slot.serving.contract.version in self.disk.failed
            assert lost or self.config.on_reject == "hold", (
                f"{pointer.version} stays in production, though rejected"
            )
        assert slot.trial is None or slot.held
        if slot.serving is not None:
            assert slot.serving.served.n_workers == self.config.workers, "a worker that died isn't replaced"
        gone = list(slot.service.former.retiring)
        self.wait(1.5)
        assert not any(one in slot.service.former.retiring for one in gone), (
            "a version that is gone isn't let go"
        )
