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

import zmq

from modeld import log
from modeld.config import Config
from modeld.errors import ModeldError, NothingToServe
from modeld.forest.scorer import Scorer
from modeld.front import sockets
from modeld.front.admin import AdminService
from modeld.front.data import DataService, Served
from modeld.front.link import Link
from modeld.front.loop import Loop
from modeld.front.notify import Notifier
from modeld.front.servable import Lane, Servable, WorkerLost
from modeld.front.spawner import Spawner, Worker
from modeld.front.trials import RunningTrial
from modeld.front.zsocket import ZSocket
from modeld.swap.policy import Pointer
from modeld.swap.slot import Binding, Rejection, Slot, Trial, WriteOutcome
from modeld.watch.messages import (
    MAX_REASON,
    Begin,
    FromWatcher,
    Keep,
    Kept,
    Look,
    Observed,
    Remembered,
    Write,
    Written,
)  # fmt: skip
from modeld.wire import header
from modeld.wire.contract import Contract
from modeld.work import prctl

#: Between two looks at what drains, hangs or waits. Seconds.
_TICK_S = 0.1
#: A watcher that hasn't answered for so long is stuck. Seconds.
_WATCHER_ANSWERS_S = 10.0
_WATCHER_GONE = WriteOutcome(
    "store_unavailable", "the watcher isn't there now; what it did shows at its next look"
)
#: Objects made since the last collection before the next one: at some 20 a request, one in thousands pays for it.
_GC_THRESHOLD = 50_000
#: A row of a large matrix may take this long at most before the worker counts as hung. Nanoseconds.
_ROW_NS = 10_000_000


class Daemon:
    """One daemon: `run` returns when it has drained. Lives in one thread."""

    def __init__(self, config: Config) -> None:
        self.config = config
        self.loop = Loop(busy_poll_us=config.loop.busy_poll_us)
        self.models: dict[str, Served] = {}
        self.source_error: str | None = None
        self.watching = "starting"
        self.broken: dict[str, str] = {}
        self._actor = f"modeld:uid:{os.getuid()}"
        self._log = log.get()
        self.started_ns = self.clock_ns()
        self.started_at = self.now()
        #: Who waits for the look under way, and for the next one.
        self._look: list[Callable[[], None]] = []
        self._next_look: list[Callable[[], None]] = []
        self._look_token = 0
        self._look_ns = self.clock_ns()
        self._writes: dict[int, tuple[int, Callable[[WriteOutcome], None]]] = {}
        self._kept: dict[str, Kept] = {}
        self._seen = False
        self._token = 0
        self.ready = False
        self._failure: ModeldError | None = None
        self._notifier = Notifier(later=self.loop.call_in)
        self._incidents = 0
        self._draining_since_ns: int | None = None

    # -- life

    def run(self) -> None:
        """Serve until a signal or an operator's drain.

        Raises:
            EndpointInUse: another live daemon owns an endpoint.
            NothingToServe: no version could be proved at start and `source.require_model` is set.
        """
        config = self.config
        prctl.set_name("modeld")
        prctl.child_subreaper()
        _raise_descriptor_limit()
        self._log.info(log.STARTING, pid=os.getpid(), root=config.source.root, channel=config.source.channel)
        context: zmq.Context[Any] = zmq.Context(io_threads=1)
        data = sockets.router(context, config.limits.max_message_bytes)
        admin = sockets.router(context, min(config.limits.max_message_bytes, 1 << 20))
        self._events = sockets.publisher(context)
        bound: list[tuple[str, int, int]] = []
        try:
            for sock, endpoint in (
                *((data, endpoint) for endpoint in config.data_endpoints),
                (admin, config.admin_endpoint),
                (self._events, config.events_endpoint),
            ):
                made = sockets.bind(sock, endpoint)
                if made is not None:
                    bound.append(made)
            data_socket, admin_socket = ZSocket(data), ZSocket(admin)
            self.data = DataService(data_socket, self.models, config.limits, self.clock_ns, self.incident)
            self.admin = AdminService(admin_socket, self)
            self.loop.add_socket(data_socket, self.data.on_message)
            self.loop.add_socket(admin_socket, self.admin.on_message)
            self.loop.on_signals(
                {signal.SIGTERM: self.drain, signal.SIGINT: self.drain, signal.SIGHUP: self._on_hangup}
            )
            self.spawner = Spawner(self.loop)
            begin = Begin(config.source, config.watch, config.state_dir)
            self.link = Link(self.loop, begin, self._on_watcher, self._on_watcher_lost)
            self.loop.call_in(_TICK_S, self._tick)
            if self._notifier.watchdog_s is not None:
                self.loop.call_in(self._notifier.watchdog_s, self._feed_watchdog)
            self.loop.run()
        finally:
            self._shut_down(context, [data, admin, self._events], bound)
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
        late = self.clock_ns() - self._draining_since_ns > self.config.limits.drain_timeout_s * 1e9
        if self._pending() and not late:
            self.loop.call_in(0.002, self._end_when_drained)
        else:
            self.loop.stop()

    def _shut_down(
        self, context: zmq.Context[Any], socks: list[zmq.Socket[bytes]], bound: list[tuple[str, int, int]]
    ) -> None:
        """From top to bottom: workers first, so that none outlives the zygote; replies last, so that they get out."""
        for served in self.models.values():
            served.slot.close()
        if hasattr(self, "link"):
            self.link.close()
        if hasattr(self, "spawner"):
            self.spawner.close()
        for sock in socks:
            sock.close()
        context.term()  # waits for replies on their way, LINGER_MS at most
        sockets.remove_files(bound)
        if hasattr(self, "data"):
            self._log.info(log.STOPPED, uptime_s=round((self.clock_ns() - self.started_ns) / 1e9, 1))
        self._notifier.close()

    def _pending(self) -> int:
        return sum(served.pending for served in self.models.values())

    # -- the source

    def look(self, then: Callable[[], None]) -> None:
        """Have the source looked at from now on, and `then` called when what it says has been taken in.

        One look is under way at a time; what is asked meanwhile shares the next one.
        """
        self._next_look.append(then)
        if not self._look:
            self._start_look()

    def _start_look(self) -> None:
        self._look, self._next_look = self._next_look, []
        if self._look:
            self._token += 1
            self._look_token, self._look_ns = self._token, self.clock_ns()
            if not self.link.send(Look(self._token)):
                self._end_look()

    def _end_look(self) -> None:
        done, self._look = self._look, []
        for then in done:
            then()
        if not self._look:
            self._start_look()

    def _on_watcher(self, message: FromWatcher) -> None:
        if isinstance(message, Observed):
            self._observed(message)
        elif isinstance(message, Written):
            self._written(message)
        else:
            self._log.warning(log.KEEP_FAILED, model=message.model, error=message.error)
            if message.model in self.models:
                self.models[message.model].slot.degraded["state_dir"] = f"no copy is kept: {message.error}"

    def _observed(self, message: Observed) -> None:
        self._seen = True
        self.watching = message.watching
        for kept in message.kept:
            self._kept.setdefault(kept.pointer.model, kept)
        pointers = {pointer.model: pointer for pointer in message.pointers}
        if message.error is not None:
            if message.error != self.source_error:
                self._log.warning(log.SOURCE_LOST, error=message.error)
            self.source_error = message.error
            # Without the source, what is kept is all that there is to serve.
            only = self.config.source.models
            for name in self._kept.keys() - self.models.keys():
                if not only or name in only:
                    self._add_model(name).observe(None)
        else:
            if self.source_error is not None:
                self._log.info(log.SOURCE_BACK)
            self.source_error = None
            if message.broken != self.broken:
                for name, why in message.broken.items():
                    self._log.warning(log.MODEL_BROKEN, model=name, error=why)
            self.broken = message.broken
            for name in pointers.keys() - self.models.keys():
                self._add_model(name)
            for name, served in self.models.items():
                if name in message.broken and name not in pointers:
                    continue  # it says nothing, which isn't the same as naming no version
                served.slot.observe(pointers.get(name), frozenset(message.unfit.get(name, ())))
        if message.token is not None and message.token == self._look_token:
            self._end_look()
        self._check_start()

    def _written(self, message: Written) -> None:
        found = self._writes.pop(message.token, None)
        if found is not None:
            found[1](WriteOutcome(message.code, message.error, message.from_version, message.to_version))

    def _on_watcher_lost(self) -> None:
        """What was asked of a watcher that died gets its answer now; the next one looks at once."""
        self.watching = "restarting"
        writes, self._writes = self._writes, {}
        for _, done in writes.values():
            done(_WATCHER_GONE)
        self._end_look()

    def _check_watcher(self) -> None:
        """Ask it now and then; one that doesn't answer in time is killed, and another takes its place."""
        now = self.clock_ns()
        limit_ns = int(_WATCHER_ANSWERS_S * 1e9)
        late = [since for since, _ in self._writes.values()]
        if self._look:
            late.append(self._look_ns)
        if late and now - min(late) > limit_ns:
            self.watching = "not answering"
            self.link.kill("it doesn't answer")
        elif not self._look and now - self._look_ns > limit_ns / 4:
            self.look(lambda: None)

    def _on_hangup(self) -> None:
        def done() -> None:
            self._notifier.send("READY=1", self._status_line())

        self._log.info(log.RELOADING)
        microseconds = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._notifier.send("RELOADING=1", f"MONOTONIC_USEC={microseconds}")
        self.admin.reload_all(done)

    def _check_start(self) -> None:
        """Ready with the first version that serves; or, where one is required and none can be had, the end."""
        if self.ready or not self._seen:
            return
        slots = [served.slot for served in self.models.values()]
        if (
            slots and all(slot.serving is not None for slot in slots)
        ) or not self.config.source.require_model:
            self._become_ready()
        elif self.source_error is not None and not slots:
            self._fail(f"nothing to serve: {self.source_error}")
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
            log.READY, models={n: _version(s.slot) for n, s in self.models.items()}, watching=self.watching
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
        body = {"kind": kind, "model_name": model, **fields, "at": self.now()}
        self.admin.history.append(body)
        if model in self.models:
            counts = self.models[model].stats.events
            counts[kind] = counts.get(kind, 0) + 1
        self._events.send_multipart([f"{kind}.{model}".encode(), header.encode_json(body)], zmq.NOBLOCK)
        self._notifier.send(self._status_line())

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
        self._token += 1
        token = self._token
        self._writes[token] = (self.clock_ns(), done)
        request = Write(token, model, expect, to, mark_failed, reason[:MAX_REASON], actor)
        if not self.link.send(request) and self._writes.pop(token, None) is not None:
            done(_WATCHER_GONE)

    def keep(self, binding: Binding, rejected: list[Rejection]) -> None:
        pointer = binding.served.pointer
        remembered = [Remembered(r.version, r.digest, r.stage, r.reason[:MAX_REASON], r.at) for r in rejected]
        self.models[pointer.model].slot.degraded.pop("state_dir", None)
        self.link.send(Keep(Kept(pointer, binding.generation, remembered)))

    def start_trial(self, pointer: Pointer, trial: Trial) -> RunningTrial:
        return RunningTrial(self, pointer, trial)

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
            self.models[served.contract.model].slot.worker_died(served, how)

        worker.on_packet, worker.on_end = on_packet, on_end
        worker.takes_fds = False
        served.attach(lane)

    def new_servable(
        self,
        pointer: Pointer,
        contract: Contract,
        scorers: list[Scorer],
        scored_rows: int,
        unplanned_why: str,
    ) -> Servable:
        limits = self.config.limits
        return Servable(
            pointer,
            contract,
            self.clock_ns,
            queue_requests=limits.queue_requests,
            queue_bytes=limits.queue_bytes,
            on_bad_output=self._on_bad_output,
            scorers=scorers,
            scored_rows=scored_rows,
            unplanned_why=unplanned_why,
        )

    def _add_model(self, name: str) -> Slot:
        config = self.config
        slot = Slot(
            name,
            self,
            actor=self._actor,
            rollback_on_reject=config.on_reject == "rollback",
            allow_schema_change=config.trial.allow_schema_change,
            probation_s=config.probation.seconds,
            probation_requests=config.probation.requests,
            workers=config.workers,
        )
        if (kept := self._kept.get(name)) is not None:
            rejected = [Rejection(r.version, r.digest, r.stage, r.reason, r.at) for r in kept.rejected]
            slot.resume(kept.pointer, kept.generation, rejected)
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

    def _on_bad_output(self, served: Servable, what: str) -> str:
        incident = self.incident(what, model=served.contract.model, version=served.contract.version)
        self.models[served.contract.model].slot.bad_output(served, what)
        return incident

    # -- now and then

    def _tick(self) -> None:
        small_ns = int(self.config.limits.predict_timeout_s * 1e9)
        for name, served in self.models.items():
            slot = served.slot
            resident = [binding.served for binding in (slot.serving, slot.warm) if binding is not None]
            for one in (*resident, *slot.retiring):
                one.expire()
                for lane in one.hung(small_ns, _ROW_NS):
                    self._log.error(log.WORKER_HUNG, model=name, worker=lane.channel.pid)
                    lane.channel.kill()
            slot.tick()
        self.spawner.sweep()
        self._check_watcher()
        self._check_start()
        self.loop.call_in(_TICK_S, self._tick)

    def _feed_watchdog(self) -> None:
        """From the loop itself: a loop that doesn't turn doesn't feed."""
        assert self._notifier.watchdog_s is not None
        self._notifier.send("WATCHDOG=1")
        self.loop.call_in(self._notifier.watchdog_s, self._feed_watchdog)


def _raise_descriptor_limit() -> None:
    """As many descriptors as we may have: libzmq ends the process that runs out of them."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _version(slot: Slot) -> str | None:
    return slot.serving.contract.version if slot.serving is not None else None


def _why_not(slot: Slot) -> str:
    rejection = slot.last_rejection
    if rejection is None:
        return "no version in the channel"
    return f"{rejection.version} was rejected while {rejection.stage}: {rejection.reason}"
