"""The data socket: requests in, bound to a generation, predictions or errors out. This is the hot path."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import zmq

from modeld import __version__
from modeld.config import Limits
from modeld.errors import RequestError, retryable, shutting_down
from modeld.front.decoding import Decoding
from modeld.front.guard import Guard
from modeld.front.large import LargeMessage
from modeld.front.prediction import PredictJob
from modeld.front.stats import Stats
from modeld.front.zsocket import VIEW_BYTES, ZSocket
from modeld.swap.policy import State
from modeld.swap.ports import Binding
from modeld.swap.slot import Slot
from modeld.wire import header, replies, tensors
from modeld.wire.header import Request, RequestId

EXTENSIONS = ["binary_tensor_data", "parameters"]
#: A header larger than this, or frames of which that many bytes have to be converted, are decoded in another process:
#: what is smaller takes well below a millisecond. Bytes.
DECODE_BYTES = VIEW_BYTES
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
        decoding: Decoding,
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
        self._decoding = decoding

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
        head = body[0]
        encode = header.encode_json if head[:1] == b"{" else header.encode_msgpack
        request_id: RequestId = None
        try:
            size = _size(body)
            if size > self._limits.max_message_bytes:
                request_id = header.peek_id(head) if len(head) <= DECODE_BYTES else header.early_id(head)
                raise RequestError(
                    "TOO_LARGE", f"a message has at most {self._limits.max_message_bytes} bytes"
                )
            if len(head) > DECODE_BYTES:
                self._decode_elsewhere(envelope, encode, body, admitted_ns)
                return
            request = header.decode(head)
            request_id = request.id
            if self._guard is not None:
                self._guard.admit(self.sock.first, request.op)
            if request.op == "predict":
                self._predict(envelope, encode, request, body, size, admitted_ns)
            else:
                self.answer(envelope, encode, request, len(body) - 1)
        except Exception as e:  # noqa: BLE001 (nothing that a client sends ends the server)
            self.fail(envelope, encode, request_id, e)

    def answer(
        self, envelope: list[bytes], encode: replies.Encode, request: Request, raw_frames: int
    ) -> None:
        """Reply to anything but a prediction. Raises RequestError."""
        self.send(envelope, [encode({"id": request.id, **self._other(request, raw_frames)})])

    def fail(
        self, envelope: list[bytes], encode: replies.Encode, request_id: RequestId, error: Exception
    ) -> None:
        """Answer a message that met an error, the client's or ours."""
        if not isinstance(error, RequestError):
            incident = self._on_incident(error)
            error = RequestError("INTERNAL", "this request met an error of ours", incident=incident)
        self.refuse(envelope, encode, request_id, error)

    def refuse(
        self, envelope: list[bytes], encode: replies.Encode, request_id: RequestId, error: RequestError
    ) -> None:
        """Send and count an error."""
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
        body: list[bytes],
        size: int,
        admitted_ns: int,
    ) -> None:
        if self.draining:
            raise shutting_down()
        served, binding = self.bind(request)
        contract, checked = binding.contract, binding.served.large_rows
        raw, max_rows = body[1:], self._limits.max_rows
        found = tensors.plain_matrix(request, raw, contract, max_rows, checked)
        if found is None:
            if size > DECODE_BYTES and len(raw) <= header.MAX_RAW_FRAMES:
                self._decode_elsewhere(envelope, encode, body, admitted_ns)
                return
            decoders = tensors.JSON if encode is header.encode_json else tensors.MSGPACK
            found = tensors.parse_matrix(request, raw, contract, max_rows, decoders, checked)
        self.submit(served, binding, envelope, encode, request, admitted_ns, *found)

    def _decode_elsewhere(
        self, envelope: list[bytes], encode: replies.Encode, body: list[bytes], admitted_ns: int
    ) -> None:
        message = LargeMessage(self, envelope, encode, body, admitted_ns)
        try:
            if self.draining:
                raise shutting_down()
            if self._guard is not None:
                # Before its header is read: nothing but predictions is so large, and who may predict may ask for all
                # that there is on this socket.
                self._guard.admit(self.sock.first, "predict")
            self._decoding.submit(message)
        except RequestError as refusal:
            message.refuse(refusal)

    def bind(self, request: Request) -> tuple[Served, Binding]:
        """The model and the version that is to answer a request that was admitted, in a drain too. Raises RequestError
        where none may."""
        served = self._model(request.model_name)
        binding = self._resident(served.slot, request.model_version)
        parameters = request.parameters
        if parameters is not None:
            contract = binding.contract
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
        return served, binding

    def submit(
        self,
        served: Served,
        binding: Binding,
        envelope: list[bytes],
        encode: replies.Encode,
        request: Request,
        admitted_ns: int,
        data: bytes | memoryview,
        rows: int,
    ) -> None:
        """Have rows predicted by the version that they are bound to. Raises RequestError where they can't be."""
        parameters = request.parameters
        deadline_ns = None
        if parameters is not None and parameters.timeout_us is not None:
            deadline_ns = admitted_ns + parameters.timeout_us * 1000
            if self.clock_ns() >= deadline_ns:
                raise retryable(
                    "DEADLINE_EXCEEDED",
                    f"{binding.contract.label}: timeout_us was over before the rows were read",
                )
        binding.served.submit(
            PredictJob(
                self,
                served.stats,
                envelope,
                encode,
                request.id,
                parameters is not None and parameters.binary_data_output,
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
    def _resident(slot: Slot, version: str | None) -> Binding:
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
