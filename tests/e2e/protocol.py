"""The protocol as somebody meets it who has read its page and has ZeroMQ, JSON and MessagePack: no client of ours.

One daemon for the tests of a file. It serves three models, one of them with two outputs, and keeps one version warm.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np
import pytest
import zmq
from tests.registry.conftest import FEATURES

from modeld.front.data import DECODE_BYTES
from modelreg import Registry

if TYPE_CHECKING:
    from tests.e2e.conftest import Daemon

MAX_ROWS, MAX_MESSAGE_BYTES = 100, 128 * 1024
#: The model with two outputs, and the classes of the second.
BUNDLE, OUTPUTS, CLASSES = "horizons", ("1d", "direction"), 3
#: A model with as many features as a message may have raw frames.
WIDE, WIDTH = "wide", 64

Header = dict[str, Any]
Encode = Callable[[Any], bytes]
JSON: Encode = msgspec.json.encode
MSGPACK: Encode = msgspec.msgpack.encode
#: Makes a header so large that another process decodes it, and is ignored, as every unknown field.
PADDING = {"padding": " " * DECODE_BYTES}
ENCODINGS = [pytest.param(JSON, id="json"), pytest.param(MSGPACK, id="msgpack")]
ALPHA = {"model_name": "alpha"}


class Served:
    """The daemon, what it serves, and a socket to it."""

    def __init__(
        self, daemon: Daemon, registry: Registry, sock: zmq.Socket[bytes], admin: zmq.Socket[bytes]
    ) -> None:
        self.daemon = daemon
        self.registry = registry
        self.sock = sock
        self.admin = admin
        #: What the daemon says of each model before anything is done to it.
        self.schema: str = self.ask({"op": "metadata", "model_name": "alpha"})["parameters"]["schema"]
        lines = self.ask({"op": "models"})["models"]
        self.generation: dict[str, int] = {line["model_name"]: line["generation"] for line in lines}

    def send(self, header: Header, *raw: bytes, encode: Encode = JSON) -> tuple[Header, list[bytes]]:
        """The reply's header, which has to be in the encoding of the request, and its raw frames."""
        self.sock.send_multipart([encode(header), *raw])
        head, *frames = self.sock.recv_multipart()
        assert (head[:1] == b"{") == (encode is JSON)
        return decoded(head), frames

    def ask(self, header: Header, *raw: bytes, encode: Encode = JSON) -> Header:
        return self.send(header, *raw, encode=encode)[0]

    def operate(self, header: Header, *raw: bytes, encode: Encode = JSON) -> Header:
        self.admin.send_multipart([b"", encode(header), *raw])
        empty, head = self.admin.recv_multipart()
        assert empty == b""
        assert (head[:1] == b"{") == (encode is JSON)
        reply = decoded(head)
        assert reply.pop("id") == header.get("id")
        return reply


def decoded(head: bytes) -> Header:
    found: Header = json.loads(head) if head[:1] == b"{" else msgspec.msgpack.decode(head)
    return found


def connected(context: zmq.Context[Any], kind: int, endpoint: str) -> zmq.Socket[bytes]:
    sock: zmq.Socket[bytes] = context.socket(kind)
    sock.set(zmq.LINGER, 0)
    sock.set(zmq.RCVTIMEO, 20_000)
    sock.connect(endpoint)
    return sock


#: Three rows that float32 holds as they are, with a value missing, and three that int32 holds.
PARTS = [[0.5, -0.25, 2.0, 0.125], [0.0, None, 1.5, 3.0], [-1.0, 0.75, 0.0, 0.5]]
WHOLE = [[1, -2, 3, 4], [0, 5, -6, 7], [8, 9, 10, -11]]


def matrix(rows: Any) -> np.ndarray:
    return np.array(rows, np.float64)


def tensor(data: Any = None, shape: list[int] | None = None, datatype: str = "FP64", **fields: Any) -> Header:
    """One input named `features`; without data, for a raw frame."""
    made: Header = {"name": "features", "shape": shape or [3, 4], "datatype": datatype, **fields}
    if data is None:
        size = int(made["datatype"][-2:]) // 8 * math.prod(made["shape"])
        return {"parameters": {"binary_data_size": size}, **made}
    return {**made, "data": data}


def columns(rows: Any, *, nested: bool = False) -> list[Header]:
    """One tensor a feature, the last feature first."""
    made = []
    for name, column in reversed(list(zip(FEATURES, zip(*rows, strict=True), strict=True))):
        data = [[value] for value in column] if nested else list(column)
        made.append(tensor(data, [len(rows), 1] if nested else [len(rows)], name=name))
    return made


def objects(rows: Any) -> list[Header]:
    return [dict(reversed(list(zip(FEATURES, row, strict=True)))) for row in rows]


def raw_columns(rows: Any, dtype: str, datatype: str) -> tuple[Header, list[bytes]]:
    size = np.dtype(dtype).itemsize * len(rows)
    inputs = [
        tensor(shape=[len(rows)], name=name, datatype=datatype, parameters={"binary_data_size": size})
        for name in reversed(FEATURES)
    ]
    return {"inputs": inputs}, [np.array(rows, dtype)[:, at].tobytes() for at in reversed(range(4))]


RETRYABLE = {"DEADLINE_EXCEEDED", "BUSY", "DRAINING", "NOT_READY"}


def check_refusal(reply: Header, request_id: Any, code: str, words: list[str]) -> None:
    assert reply.keys() == {"id", "error", "code", "parameters"}, reply
    assert (reply["code"], reply["id"]) == (code, request_id), reply
    for word in words:
        assert word in reply["error"], reply
    assert reply["parameters"].get("retryable", False) is (code in RETRYABLE)
