"""A server that answers as a test tells it to, or not at all."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np
import zmq

Replies = Sequence[list[bytes]]
Handler = Callable[[dict[str, Any], list[bytes]], Replies]


class FakeServer:
    """A ROUTER in a thread. `handler(header, raw)` returns the messages to send back, none to several."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self.handler: Handler = lambda _header, _raw: []
        self.headers: list[dict[str, Any]] = []
        self.first_bytes: list[bytes] = []
        self._stop = threading.Event()
        self._bound = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def start(self) -> FakeServer:
        self._thread.start()
        assert self._bound.wait(5)
        return self

    def stop(self) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
            socket.linger = 0
            socket.bind(self.endpoint)
            self._bound.set()
            while not self._stop.is_set():
                if not socket.poll(10):
                    continue
                identity, head, *raw = socket.recv_multipart()
                self.first_bytes.append(head[:1])
                decode = msgspec.json.decode if head[:1] == b"{" else msgspec.msgpack.decode
                header = decode(head)
                self.headers.append(header)
                for reply in self.handler(header, raw):
                    socket.send_multipart([identity, *reply])


def message(**fields: Any) -> list[bytes]:
    return [msgspec.json.encode(fields)]


def answer(header: dict[str, Any], values: Sequence[float | None], **fields: Any) -> list[bytes]:
    tensor = {"name": "predictions", "shape": [len(values)], "datatype": "FP64", "data": values}
    body = {
        "id": header["id"],
        "model_name": "alpha",
        "model_version": "1.4.0",
        "outputs": [tensor],
        "parameters": {"generation": 12, "digest": "sha256:ab", "queue_us": 8, "predict_us": 31},
    }
    return [msgspec.json.encode(body | fields)]


def answer_raw(header: dict[str, Any], values: np.ndarray, datatype: str = "FP64") -> list[bytes]:
    tensor = {
        "name": "predictions",
        "shape": list(values.shape),
        "datatype": datatype,
        "parameters": {"binary_data_size": values.nbytes},
    }
    return [*answer(header, [], outputs=[tensor]), values.tobytes()]
