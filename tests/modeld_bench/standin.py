"""A stand-in daemon: a ROUTER in a thread that answers as the protocol says, with the daemon's own wire code."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import zmq

from modeld.errors import RequestError
from modeld.wire import header, replies, tensors
from modeld.wire.contract import Contract

FEATURES = 3
CONTRACT = Contract("alpha", "1.0.0", ("a", "b", "c"), "sha256:s", (("predictions", 0),))


def predict(rows: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The stand-in's model: each row's sum."""
    return rows.sum(axis=1)


class StandIn:
    """Answers predict, models and metadata; `refuse` makes it refuse the n-th prediction."""

    def __init__(self, refuse: Callable[[int], bool] = lambda _number: False) -> None:
        self.predictions = 0
        self._refuse = refuse

    def reply(self, body: list[bytes]) -> list[bytes]:
        """One reply's frames."""
        encode = header.encode_json if header.is_json(body[0]) else header.encode_msgpack
        request = header.decode(body[0])
        if request.op == "models":
            return [encode({"id": request.id, "models": [{"model_name": "alpha"}]})]
        if request.op == "metadata":
            return [encode({"id": request.id, "parameters": {"features": CONTRACT.features}})]
        self.predictions += 1
        if self._refuse(self.predictions):
            return replies.error(encode, request.id, RequestError("BUSY", "the queue is full"))
        decoders = tensors.JSON if encode is header.encode_json else tensors.MSGPACK
        data, rows = tensors.parse_matrix(request, body[1:], CONTRACT, 65536, decoders)
        values = predict(np.frombuffer(data).reshape(rows, FEATURES))
        raw = request.parameters is not None and request.parameters.binary_data_output
        return replies.prediction(
            encode,
            request.id,
            CONTRACT,
            1,
            "sha256:d",
            [values.tobytes()],
            rows,
            raw=raw,
            queue_us=1,
            predict_us=2,
            path="worker",
        )


@contextmanager
def serving(directory: Path, standin: StandIn) -> Iterator[str]:
    """Serve at a socket below this directory; its endpoint."""
    endpoint = f"ipc://{directory}/standin.sock"
    stop = threading.Event()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.ROUTER)
    socket.set(zmq.RCVTIMEO, 20)
    socket.bind(endpoint)

    def serve() -> None:
        while not stop.is_set():
            try:
                envelope, body = header.split(socket.recv_multipart())
            except zmq.Again:
                continue
            socket.send_multipart(envelope + standin.reply(body))

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield endpoint
    finally:
        stop.set()
        thread.join()
        context.destroy(linger=0)
