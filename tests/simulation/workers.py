"""Simulated workers: they speak the real packets, and each version has a nature that decides how they go wrong."""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace

import msgspec
import numpy as np
from tests.simulation.clock import Clock

from modeld.wire.contract import Contract
from modeld.work import ipc

#: How a version is, and how often one of its nature is made.
NATURES = {
    "good": 12, "other features": 2, "refused": 3, "kills its loader": 2, "hangs": 1, "talks nonsense": 1,
    "says NaN": 1, "dies at work": 1, "falls silent": 1, "answers by halves": 1,
}  # fmt: skip
#: Natures that mustn't ever answer a request.
NEVER_SERVE = ("refused", "kills its loader", "hangs", "talks nonsense")
#: Natures of which a plan can be proved: those that compute what they should.
PLANNED = ("good", "other features")
#: How many requests a bad one answers before its nature shows, at most.
_GOOD_FOR = 4


@dataclass(frozen=True)
class Version:
    """What version 1.N.0 predicts for x is N × 1e6 + x: a reply tells which version has computed it."""

    number: int
    nature: str

    @property
    def name(self) -> str:
        return f"1.{self.number}.0"

    @property
    def features(self) -> list[str]:
        return ["x", "y"] if self.nature == "other features" else ["x"]


def value(version: str, x: float) -> float:
    return int(version.split(".")[1]) * 1e6 + x


class PlanScorer:
    """In place of a checked plan: the same function as the version's workers compute."""

    def __init__(self, version: str, n_features: int) -> None:
        self._version = version
        self._row = struct.Struct(f"<{n_features}d")
        self.checked = SimpleNamespace(nbytes=0)

    def score_bytes(self, data: bytes, rows: int) -> bytes:
        found = [value(self._version, row[0]) for row in self._row.iter_unpack(data)]
        assert len(found) == rows
        return struct.pack(f"<{rows}d", *found)


def plans_of(fd: int, max_bytes: int, contract: Contract) -> list[PlanScorer]:  # noqa: ARG001 (as in the front)
    return [PlanScorer(contract.version, contract.n_features)]


class Machine:
    """The processes of one life of the daemon. Also the daemon's spawner."""

    def __init__(self, clock: Clock, chance: random.Random, versions: dict[str, Version]) -> None:
        self.clock, self.chance, self.versions = clock, chance, versions
        self.workers: list[Worker] = []
        #: No process can be made now.
        self.full = False
        self._pids = 100

    def spawn(self) -> Worker:
        """Raises OSError where the machine has no more processes."""
        if self.full:
            raise OSError(11, "Resource temporarily unavailable")
        self._pids += 1
        worker = Worker(self, self._pids)
        self.workers.append(worker)
        return worker

    @property
    def alive(self) -> list[Worker]:
        return [worker for worker in self.workers if worker.alive]

    def sweep(self) -> None:
        self.workers = self.alive

    def close(self) -> None:
        for worker in self.workers:
            worker.close(kill=True)


class Worker:
    """A process and the front's end of its channel in one."""

    def __init__(self, machine: Machine, pid: int) -> None:
        self._machine = machine
        self._clock, self._chance = machine.clock, machine.chance
        self.pid = pid
        self.alive = True
        self.on_packet: Callable[[bytes], None] = lambda _: None
        self.on_end: Callable[[str], None] = lambda _: None
        self.takes_fds = True
        self.fds: list[int] = []
        self.sock = self
        self._open = True
        self._version: Version | None = None
        self._left = self._chance.randint(0, _GOOD_FOR)
        self._out_ns = 0

    # -- what the front calls

    def send(self, packet: bytes, fd: int = -1) -> None:
        if fd >= 0:
            os.close(fd)
        if not (self.alive and self._open):
            if fd >= 0:
                return
            raise BrokenPipeError(32, "Broken pipe")
        kind, rows, columns, _, job, _ = ipc.HEAD.unpack_from(packet)
        if kind == ipc.TRIAL:
            trial = msgspec.json.decode(packet[ipc.HEAD.size :], type=ipc.Trial)
            self._version = self._machine.versions[trial.version]
            self._clock.within(0.005, 0.03, lambda: self._try(trial))
        elif kind == ipc.PROVE:
            trial = msgspec.json.decode(packet[ipc.HEAD.size :], type=ipc.Trial)
            self._version = self._machine.versions[trial.version]
            self._clock.within(0.05, 0.5, self._prove)
        elif kind == ipc.PREDICT:
            matrix = np.frombuffer(packet, np.float64, offset=ipc.HEAD.size).reshape(rows, columns)
            slow = self._chance.random() < 0.03
            self._clock.within(0.00003, 0.2 if slow else 0.0005, lambda: self._predict(job, matrix))

    def sendmsg(self, packets: Sequence[bytes], ancillary: object) -> None:  # noqa: ARG002 (plans: it has them too)
        self.send(b"".join(packets))

    def close(self, *, kill: bool = False) -> None:  # noqa: ARG002 (it ends either way)
        self._open = self.alive = False
        self.on_end = lambda _: None

    def kill(self) -> None:
        self.die("killed by SIGKILL")

    # -- what happens in it

    def die(self, how: str) -> None:
        """The channel ends once what was said before is read."""
        if self.alive:
            self.alive = False
            self._later(lambda: self.on_end(f"the worker was {how}"))

    def _later(self, call: Callable[[], None]) -> None:
        self._out_ns = max(self._out_ns, self._clock.ns + int(self._chance.uniform(1e4, 1e6))) + 1

        def arrives() -> None:
            if self._open:
                call()

        self._clock.at(self._out_ns, arrives)

    def _say(self, packet: bytes, *, with_fd: bool = False) -> None:
        def received() -> None:
            self.fds = [os.memfd_create("plan", os.MFD_CLOEXEC)] if with_fd else []
            self.on_packet(packet)
            while self.fds:
                os.close(self.fds.pop())

        if self.alive:
            self._later(received)

    def _try(self, trial: ipc.Trial) -> None:
        version = self._version
        assert version is not None
        stages = ["verifying", "loading", "validating"]
        ends = stages.index(self._chance.choice(stages))

        def step(at: int) -> None:
            if not self.alive:
                return
            if at == len(stages):
                self._say(ipc.head(ipc.READY) + msgspec.json.encode(self._ready(version)))
                return
            self._say(ipc.head(ipc.STAGE) + stages[at].encode())
            if version.nature in NEVER_SERVE and at == ends:
                self._fail(version.nature, stages[at])
            else:
                self._clock.within(0.001, 0.06, lambda: step(at + 1))

        if self._chance.random() < 0.03:
            busy = ipc.Rejected("verifying", f"{trial.directories[0]}: no more open files", again=True)
            self._say(ipc.head(ipc.REJECTED) + msgspec.json.encode(busy))
        else:
            step(0)

    def _fail(self, nature: str, stage: str) -> None:
        if nature == "refused":
            self._say(ipc.head(ipc.REJECTED) + msgspec.json.encode(ipc.Rejected(stage, "golden rows differ")))
        elif nature == "kills its loader":
            self.die("killed by SIGABRT")
        elif nature == "talks nonsense":
            self._say(ipc.head(ipc.READY) + b"{nonsense")

    @staticmethod
    def _ready(version: Version) -> ipc.Ready:
        return ipc.Ready(
            features=version.features, schema=f"schema of {version.features}", outputs=[("predictions", 0)],
            nan_allowed=True, platform="lightgbm", golden_rows=32, row_us=10.0, fast_path=True,
            row_independent=True, stages_ms={}, live=[],
        )  # fmt: skip

    def _prove(self) -> None:
        """As a prover: mostly there are plans; else it says why not, can't have the files, dies, or never ends."""
        assert self._version is not None
        way = self._chance.choices(("plans", "none", "again", "dies", "hangs"), (6, 2, 1, 1, 1))[0]
        if way == "dies":
            self.die("killed by SIGKILL")
        elif way != "hangs":
            if way == "plans" and self._version.nature in PLANNED:
                self._say(ipc.head(ipc.PLANS) + msgspec.json.encode(ipc.Planned(100.0)), with_fd=True)
            else:
                found = ipc.Planned(100.0, "a linear tree", again=way == "again")
                self._say(ipc.head(ipc.PLANS) + msgspec.json.encode(found))

    def _predict(self, job: int, matrix: np.ndarray) -> None:
        if not self.alive:
            return
        assert self._version is not None
        nature = self._version.nature
        self._left -= 1
        out = [value(self._version.name, row[0]) for row in matrix]
        if self._left < 0:
            if nature == "dies at work":
                self.die("killed by SIGSEGV")
                return
            if nature == "falls silent":
                return
            if nature == "says NaN":
                out[-1] = float("nan")
            elif nature == "answers by halves":
                out = []
        self._say(ipc.head(ipc.RESULT, rows=len(matrix), job=job, ns=20_000) + np.array(out).tobytes())
