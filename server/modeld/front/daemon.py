"""`modeld serve`: the parts put together, started in order, and taken apart in order.

The loop owns everything here. Workers, the zygote and the watcher are other processes; each of them may die at any
moment, and then another takes its place while the last good version goes on answering.
"""

from __future__ import annotations

import gc
import os
import resource
import signal
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import msgspec
import zmq

from modeld import log
from modeld.config import Config
from modeld.errors import ModeldError, NothingToServe
from modeld.front import sockets
from modeld.front.admin import AdminService
from modeld.front.data import DataService, Served
from modeld.front.decoding import Decoding
from modeld.front.descriptors import Descriptors
from modeld.front.guard import Guard
from modeld.front.lane import Lane, WorkerLost
from modeld.front.loop import Loop
from modeld.front.monitor import Monitor
from modeld.front.notify import Notifier
from modeld.front.proofs import RunningProof
from modeld.front.servable import Servable
from modeld.front.source import SourceView
from modeld.front.spawner import Spawner, Worker
from modeld.front.statedir import StateDirLock
from modeld.front.trials import RunningTrial
from modeld.front.zsocket import ZSocket
from modeld.swap.policy import Pointer
from modeld.swap.ports import Binding, Rejection, Trial, WriteOutcome
from modeld.swap.probation import Terms
from modeld.swap.slot import Slot
from modeld.watch.messages import (
    MAX_REASON,
    Keep,
    Kept,
    Remembered,
    Write,
)  # fmt: skip
from modeld.wire import header
from modeld.wire.contract import Contract
from modeld.work import prctl
from modelreg.settings import DatasetSettings

#: Between two looks at what drains, hangs or waits. Seconds.
_TICK_S = 0.1
#: Between two looks at what orphans left behind. Seconds.
_REAP_S = 1.0
#: A daemon that drains says DRAINING for at least so long: what is on its way to it, and would be lost with its socket,
#: is sent elsewhere by the client at once instead of after a timeout. Seconds.
_REFUSING_S = 0.25
#: Objects made since the last collection before the next one: at some 20 a request, one in thousands pays for it.
_GC_THRESHOLD = 50_000
#: Errors of our own that one life of a daemon bears. A service manager's restart is better than more of them.
_MOST_ERRORS = 100
#: What the front has to do at a time is over by then. Nanoseconds.
_SLICE_NS = 100_000
#: An event has each of these, null where it has nothing to say.
_NO_FIELDS = dict.fromkeys(("from", "to", "generation", "digest", "reason", "actor"))
#: A row of a large matrix may take this long at most before the worker counts as hung. Nanoseconds.
_ROW_NS = 10_000_000


class Daemon:
    """One daemon: `run` returns when it has drained. Lives in one thread."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.guard = Guard.open(config)
        self.loop = Loop(busy_poll_us=config.loop.busy_poll_us)
        self.models: dict[str, Served] = {}
        self._actor = f"modeld:uid:{os.getuid()}"
        self._log = log.get()
        self.started_ns = self.clock_ns()
        self.started_at = self.now()
        self.source = SourceView(self)
        self.ready = False
        self._failure: ModeldError | None = None
        self._notifier = Notifier(later=self.loop.call_in)
        self._incidents = 0
        self._errors = 0
        self._draining_since_ns: int | None = None

    # -- life

    def run(self) -> None:
        """Serve until a signal or an operator's drain.

        Raises:
            EndpointInUse: another live daemon owns an endpoint.
            StateDirInUse: another live daemon owns the state directory.
            NothingToServe: no version could be proved at start and `source.require_model` is set.
        """
        config = self.config
        prctl.set_name("modeld")
        prctl.child_subreaper()
        # Before ZeroMQ makes its thread: both wake up often, for little, and mustn't queue behind what computes.
        prctl.set_slice(_SLICE_NS)
        _raise_descriptor_limit()
        if config.loop.lock_memory:
            _lock_memory()
        state_dir = StateDirLock(config.state_dir)
        self._log.info(log.STARTING, pid=os.getpid(), root=config.source.root, channel=config.source.channel)
        context: zmq.Context[Any] = zmq.Context(io_threads=1)
        data = sockets.router(context, config.limits.max_message_bytes)
        admin = sockets.router(context, min(config.limits.max_message_bytes, 1 << 20))
        self._events = sockets.publisher(context)
        socks: sockets.Sockets = {"data": data, "admin": admin, "events": self._events}
        bound: list[sockets.Made] = []
        self._monitors: list[Monitor] = []
        try:
            handlers = self.guard.start(context, self.loop)
            handlers[zmq.EVENT_ACCEPTED] = lambda fd, endpoint: self.descriptors.accepted(fd, endpoint)
            self._monitors += [Monitor(sock, self.loop, handlers) for sock in socks.values()]
            self.descriptors = Descriptors(sockets.bind_all(config, socks, self.guard, bound))
            data_socket, admin_socket = ZSocket(data), ZSocket(admin)
            self.decoding = self.new_decoding()
            self.data = DataService(
                data_socket,
                self.models,
                config.limits,
                self.clock_ns,
                self.incident,
                self.guard,
                self.decoding,
            )
            self.admin = AdminService(admin_socket, self)
            self.loop.add_socket(data_socket, self.data.on_message)
            self.loop.add_socket(admin_socket, self.admin.on_message)
            self.loop.on_signals(
                {signal.SIGTERM: self.drain, signal.SIGINT: self.drain, signal.SIGHUP: self._on_hangup}
            )
            self.spawner = Spawner(self.loop)
            self.source.connect()
            self.loop.on_error = self._on_error
            self.loop.call_in(_TICK_S, self._tick)
            self.loop.call_in(_REAP_S, self._reap)
            if self._notifier.watchdog_s is not None:
                self.loop.call_in(self._notifier.watchdog_s, self._feed_watchdog)
            self.loop.run()
        finally:
            self._shut_down(context, [*socks.values()], bound)
            state_dir.close()
        if self._failure is not None:
            raise self._failure

    def drain(self) -> None:
        """Admit nothing more, answer what was admitted, then end."""
        if self._draining_since_ns is not None:
            return
        self._draining_since_ns = self.clock_ns()
        self.data.draining = True
        self._log.info(log.DRAINING, pending=self._pending())
        self._notifier.send("STOPPING=1", "STATUS=draining")
        self._end_when_drained()

    def _end_when_drained(self) -> None:
        assert self._draining_since_ns is not None
        since_s = (self.clock_ns() - self._draining_since_ns) / 1e9
        late = since_s > self.config.limits.drain_timeout_s
        if (self._pending() and not late) or since_s < _REFUSING_S:
            self.loop.call_in(0.002, self._end_when_drained)
        else:
            self.loop.stop()

    def _shut_down(
        self, context: zmq.Context[Any], socks: list[zmq.Socket[bytes]], bound: list[sockets.Made]
    ) -> None:
        """From top to bottom: workers first, so that none outlives the zygote; replies last, so that they get out."""
        for served in self.models.values():
            served.slot.close()
        if hasattr(self, "decoding"):
            self.decoding.close()
        self.source.close()
        if hasattr(self, "spawner"):
            self.spawner.close()
        for monitor in self._monitors:
            monitor.close()
        self.guard.close()
        for sock in socks:
            sock.close()
        context.term()  # waits for replies on their way, LINGER_MS at most
        sockets.remove_files(bound)
        if hasattr(self, "data"):
            self._log.info(log.STOPPED, uptime_s=round((self.clock_ns() - self.started_ns) / 1e9, 1))
        self._notifier.close()

    def _pending(self) -> int:
        return self.decoding.pending + sum(served.pending for served in self.models.values())

    def _on_hangup(self) -> None:
        def done() -> None:
            self._notifier.send("READY=1", self._status_line())

        self._log.info(log.RELOADING)
        microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._notifier.send("RELOADING=1", f"MONOTONIC_USEC={microseconds}")
        self.admin.reload_all(done)

    def check_start(self) -> None:
        """Ready with the first version that serves; or, where one is required and none can be had, the end."""
        if self.ready or not self.source.seen:
            return
        slots = [served.slot for served in self.models.values()]
        if (
            slots and all(slot.serving is not None for slot in slots)
        ) or not self.config.source.require_model:
            self._become_ready()
        elif self.source.error is not None and not slots:
            self._fail(f"nothing to serve: {self.source.error}")
        elif not slots:
            source = self.config.source
            which = f"none of source.models {source.models}" if source.models else "no model"
            self._fail(
                f"nothing to serve: {which} in {source.root} has a version in channel {source.channel!r}"
            )
        elif all(slot.settled for slot in slots):
            if any(slot.serving is not None for slot in slots):
                self._become_ready()
            else:
                reasons = [f"{slot.model}: {_why_not(slot)}" for slot in slots]
                self._fail("nothing to serve: " + "; ".join(reasons))

    def _become_ready(self) -> None:
        self.ready = True
        # What is there now lives as long as the process: no collection has to walk it again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(_GC_THRESHOLD, 20, 100)
        self._log.info(
            log.READY,
            models={n: _version(s.slot) for n, s in self.models.items()},
            watching=self.source.watching,
        )
        self._notifier.send("READY=1", self._status_line(), f"MAINPID={os.getpid()}")

    def _fail(self, why: str) -> None:
        self._failure = NothingToServe(why)
        self.loop.stop()

    def _status_line(self) -> str:
        served = ", ".join(f"{name} {_version(one.slot) or '-'}" for name, one in sorted(self.models.items()))
        return f"STATUS=serving {served or 'nothing'}"

    # -- ports of the slots

    def clock_ns(self) -> int:
        return time.monotonic_ns()

    def now(self) -> str:
        return datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")

    def call_in(self, delay_s: float, callback: Callable[[], None]) -> None:
        self.loop.call_in(delay_s, callback)

    def log(self, event: str, **fields: Any) -> None:
        (self._log.warning if event in log.WARNINGS else self._log.info)(event, **fields)

    def event(self, kind: str, model: str, **fields: Any) -> None:
        """Publish and remember an event."""
        body = {"kind": kind, "model_name": model, **_NO_FIELDS, **fields, "at": self.now()}
        self.admin.history.append(body)
        if model in self.models:
            counts = self.models[model].stats.events
            counts[kind] = counts.get(kind, 0) + 1
        self._events.send_multipart([f"{kind}.{model}".encode(), header.encode_json(body)], zmq.NOBLOCK)
        self._notifier.send(self._status_line())
        self.source.tell_generations()

    def write(
        self,
        model: str,
        expect: str,
        to: str | None,
        mark_failed: bool,
        reason: str,
        actor: str,
        done: Callable[[WriteOutcome], None],
    ) -> None:
        self.source.write(Write(0, model, expect, to, mark_failed, reason[:MAX_REASON], actor), done)

    def keep(self, binding: Binding, rejected: list[Rejection], unserved: list[str]) -> None:
        pointer = binding.served.pointer
        remembered = [
            Remembered(r.version, r.digest, r.stage, r.reason[:MAX_REASON], r.at, r.actor, r.mark_failed)
            for r in rejected
        ]
        self.models[pointer.model].slot.degraded.pop("state_dir", None)
        kept = Kept(pointer, binding.generation, remembered, list(binding.contract.features), unserved)
        self.source.link.send(Keep(kept))

    def start_trial(self, pointer: Pointer, trial: Trial) -> RunningTrial:
        slot = self.models[pointer.model].slot
        return RunningTrial(self, pointer, trial, slot.serving.served if slot.serving is not None else None)

    def datasets_for(self, pointer: Pointer) -> DatasetSettings | None:
        """What tells the current data sets, where a trial has to compare the version with them.

        A version that served before only goes on: drift is no reason to be without it after a restart.
        """
        told = self.config.datasets
        if not (told.file or told.command) or self.models[pointer.model].slot.has_served(pointer):
            return None
        return told

    def join(self, served: Servable, worker: Worker) -> None:
        """Give a worker that passed its trial to the version that it serves from now on."""
        lane = Lane(worker)

        def on_packet(packet: bytes) -> None:
            try:
                served.on_packet(lane, packet)
            except WorkerLost as e:
                self._log.error(log.INCIDENT, model=served.contract.model, worker=worker.pid, what=str(e))
                worker.kill()

        def on_end(how: str) -> None:
            served.on_death(lane)
            self.models[served.contract.model].slot.service.worker_died(served, how)

        worker.on_packet, worker.on_end = on_packet, on_end
        worker.takes_fds = False
        served.attach(lane)

    def prove(self, served: Servable) -> None:
        """Have plans of a version that serves now proved beside it, if there may be some and none are there."""
        if served.wants_plans:
            served.prove(RunningProof(self, served))
        elif served.path == "worker":
            contract = served.contract
            self.log(
                log.PLAN_MISSING, model=contract.model, version=contract.version, reason=served.unplanned_why
            )

    def new_servable(self, pointer: Pointer, contract: Contract, unplanned_why: str) -> Servable:
        limits = self.config.limits
        return Servable(
            pointer,
            contract,
            self.clock_ns,
            queue_requests=limits.queue_requests,
            queue_bytes=limits.queue_bytes,
            on_bad_output=self._on_bad_output,
            live_rows=self.config.trial.live_rows,
            in_pieces=self.loop.in_pieces,
            unplanned_why=unplanned_why,
        )

    def new_decoding(self) -> Decoding:
        config = self.config
        return Decoding(
            lambda: self.spawner.spawn(),
            self.loop.in_pieces,
            self.clock_ns,
            self.incident,
            max_rows=config.limits.max_rows,
            queue_requests=config.limits.queue_requests,
            queue_bytes=config.limits.queue_bytes,
            memory_limit_mb=config.trial.memory_limit_mb,
        )

    def add_model(self, name: str) -> Slot:
        config = self.config
        slot = Slot(
            name,
            self,
            actor=self._actor,
            rollback_on_reject=config.on_reject == "rollback",
            allow_schema_change=config.trial.allow_schema_change,
            probation=Terms(**msgspec.structs.asdict(config.probation)),
            workers=config.workers,
            keep_warm=config.keep_warm,
            drain_timeout_s=config.limits.drain_timeout_s,
        )
        if (kept := self.source.kept.get(name)) is not None:
            rejected = [Rejection(**msgspec.structs.asdict(one)) for one in kept.rejected]
            slot.resume(kept.pointer, kept.generation, rejected, kept.features, kept.unserved)
        if name in self.source.generations:
            slot.resume_generation(*self.source.generations[name])
        slot.held = self.source.held(name)
        self.models[name] = Served(slot)
        return slot

    def incident(self, error: BaseException | str, **fields: Any) -> str:
        """Log what must not have happened; the id that comes back goes into the error reply."""
        self._incidents += 1
        incident = f"{os.getpid():x}-{self._incidents:x}"
        if isinstance(error, BaseException):
            fields["trace"] = "".join(traceback.format_exception(error)[-3:])
            error = f"{type(error).__name__}: {error}"
        self._log.error(log.INCIDENT, incident=incident, what=error, **fields)
        return incident

    def _on_error(self, error: Exception) -> None:
        """An error of ours: what it was about is lost, and everything else is served on; but not for ever."""
        self.incident(error)
        self._errors += 1
        if self._errors > _MOST_ERRORS:
            raise error

    def _on_bad_output(self, served: Servable, what: str) -> str:
        incident = self.incident(what, model=served.contract.model, version=served.contract.version)
        self.models[served.contract.model].slot.service.bad_output(served, what)
        return incident

    # -- now and then

    def _tick(self) -> None:
        self.loop.call_in(_TICK_S, self._tick)  # first: an error below mustn't make this the last tick
        small_ns = int(self.config.limits.predict_timeout_s * 1e9)
        row_ns = max(_ROW_NS, int(self.config.trial.max_row_us * 1e3))
        for name, served in self.models.items():
            slot = served.slot
            for one in slot.residents():
                one.expire()
                for lane in one.hung(small_ns, row_ns):
                    self._log.error(log.WORKER_HUNG, model=name, worker=lane.channel.pid)
                    lane.channel.kill()
            slot.tick()
        self._events.get(zmq.EVENTS)  # takes in subscriptions, which a PUB else does when it sends
        self.descriptors.tick()
        self.decoding.tick()
        self.spawner.sweep()
        self.source.check()
        self.source.tell_in_use()
        self.source.tell_holds()
        self.source.tell_generations()
        self.check_start()
        if self._draining_since_ns or (not self.ready and any(s.slot.trial for s in self.models.values())):
            self._notifier.extend()

    def _reap(self) -> None:
        self.loop.call_in(_REAP_S, self._reap)
        self.spawner.reap_orphans(self.source.link.pid)

    def _feed_watchdog(self) -> None:
        """From the loop itself: a loop that doesn't turn doesn't feed."""
        assert self._notifier.watchdog_s is not None
        self._notifier.send("WATCHDOG=1")
        self.loop.call_in(self._notifier.watchdog_s, self._feed_watchdog)


def _raise_descriptor_limit() -> None:
    """As many descriptors as we may have: libzmq ends the process that runs out of them."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _lock_memory() -> None:
    try:
        prctl.lock_memory()
    except OSError as e:
        raise ModeldError(
            f"loop.lock_memory: {e.strerror}: set LimitMEMLOCK=infinity in the unit, or leave it off"
        ) from e


def _version(slot: Slot) -> str | None:
    return slot.serving.contract.version if slot.serving is not None else None


def _why_not(slot: Slot) -> str:
    rejection = slot.last_rejection
    if rejection is None:
        return slot.degraded.get("trial", "no version in the channel")
    return f"{rejection.version} was rejected {rejection.when}: {rejection.reason}"
