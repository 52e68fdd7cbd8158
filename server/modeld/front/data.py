"""The data socket: requests in, bound to a generation, predictions or errors out. This is the hot path."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import zmq

from modeld import __version__
from modeld.config import Limits
from modeld.errors import RequestError, retryable
from modeld.front.guard import Guard
from modeld.front.job import Job
from modeld.front.stats import Stats
from modeld.front.zsocket import ZSocket
from modeld.swap.policy import State
from modeld.swap.ports import Binding
from modeld.swap.slot import Slot
from modeld.wire import header, replies, tensors
from modeld.wire.header import Request, RequestId

EXTENSIONS = ["binary_tensor_data", "parameters"]
#: Operations of the admin socket, named in the refusal when one comes here.
ADMIN_OPS = frozenset({"status", "reload", "rollback", "hold", "release", "drain", "history", "stats"})


class Served:
    """A model as the data socket sees it: its slot and what it has counted."""

    __slots__ = ("slot", "stats")

    def __init__(self, slot: Slot) -> None:
        self.slot = slot
        self.stats = Stats()

    @property
    def pending(self) -> int:
        """Requests admitted and not yet answered, of every resident version."""
        return sum(one.pending for one in self.slot.residents())


class PredictJob(Job):
    """A request that waits for its prediction, with all that its reply needs."""

    __slots__ = ("binding", "encode", "envelope", "pinned", "raw", "request_id", "service", "stats")

    def __init__(
        self,
        service: DataService,
        stats: Stats,
        envelope: list[bytes],
        encode: replies.Encode,
        request_id: RequestId,
        raw: bool,
        binding: Binding,
        pinned: bool,
        data: bytes | memoryview,
        rows: int,
        admitted_ns: int,
        deadline_ns: int | None,
    ) -> None:
        super().__init__(data, rows, admitted_ns, deadline_ns)
        self.service = service
        self.stats = stats
        self.envelope = envelope
        self.encode = encode
        self.request_id = request_id
        self.raw = raw
        self.binding = binding
        #: The client named the version: no other may answer.
        self.pinned = pinned

    def rebind(self, binding: Binding) -> bool:
        """A later generation may answer in place of one whose workers are gone, if it takes the same features."""
        if self.pinned or binding.contract.features != self.binding.contract.features:
            return False
        self.binding = binding
        return True

    def finish(self, tensors: list[bytes], predict_ns: int) -> None:
        binding = self.binding
        self.service.send(
            self.envelope,
            replies.prediction(
                self.encode,
                self.request_id,
                binding.contract,
                binding.generation,
                binding.digest,
                tensors,
                self.rows,
                raw=self.raw,
                queue_us=self.queue_ns // 1000,
                predict_us=predict_ns // 1000,
                path=self.path,
            ),
        )
        stats = self.stats
        stats.requests += 1
        took_us = (self.service.clock_ns() - self.admitted_ns) // 1000
        stats.latency_us.add(took_us)
        stats.predict_us.add(predict_ns // 1000)
        self.service.on_reply(binding, took_us)

    def refuse(self, error: RequestError) -> None:
        self.stats.requests += 1
        self.stats.error(error.code)
        if error.code == "INTERNAL":
            self.service.on_failure(self.binding)
        self.service.send(self.envelope, replies.error(self.encode, self.request_id, error))


class DataService:
    """Handles one message at a time. Owned by the loop."""

    def __init__(
        self,
        sock: ZSocket,
        models: dict[str, Served],
        limits: Limits,
        clock_ns: Callable[[], int],
        on_incident: Callable[[BaseException], str],
        guard: Guard,
    ) -> None:
        self.sock = sock
        #: None where nobody has to show a key.
        self._guard = guard if guard.curve else None
        self.models = models
        self.clock_ns = clock_ns
        self.draining = False
        self.dropped_replies = 0
        self.dropped_messages = 0
        self.errors: dict[str, int] = {}
        self._limits = limits
        self._on_incident = on_incident

    def on_message(self) -> None:
        """Receive one message and answer it, now or when its prediction is there."""
        try:
            frames = self.sock.recv()
        except zmq.Again:
            return
        admitted_ns = self.clock_ns()
        envelope, body = header.split(frames)
        if (
            not body
            or len(envelope) > header.MAX_ENVELOPE_FRAMES
            or _size(envelope) > header.MAX_ENVELOPE_BYTES
        ):
            self.dropped_messages += 1
            return
        head = bytes(body[0])  # bytes already, unless it is very large
        encode = header.encode_json if head[:1] == b"{" else header.encode_msgpack
        request_id: RequestId = None
        try:
            if _size(body) > self._limits.max_message_bytes:
                request_id = header.peek_id(head)
                raise RequestError(
                    "TOO_LARGE", f"a message has at most {self._limits.max_message_bytes} bytes"
                )
            request = header.decode(head)
            request_id = request.id
            if self._guard is not None:
                self._guard.admit(self.sock.first, request.op)
            if request.op == "predict":
                self._predict(envelope, encode, request, body[1:], admitted_ns)
            else:
                self.send(envelope, [encode({"id": request_id, **self._other(request, len(body) - 1)})])
        except RequestError as e:
            self._refuse(envelope, encode, request_id, e)
        except Exception as e:  # noqa: BLE001 (nothing that a client sends ends the server)
            incident = self._on_incident(e)
            error = RequestError("INTERNAL", "this request met an error of ours", incident=incident)
            self._refuse(envelope, encode, request_id, error)

    def _refuse(
        self, envelope: list[bytes], encode: replies.Encode, request_id: RequestId, error: RequestError
    ) -> None:
        self.errors[error.code] = self.errors.get(error.code, 0) + 1
        known = request_id if error.request_id is None else error.request_id
        self.send(envelope, replies.error(encode, known, error))

    def send(self, envelope: list[bytes], frames: list[bytes]) -> None:
        """Send a reply; a peer that is gone or doesn't read loses it, and that is counted."""
        try:
            self.sock.send(envelope + frames)
        except zmq.ZMQError:
            self.dropped_replies += 1

    def on_reply(self, binding: Binding, took_us: int) -> None:
        """A prediction went out, `took_us` after its request was admitted."""
        served = self.models.get(binding.contract.model)
        if served is not None and served.slot.serving is binding:
            served.slot.service.replied(took_us)

    def on_failure(self, binding: Binding) -> None:
        """A prediction of ours failed."""
        served = self.models.get(binding.contract.model)
        if served is not None and served.slot.serving is binding:
            served.slot.service.erred()

    def _predict(
        self,
        envelope: list[bytes],
        encode: replies.Encode,
        request: Request,
        raw: Sequence[bytes | memoryview],
        admitted_ns: int,
    ) -> None:
        served = self._model(request.model_name)
        if self.draining:
            raise retryable("DRAINING", "this daemon is shutting down; ask another")
        binding = self._bind(served.slot, request.model_version)
        contract = binding.contract
        deadline_ns = None
        as_raw = False
        parameters = request.parameters
        if parameters is not None:
            if parameters.schema is not None and parameters.schema != contract.schema:
                raise RequestError(
                    "SCHEMA_MISMATCH",
                    f"{contract.label} has the feature list {contract.schema}; the client expects {parameters.schema}",
                    schema=contract.schema,
                )
            if parameters.min_generation is not None and binding.generation < parameters.min_generation:
                raise RequestError(
                    "VERSION_NOT_AVAILABLE",
                    f"{contract.label} is generation {binding.generation}; {parameters.min_generation} was asked for",
                    generation=binding.generation,
                )
            if parameters.timeout_us is not None:
                deadline_ns = admitted_ns + parameters.timeout_us * 1000
            as_raw = parameters.binary_data_output
        decoders = tensors.JSON if encode is header.encode_json else tensors.MSGPACK
        data, rows = tensors.parse_matrix(
            request, raw, contract, self._limits.max_rows, decoders, binding.served.large_rows
        )
        if deadline_ns is not None and self.clock_ns() >= deadline_ns:
            raise retryable(
                "DEADLINE_EXCEEDED", f"{contract.label}: timeout_us was over before the rows were read"
            )
        binding.served.submit(
            PredictJob(
                self,
                served.stats,
                envelope,
                encode,
                request.id,
                as_raw,
                binding,
                request.model_version is not None,
                data,
                rows,
                admitted_ns,
                deadline_ns,
            )
        )

    def _model(self, name: str | None) -> Served:
        if name is not None:
            served = self.models.get(name)
            if served is None:
                there = ", ".join(sorted(self.models)) or "none"
                raise RequestError("MODEL_NOT_FOUND", f"no model {name!r} here; there is {there}")
            return served
        able = {name: served for name, served in self.models.items() if served.slot.serving is not None}
        if len(able) == 1:
            return next(iter(able.values()))
        if not able:
            raise retryable("NOT_READY", "no model is served yet")
        raise RequestError("MODEL_NOT_FOUND", f"name the model: {', '.join(sorted(able))} are served")

    @staticmethod
    def _bind(slot: Slot, version: str | None) -> Binding:
        binding = slot.serving
        if binding is None:
            raise retryable("NOT_READY", f"{slot.model}: no version serves yet")
        if version is None or version == binding.contract.version:
            return binding
        for warm in slot.warm:
            if warm.contract.version == version and warm.served.alive:
                return warm
        raise RequestError(
            "VERSION_NOT_AVAILABLE",
            f"{slot.model} {version} isn't resident; {binding.contract.version} serves"
            + "".join(f", {warm.contract.version} is warm" for warm in slot.warm),
        )

    def _other(self, request: Request, raw_frames: int) -> dict[str, Any]:
        """Everything but predictions."""
        if raw_frames:
            raise RequestError("MALFORMED", f"{request.op} takes no raw frames; {raw_frames} came")
        match request.op:
            case "live":
                return {"live": True}
            case "ready":
                return self._ready(request.model_name)
            case "server":
                return {"name": "modeld", "version": __version__, "extensions": EXTENSIONS}
            case "models":
                return {
                    "models": [_model_line(name, served.slot) for name, served in sorted(self.models.items())]
                }
            case "metadata":
                return _metadata(self._model(request.model_name).slot)
        if request.op in ADMIN_OPS:
            raise RequestError("UNKNOWN_OP", f"{request.op!r} is an operation of the admin socket")
        raise RequestError(
            "UNKNOWN_OP",
            f"no operation {request.op!r}; there are predict, live, ready, server, metadata, models",
        )

    def _ready(self, name: str | None) -> dict[str, Any]:
        if self.draining:
            return {"ready": False, "reason": "draining"}
        if name is not None and name not in self.models:
            return {"ready": False, "reason": f"no model {name!r} here"}
        if name is not None:
            wanted = [self.models[name]]
        else:
            # A model whose first version hasn't passed yet takes no readiness from those that serve.
            wanted = [served for served in self.models.values() if served.slot.serving is not None]
        if not wanted:
            return {"ready": False, "reason": "no model is served"}
        for served in wanted:
            binding = served.slot.serving
            if binding is None or not binding.served.alive:
                return {"ready": False, "reason": f"{served.slot.model}: no version serves"}
        return {"ready": True}


def _size(frames: Sequence[bytes | memoryview]) -> int:
    return sum(map(len, frames))


def _model_line(name: str, slot: Slot) -> dict[str, Any]:
    binding = slot.serving
    return {
        "model_name": name,
        "version": binding.contract.version if binding is not None else None,
        "generation": binding.generation if binding is not None else None,
        "state": str(binding.served.state) if binding is not None else str(State.ABSENT),
    }


def _metadata(slot: Slot) -> dict[str, Any]:
    binding = slot.serving
    if binding is None:
        raise retryable("NOT_READY", f"{slot.model}: no version serves yet")
    contract = binding.contract
    versions = [contract.version, *(one.contract.version for one in slot.warm if one.served.alive)]
    return {
        "name": slot.model,
        "versions": versions,
        "platform": contract.platform,
        "inputs": [{"name": "features", "datatype": "FP64", "shape": [-1, contract.n_features]}],
        "outputs": [
            {"name": name, "datatype": "FP64", "shape": [-1, width] if width else [-1]}
            for name, width in contract.outputs
        ],
        "parameters": {
            "features": list(contract.features),
            "schema": contract.schema,
            "generation": binding.generation,
            "digest": binding.digest,
            "nan": "missing" if contract.nan_allowed else "refused",
            "path": binding.served.path,
        },
    }
