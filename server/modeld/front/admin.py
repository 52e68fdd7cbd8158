"""The admin socket: what operators ask for. Each operation answers once, some only when its outcome is known."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import zmq

from modeld import log
from modeld.errors import RequestError, retryable
from modeld.front import report
from modeld.front.zsocket import ZSocket
from modeld.swap.ports import WriteOutcome
from modeld.swap.slot import Slot
from modeld.wire import header, replies
from modeld.wire.header import AdminRequest

if TYPE_CHECKING:
    from modeld.front.daemon import Daemon

#: An operator waits for the outcome of a reload or rollback at most this much longer than a trial may take. Seconds.
_WAIT_MARGIN_S = 5.0
#: Decisions remembered for `history`.
_HISTORY = 1000

#: How the source's refusal of a write is told on the wire; what isn't here says that it couldn't be written.
_WRITE_CODES = {
    "not_found": "VERSION_NOT_AVAILABLE", "conflict": "CONFLICT", "gate": "CONFLICT", "usage": "MALFORMED",
}  # fmt: skip

Respond = Callable[[dict[str, Any] | RequestError], None]


class AdminService:
    """Handles one message at a time. Owned by the loop."""

    def __init__(self, sock: ZSocket, daemon: Daemon) -> None:
        self._sock = sock
        self._daemon = daemon
        self.dropped_replies = 0
        self.dropped_messages = 0
        self.history: deque[dict[str, Any]] = deque(maxlen=_HISTORY)

    def on_message(self) -> None:
        """Receive one message; answer it now or later."""
        self._sock.wake()
        try:
            parts = self._sock.raw.recv_multipart(zmq.NOBLOCK, copy=False)
        except zmq.Again:
            return
        frames = [part.bytes for part in parts]
        envelope, body = header.split(frames)
        if not body:
            self.dropped_messages += 1
            return
        encode = header.encode_json if header.is_json(body[0]) else header.encode_msgpack
        request_id: header.RequestId = None

        def respond(outcome: dict[str, Any] | RequestError) -> None:
            if isinstance(outcome, RequestError):
                reply = replies.error(encode, request_id, outcome)
            else:
                reply = [encode({"id": request_id, **outcome})]
            try:
                self._sock.send(envelope + reply)
            except zmq.ZMQError:
                self.dropped_replies += 1  # the operator is gone; the deed is done and logged all the same

        try:
            request = header.decode_admin(body[0])
            request_id = request.id
            handler = _OPS.get(request.op)
            if handler is None:
                raise RequestError(
                    "UNKNOWN_OP", f"no operation {request.op!r} here; there are {', '.join(_OPS)}"
                )
            if len(body) > 1:
                raise RequestError("MALFORMED", f"{request.op} takes no raw frames; {len(body) - 1} came")
            actor = self._daemon.guard.admit(parts[0], request.op).name
            if request.op in _ACTS:
                self._daemon.log(
                    log.OPERATION, op=request.op, actor=actor, model=request.model_name, reason=request.reason
                )
            handler(self, request, actor, respond)
        except RequestError as e:
            request_id = request_id if e.request_id is None else e.request_id
            respond(e)
        except Exception as e:  # noqa: BLE001 (an operator's message doesn't end the server either)
            incident = self._daemon.incident(e)
            respond(RequestError("INTERNAL", "this request met an error of ours", incident=incident))

    def reload_all(self, done: Callable[[], None]) -> None:
        """A reload of every model, as SIGHUP asks for it; `done` when all are settled."""
        self._reload(AdminRequest("reload"), "signal", lambda _: done())

    # -- operations

    def _status(self, _request: AdminRequest, _actor: str, respond: Respond) -> None:
        respond(report.status(self._daemon))

    def _reload(self, request: AdminRequest, _actor: str, respond: Respond) -> None:
        if request.model_name is None and (stale := self._daemon.guard.reload()) is not None:
            respond_alone = respond

            def respond(outcome: dict[str, Any] | RequestError) -> None:
                if not isinstance(outcome, RequestError):
                    outcome = {**outcome, "allow_list": stale}
                respond_alone(outcome)

        def looked() -> None:
            if self._daemon.source.error:
                respond(
                    retryable("SOURCE_UNAVAILABLE", f"the source can't be read: {self._daemon.source.error}")
                )
                return
            try:
                slots = self._slots(request.model_name)
            except RequestError as e:
                respond(e)
                return
            for slot in slots:
                if request.force:
                    slot.forgive()
            if not request.wait:
                busy = [slot.model for slot in slots if not slot.settled]
                respond(
                    {"reloaded": False, "reason": f"on trial: {', '.join(busy)}" if busy else "nothing new"}
                )
                return
            self._when_settled(slots, lambda: respond(self._outcome(slots, request.model_name)), respond)

        self._daemon.source.look(looked)

    @staticmethod
    def _outcome(slots: list[Slot], named: str | None) -> dict[str, Any] | RequestError:
        lines = [_reload_line(slot) for slot in slots]
        for slot, line in zip(slots, lines, strict=True):
            if why := slot.degraded.get("trial"):
                return retryable("SOURCE_UNAVAILABLE", f"{slot.model}: {why}", model_name=slot.model)
            rejection = slot.last_rejection
            if line.get("rejected") and rejection is not None:
                serving = slot.serving.contract.version if slot.serving is not None else None
                return RequestError(
                    "REJECTED",
                    f"{slot.model} {rejection.version} was rejected {rejection.when}: {rejection.reason}; "
                    + (f"{serving} goes on serving" if serving else "nothing serves"),
                    model_name=slot.model,
                    version=rejection.version,
                    reason=rejection.reason,
                    serving=serving,
                    generation=slot.generation,
                )
        if named is not None or len(lines) == 1:
            return lines[0]
        outcome = {"reloaded": any(line["reloaded"] for line in lines), "models": lines}
        if not outcome["reloaded"]:
            outcome["reason"] = (
                "; ".join(dict.fromkeys(line["reason"] for line in lines)) or "the source names no model"
            )
        return outcome

    def _rollback(self, request: AdminRequest, actor: str, respond: Respond) -> None:
        slot = self._one_slot(request.model_name)
        if not request.reason.strip():
            raise RequestError("MALFORMED", "rollback needs a reason: it is written to the registry's log")
        self._may_roll_back(slot, request)
        assert slot.serving is not None
        assert slot.desired is not None
        serves, to, waits = slot.serving.contract.version, request.to, slot.waiting_behind_hold
        if waits is not None and to is None:
            raise RequestError(
                "CONFLICT",
                f"{slot.model} {waits} is in production and waits behind the hold, {serves} serves: nothing was done; "
                f"say where to go back to (--to; --to {serves} puts {serves} back into production)",
                generation=slot.generation,
            )

        def here(why: str) -> None:
            try:
                self._may_roll_back(slot, request)  # much may have happened while the write was under way
                respond(self._roll_back_here(slot, request, actor, why))
            except RequestError as e:
                respond(e)

        def written(outcome: WriteOutcome) -> None:
            if outcome.code is not None:
                slot.rolling_back(False)
                if self._source_is_away(slot) or outcome.code not in _WRITE_CODES:
                    here(outcome.error or "")
                else:
                    respond(RequestError(_WRITE_CODES[outcome.code], f"not rolled back: {outcome.error}"))
                return

            def settled() -> None:
                slot.rolling_back(False)
                serving = slot.serving.contract.version if slot.serving is not None else None
                if serving == outcome.to_version:
                    reply = {
                        "rolled_back": True,
                        "model_name": slot.model,
                        "from": outcome.from_version,
                        "to": serving,
                        "generation": slot.generation,
                        "written": True,
                    }
                    if waits is not None and request.mark_failed and serving != serves:
                        reply["reason"] = f"{serves} isn't marked failed: it wasn't in production any more"
                    respond(reply)
                else:
                    why = slot.last_rejection.reason if slot.last_rejection else "it was superseded"
                    respond(
                        RequestError(
                            "REJECTED",
                            f"{slot.model} {outcome.to_version} doesn't serve: {why}; the source was pointed to it "
                            f"and {serving or 'nothing'} serves",
                            serving=serving,
                        )
                    )

            slot.rolled_back(outcome.from_version, outcome.to_version)
            self._when_settled([slot], settled, respond)

        if why := self._source_is_away(slot):
            here(why)
            return
        slot.rolling_back(True)
        if waits is not None and to == waits:
            written(WriteOutcome(from_version=serves, to_version=to))  # it is in production already
            return
        if to is None and slot.desired.digest != slot.serving.digest:
            to = serves  # the source names what doesn't serve: back to what does
        # What waits was never tried here: that an operator leaves another version says nothing about it.
        mark_failed = request.mark_failed and waits is None
        self._daemon.write(slot.model, slot.desired.version, to, mark_failed, request.reason, actor, written)

    @staticmethod
    def _may_roll_back(slot: Slot, request: AdminRequest) -> None:
        """Raises RequestError where there is nothing to roll back, or somebody has decided otherwise."""
        if slot.serving is None or slot.desired is None:
            raise retryable("NOT_READY", f"{slot.model}: nothing serves, so there is nothing to roll back")
        if request.expect_generation is not None and request.expect_generation != slot.generation:
            raise RequestError(
                "CONFLICT",
                f"{slot.model} is generation {slot.generation}, not {request.expect_generation}: nothing was done",
                generation=slot.generation,
            )

    def _source_is_away(self, slot: Slot) -> str | None:
        """Why nothing can be written to this model's source now."""
        return self._daemon.source.error or self._daemon.source.broken.get(slot.model)

    @staticmethod
    def _roll_back_here(
        slot: Slot, request: AdminRequest, actor: str, why: str
    ) -> dict[str, Any] | RequestError:
        """The warm version serves at once; the source is told when it can be."""
        old, wanted = slot.serving, slot.desired
        assert old is not None
        if wanted is None or (wanted.digest != old.digest and wanted.digest not in slot.rejected):
            waits = f"{wanted.version} is to be served" if wanted is not None else "it names no version"
            return RequestError("SOURCE_UNAVAILABLE", f"not rolled back: {why}; and by its last word {waits}")
        if not slot.roll_back_here(
            request.to, request.reason, actor, mark_failed=request.mark_failed, why=why
        ):
            named = f"{request.to} isn't" if request.to else "nothing is"
            return RequestError("SOURCE_UNAVAILABLE", f"not rolled back: {why}; and {named} warm here")
        assert slot.serving is not None
        return {
            "rolled_back": True,
            "model_name": slot.model,
            "from": old.contract.version,
            "to": slot.serving.contract.version,
            "generation": slot.generation,
            "written": False,
            "reason": f"the source gets the record when it can be written: {why}",
        }

    def _hold(self, request: AdminRequest, actor: str, respond: Respond) -> None:
        if not request.reason.strip():
            raise RequestError("MALFORMED", "hold needs a reason: status shows it")
        self._set_held(request, actor, f"{request.reason} ({actor})", respond)

    def _release(self, request: AdminRequest, actor: str, respond: Respond) -> None:
        self._set_held(request, actor, None, respond)

    def _set_held(self, request: AdminRequest, actor: str, held: str | None, respond: Respond) -> None:
        slots = self._slots(request.model_name)
        for slot in slots:
            slot.held = held
            self._daemon.event(
                "hold",
                slot.model,
                held=held is not None,
                reason=request.reason,
                actor=actor,
                generation=slot.generation,
            )
            slot.reconcile()
        self._daemon.source.tell_holds()
        respond({"held": held is not None, "models": [slot.model for slot in slots]})

    def _drain(self, _request: AdminRequest, _actor: str, respond: Respond) -> None:
        respond({"draining": True})
        self._daemon.drain()

    def _history(self, request: AdminRequest, _actor: str, respond: Respond) -> None:
        wanted = [
            entry for entry in reversed(self.history) if request.model_name in (None, entry["model_name"])
        ]
        if not wanted:
            self._slots(request.model_name)  # nothing was decided yet, or there is no such model
        respond({"history": wanted[: max(0, request.limit)]})

    def _stats(self, _request: AdminRequest, _actor: str, respond: Respond) -> None:
        respond(report.stats(self._daemon))

    # -- helpers

    def _slots(self, name: str | None) -> list[Slot]:
        if name is None:
            return [served.slot for _, served in sorted(self._daemon.models.items())]
        served = self._daemon.models.get(name)
        if served is None:
            there = ", ".join(sorted(self._daemon.models)) or "none"
            raise RequestError("MODEL_NOT_FOUND", f"no model {name!r} here; there is {there}")
        return [served.slot]

    def _one_slot(self, name: str | None) -> Slot:
        slots = self._slots(name)
        if len(slots) != 1:
            raise RequestError(
                "MODEL_NOT_FOUND",
                f"name the model: {', '.join(slot.model for slot in slots) or 'none'} served",
            )
        return slots[0]

    def _when_settled(self, slots: list[Slot], then: Callable[[], None], respond: Respond) -> None:
        """Call `then` once when nothing is under way for any of `slots`; say so where that takes too long."""
        over = False

        def check() -> bool:
            nonlocal over
            if not over and all(slot.settled for slot in slots):
                over = True
                then()
            return over

        def late() -> None:
            nonlocal over
            if not over:
                over = True
                respond(retryable("NOT_READY", "the trial isn't over yet; ask for the status"))

        if not check():
            for slot in slots:
                slot.waiters.append(check)
            self._daemon.loop.call_in(self._daemon.config.trial.timeout_s + _WAIT_MARGIN_S, late)


def _reload_line(slot: Slot) -> dict[str, Any]:
    binding = slot.serving
    line: dict[str, Any] = {
        "reloaded": False,
        "model_name": slot.model,
        "version": binding.contract.version if binding is not None else None,
        "generation": slot.generation,
    }
    outcome = slot.take_news()
    if outcome == "rejected" or (slot.desired is not None and slot.desired.digest in slot.rejected):
        line["rejected"] = True
    elif outcome == "swapped":
        line["reloaded"] = True
    elif slot.held is not None:
        line["reason"] = f"held: {slot.held}"
    else:
        line["reason"] = "nothing new" if binding is not None else "the source names no version"
    return line


#: What changes something, and so is logged with who asked for it, whatever becomes of it.
_ACTS = frozenset({"reload", "rollback", "hold", "release", "drain"})
_OPS: dict[str, Callable[[AdminService, AdminRequest, str, Respond], None]] = {
    "status": AdminService._status,
    "reload": AdminService._reload,
    "rollback": AdminService._rollback,
    "hold": AdminService._hold,
    "release": AdminService._release,
    "drain": AdminService._drain,
    "history": AdminService._history,
    "stats": AdminService._stats,
}
