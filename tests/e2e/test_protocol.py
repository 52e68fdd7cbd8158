"""The protocol as somebody meets it who has read its page and has ZeroMQ, JSON and MessagePack: no client of ours.

One daemon for all of it. It serves three models, one of them with two outputs, and keeps one version warm.
"""

from __future__ import annotations

import json
import math
import re
import shutil
import struct
import tempfile
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import lightgbm
import msgspec
import numpy as np
import pytest
import zmq
from tests.e2e.conftest import Daemon, register_truncated
from tests.registry.conftest import FEATURES, Trained
from tests.support import wait_until

from modeld.front.data import DECODE_BYTES
from modelreg import Registry

#: The first test of the file waits for a daemon with three models, on a machine that may be busy.
pytestmark = pytest.mark.timeout(300)

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


@pytest.fixture(scope="module")
def served(template: Path, trained: dict[str, Trained]) -> Iterator[Served]:
    """alpha 1.1.0 with 1.0.0 warm, a bundle of a regression and a classifier, and a model of 64 features."""
    directory = Path(tempfile.mkdtemp(prefix="md-"))
    registry = Registry(shutil.copytree(template, directory / "models", symlinks=True), actor="tester")
    registry.register(BUNDLE, dict(zip(OUTPUTS, (trained["1.0.0"].path, trained["classes"].path), strict=True)),
                      version="1.0.0")  # fmt: skip
    registry.promote(f"{BUNDLE}:1.0.0", reason="first")
    wide = directory / "wide.txt"
    chance = np.random.default_rng(1)
    lightgbm.train(
        {"verbosity": -1, "num_leaves": 4, "num_threads": 1},
        lightgbm.Dataset(chance.normal(size=(200, WIDTH)), chance.normal(size=200)),
        2,
    ).save_model(wide)
    registry.register(WIDE, wide, version="1.0.0", golden=False)
    registry.promote(f"{WIDE}:1.0.0", reason="first")
    daemon = Daemon(
        directory, registry.root, limits={"max_rows": MAX_ROWS, "max_message_bytes": MAX_MESSAGE_BYTES}
    )
    try:
        daemon.start()
        wait_until(lambda: all(model["version"] for model in daemon.status()["models"]), 30)
        registry.promote("alpha:1.1.0", reason="next")
        wait_until(lambda: daemon.model()["version"] == "1.1.0", 30)
        with (
            zmq.Context() as context,
            connected(context, zmq.DEALER, daemon.data) as sock,
            connected(context, zmq.DEALER, daemon.admin) as admin,
        ):
            yield Served(daemon, registry, sock, admin)
    finally:
        daemon.close()
        shutil.rmtree(directory, ignore_errors=True)


# -- inputs

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


FLAT = [value for row in PARTS for value in row]
FORMS: dict[str, tuple[Header, list[bytes], Any]] = {
    "flat": ({"inputs": [tensor(FLAT)]}, [], PARTS),
    "nested": ({"inputs": [tensor(PARTS)]}, [], PARTS),
    "nested, whole": ({"inputs": [tensor(WHOLE)]}, [], WHOLE),
    "one row, flat": ({"inputs": [tensor(PARTS[0], [1, 4])]}, [], PARTS[:1]),
    "one row, nested": ({"inputs": [tensor(PARTS[:1], [1, 4])]}, [], PARTS[:1]),
    "FP32": ({"inputs": [tensor(PARTS, datatype="FP32")]}, [], PARTS),
    "INT64": ({"inputs": [tensor(WHOLE, datatype="INT64")]}, [], WHOLE),
    "INT32": ({"inputs": [tensor(WHOLE, datatype="INT32")]}, [], WHOLE),
    "any name": ({"inputs": [tensor(PARTS, name="x")]}, [], PARTS),
    "raw FP64": ({"inputs": [tensor()]}, [matrix(PARTS).tobytes()], PARTS),
    "raw FP32": ({"inputs": [tensor(datatype="FP32")]}, [np.array(PARTS, "<f4").tobytes()], PARTS),
    "raw INT64": ({"inputs": [tensor(datatype="INT64")]}, [np.array(WHOLE, "<i8").tobytes()], WHOLE),
    "raw INT32": ({"inputs": [tensor(datatype="INT32")]}, [np.array(WHOLE, "<i4").tobytes()], WHOLE),
    "named [n]": ({"inputs": columns(PARTS)}, [], PARTS),
    "named [n,1]": ({"inputs": columns(PARTS, nested=True)}, [], PARTS),
    "named [n,1], flat": (
        {"inputs": [{**one, "shape": [3, 1]} for one in columns(PARTS)]}, [], PARTS,
    ),
    "named, mixed": ({"inputs": columns(PARTS)[:2] + columns(PARTS, nested=True)[2:]}, [], PARTS),
    "named, one row": ({"inputs": columns(PARTS[:1])}, [], PARTS[:1]),
    "named raw FP64": (*raw_columns(PARTS, "<f8", "FP64"), PARTS),
    "named raw INT32": (*raw_columns(WHOLE, "<i4", "INT32"), WHOLE),
    "named, inline and raw": (
        {"inputs": raw_columns(PARTS, "<f8", "FP64")[0]["inputs"][:2] + columns(PARTS)[2:]},
        raw_columns(PARTS, "<f8", "FP64")[1][:2],
        PARTS,
    ),
    "short row": ({"features": PARTS[0]}, [], PARTS[:1]),
    "short row with null": ({"features": PARTS[1]}, [], PARTS[1:2]),
    "short row, whole": ({"features": WHOLE[0]}, [], WHOLE[:1]),
    "short rows": ({"features": PARTS}, [], PARTS),
    "short object": ({"features": objects(PARTS)[1]}, [], PARTS[1:2]),
    "short objects": ({"features": objects(PARTS)}, [], PARTS),
    "null beside it": ({"features": PARTS, "inputs": None, "parameters": None, "op": "predict"}, [], PARTS),
    "as many rows as may be": ({"features": PARTS[:1] * MAX_ROWS}, [], PARTS[:1] * MAX_ROWS),
}  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("encode", ENCODINGS)
@pytest.mark.parametrize("padding", [{}, PADDING], ids=["small", "large"])
def test_each_form_of_input(
    served: Served, trained: dict[str, Trained], form: str, encode: Encode, padding: Header
) -> None:
    """The bits of the offline prediction, for every form, in both encodings, inline and as raw frames."""
    header, raw, rows = FORMS[form]
    header = {**header, **padding}
    offline = trained["1.1.0"].booster.predict(matrix(rows), num_threads=1)
    reply = served.ask({"id": form, "model_name": "alpha", **header}, *raw, encode=encode)
    assert reply.keys() == {"id", "model_name", "model_version", "outputs", "parameters"}, reply
    assert (reply["id"], reply["model_name"], reply["model_version"]) == (form, "alpha", "1.1.0")
    (output,) = reply["outputs"]
    assert {**output, "data": None} == {
        "name": "predictions",
        "shape": [len(rows)],
        "datatype": "FP64",
        "data": None,
    }
    assert matrix(output["data"]).tobytes() == offline.tobytes()
    about = reply["parameters"]
    assert about["generation"] == served.generation["alpha"]
    assert re.fullmatch("sha256:[0-9a-f]{64}", about["digest"])
    assert about["queue_us"] >= 0
    assert about["predict_us"] >= 0

    header = {**header, "model_name": "alpha", "parameters": {"binary_data_output": True}}
    reply, frames = served.send(header, *raw, encode=encode)
    assert reply["outputs"] == [
        {"name": "predictions", "shape": [len(rows)], "datatype": "FP64",
         "parameters": {"binary_data_size": 8 * len(rows)}}
    ]  # fmt: skip
    assert frames == [offline.tobytes()]


@pytest.mark.parametrize("encode", ENCODINGS)
def test_one_tensor_for_each_estimator(served: Served, trained: dict[str, Trained], encode: Encode) -> None:
    """Named as registered, [n] for a regression and [n, k] for k classes, inline and raw."""
    offline = [trained[name].booster.predict(matrix(PARTS), num_threads=1) for name in ("1.0.0", "classes")]
    ask = {"model_name": BUNDLE, "features": PARTS}
    outputs = served.ask(ask, encode=encode)["outputs"]
    assert [(one["name"], one["shape"]) for one in outputs] == [("1d", [3]), ("direction", [3, CLASSES])]
    assert [matrix(one["data"]).tobytes() for one in outputs] == [one.tobytes() for one in offline]
    reply, frames = served.send({**ask, "parameters": {"binary_data_output": True}}, encode=encode)
    assert [one["parameters"]["binary_data_size"] for one in reply["outputs"]] == [24, 24 * CLASSES]
    assert frames == [one.tobytes() for one in offline]


def test_as_many_raw_frames_as_there_may_be(served: Served) -> None:
    """64 are read; 65 are refused before anything else is looked at."""
    names = [f"Column_{at}" for at in range(WIDTH + 1)]
    inputs = [tensor(name=name, shape=[1]) for name in names]
    frames = [struct.pack("<d", at) for at in range(WIDTH + 1)]
    reply = served.ask({"model_name": WIDE, "inputs": inputs[:WIDTH]}, *frames[:WIDTH])
    assert reply["outputs"][0]["shape"] == [1]
    refusal = served.ask({"id": 1, "model_name": WIDE, "inputs": inputs}, *frames)
    assert (refusal["id"], refusal["code"]) == (1, "MALFORMED")
    assert "65 raw frames" in refusal["error"]


@pytest.mark.parametrize("encode", ENCODINGS)
@pytest.mark.parametrize("request_id", ["42", 42, "", 0, -1, -(2**63), 2**64 - 1, "é" * 256, None])
def test_an_id_comes_back_as_it_was(served: Served, encode: Encode, request_id: Any) -> None:
    """Its type too, on a prediction, another operation, an error and the admin socket; null where there is none."""
    header = {} if request_id is None else {"id": request_id}
    for ask in ({"model_name": "alpha", "features": PARTS}, {"op": "live"}, {"op": "nothing"}):
        reply = served.ask({**header, **ask}, encode=encode)
        assert (reply["id"], type(reply["id"])) == (request_id, type(request_id))
    served.operate({**header, "op": "status"}, encode=encode)


# -- what a request asks of the version


@pytest.mark.parametrize("encode", ENCODINGS)
def test_versions_generations_schemas_and_deadlines(
    served: Served, trained: dict[str, Trained], encode: Encode
) -> None:
    """What can be had is answered by what was asked for, and says so."""
    now = served.generation["alpha"]
    offline = {
        name: trained[name].booster.predict(matrix(PARTS), num_threads=1) for name in ("1.0.0", "1.1.0")
    }
    for fields, version in (
        ({}, "1.1.0"),
        ({"model_version": None}, "1.1.0"),
        ({"model_version": "1.1.0"}, "1.1.0"),
        ({"model_version": "1.0.0"}, "1.0.0"),  # warm
        ({"parameters": {"min_generation": now}}, "1.1.0"),
        ({"parameters": {"min_generation": 0}}, "1.1.0"),
        ({"parameters": {"schema": served.schema}}, "1.1.0"),
        ({"parameters": {"timeout_us": 60_000_000}}, "1.1.0"),
        ({"parameters": {"timeout_us": 2**63 - 1}}, "1.1.0"),
        ({"parameters": {"timeout_us": None, "schema": None, "min_generation": None}}, "1.1.0"),
        ({"parameters": {"binary_data_output": False, "unknown": [1]}}, "1.1.0"),
    ):
        reply = served.ask({"model_name": "alpha", "features": PARTS, **fields}, encode=encode)
        assert reply.get("model_version") == version, (fields, reply)
        assert matrix(reply["outputs"][0]["data"]).tobytes() == offline[version].tobytes()
        assert (reply["parameters"]["generation"] == now) == (version == "1.1.0")


INF = math.inf
ROW = WHOLE[0]
ALPHA = {"model_name": "alpha"}
#: What is sent, the code that it gets, and what the message has to name.
REFUSALS: dict[str, tuple[Header, list[bytes], str, list[str]]] = {
    "no model named": ({"model_name": None, "features": ROW}, [], "MODEL_NOT_FOUND", ["alpha", BUNDLE]),
    "no such model": ({"model_name": "beta", "features": ROW}, [], "MODEL_NOT_FOUND", ["beta", "alpha"]),
    "no such version": (
        {"model_version": "9.9.9", "features": ROW}, [], "VERSION_NOT_AVAILABLE", ["alpha 9.9.9", "1.1.0", "1.0.0"],
    ),
    "registered, not resident": (
        {"model_version": "1.2.0", "features": ROW}, [], "VERSION_NOT_AVAILABLE", ["alpha 1.2.0", "1.1.0"],
    ),
    "a later generation": (
        {"features": ROW, "parameters": {"min_generation": 10**6}}, [], "VERSION_NOT_AVAILABLE", ["alpha", "1000000"],
    ),
    "the warm version's generation": (
        {"features": ROW, "model_version": "1.0.0", "parameters": {"min_generation": 10**6}},
        [], "VERSION_NOT_AVAILABLE", ["alpha 1.0.0"],
    ),
    "another schema": ({"features": ROW, "parameters": {"schema": "sha256:0"}}, [], "SCHEMA_MISMATCH", ["alpha 1.1.0"]),
    "no time": ({"features": ROW, "parameters": {"timeout_us": 0}}, [], "DEADLINE_EXCEEDED", ["alpha"]),
    "hardly any time": ({"features": ROW, "parameters": {"timeout_us": 1}}, [], "DEADLINE_EXCEEDED", ["alpha"]),
    "less than no time": ({"features": ROW, "parameters": {"timeout_us": -5}}, [], "DEADLINE_EXCEEDED", ["alpha"]),
    "a time that is no number": ({"features": ROW, "parameters": {"timeout_us": "1"}}, [], "MALFORMED", ["timeout_us"]),
    "neither": ({}, [], "MALFORMED", ["inputs", "features"]),
    "both": ({"features": ROW, "inputs": [tensor(WHOLE)]}, [], "MALFORMED", ["inputs", "features"]),
    "no inputs": ({"inputs": []}, [], "MALFORMED", ["inputs"]),
    "an input without a shape": ({"inputs": [{"name": "a", "datatype": "FP64"}]}, [], "MALFORMED", ["shape"]),
    "a shape of words": ({"inputs": [{**tensor(WHOLE), "shape": ["3", 4]}]}, [], "MALFORMED", ["shape"]),
    "an op that is no word": ({"op": 3}, [], "MALFORMED", ["op"]),
    "a name that is no word": ({"model_name": 3, "features": ROW}, [], "MALFORMED", ["model_name"]),
    "an id that is no id": ({"id": 1.5, "features": ROW}, [], "MALFORMED", ["id"]),
    "a long id": ({"id": "x" * 257, "features": ROW}, [], "MALFORMED", ["id"]),
    "a true id": ({"id": True, "features": ROW}, [], "MALFORMED", ["id"]),
    "words for numbers": ({"features": ["1", 2, 3, 4]}, [], "MALFORMED", ["features"]),
    "words in a tensor": ({"inputs": [tensor([["1", 2, 3, 4]], [1, 4])]}, [], "MALFORMED", ["features"]),
    "a frame too few": ({"inputs": [tensor()]}, [], "MALFORMED", ["raw frame"]),
    "a frame too many": ({"inputs": [tensor()]}, [b"\0" * 96] * 2, "MALFORMED", ["2 came"]),
    "a frame beside data": ({"inputs": [tensor(WHOLE)]}, [b"\0" * 96], "MALFORMED", ["1 came"]),
    "a frame beside the short form": ({"features": ROW}, [b"\0" * 32], "MALFORMED", ["1 came"]),
    "bytes too few": ({"inputs": [tensor()]}, [b"\0" * 95], "MALFORMED", ["96", "95"]),
    "bytes too many": ({"inputs": [tensor()]}, [b"\0" * 97], "MALFORMED", ["96", "97"]),
    "no binary_data_size": (
        {"inputs": [{**tensor(), "parameters": {}}]}, [b"\0" * 96], "MALFORMED", ["binary_data_size"],
    ),
    "another binary_data_size": (
        {"inputs": [{**tensor(), "parameters": {"binary_data_size": 48}}]}, [b"\0" * 96], "MALFORMED", ["48", "96"],
    ),
    "a feature twice": ({"inputs": [*columns(WHOLE)[:3], columns(WHOLE)[2]]}, [], "MISSING_FEATURE", ["ret_1d"]),
    "a feature more than once": (
        {"inputs": [*columns(WHOLE), columns(WHOLE)[2]]}, [], "MALFORMED", ["alpha 1.1.0", "twice"],
    ),
    "a short row": ({"features": [1, 2, 3]}, [], "SHAPE_MISMATCH", ["alpha 1.1.0 takes 4 features; row 0 has 3"]),
    "a short second row": ({"features": [ROW, [1, 2, 3, 4, 5]]}, [], "SHAPE_MISMATCH", ["row 1 has 5"]),
    "no row": ({"features": []}, [], "SHAPE_MISMATCH", ["alpha 1.1.0"]),
    "rows of nothing": ({"inputs": [tensor([], [0, 4])]}, [], "SHAPE_MISMATCH", ["alpha 1.1.0"]),
    "three columns": ({"inputs": [tensor([1, 2, 3], [1, 3])]}, [], "SHAPE_MISMATCH", ["alpha 1.1.0", "[1, 3]"]),
    "one dimension": ({"inputs": [tensor(ROW, [4])]}, [], "SHAPE_MISMATCH", ["alpha 1.1.0", "[4]"]),
    "three dimensions": ({"inputs": [tensor(ROW, [1, 1, 4])]}, [], "SHAPE_MISMATCH", ["[1, 1, 4]"]),
    "fewer numbers than the shape says": ({"inputs": [tensor(ROW, [2, 4])]}, [], "SHAPE_MISMATCH", ["8", "4"]),
    "a negative shape": ({"inputs": [tensor(ROW, [-1, 4])]}, [], "SHAPE_MISMATCH", ["[-1, 4]"]),
    "ragged rows": ({"inputs": [tensor([ROW, ROW[:3]], [2, 4])]}, [], "SHAPE_MISMATCH", ["length"]),
    "columns of two lengths": (
        {"inputs": [*columns(WHOLE)[:3], *columns(WHOLE[:2])[3:]]}, [], "SHAPE_MISMATCH", ["alpha 1.1.0", "ret_1d"],
    ),
    "float16": ({"inputs": [tensor(WHOLE, datatype="FP16")]}, [], "DATATYPE_UNSUPPORTED", ["FP16", "FP64"]),
    "words as a datatype": ({"inputs": [tensor(WHOLE, datatype="BYTES")]}, [], "DATATYPE_UNSUPPORTED", ["BYTES"]),
    "float16, raw": (
        {"inputs": [tensor(datatype="FP16", parameters={"binary_data_size": 24})]}, [b"\0" * 24],
        "DATATYPE_UNSUPPORTED", ["FP16"],
    ),
    "an object lacks one": ({"features": {"ret_1d": 1}}, [], "MISSING_FEATURE", ["alpha 1.1.0", "row 0", "ret_5d"]),
    "a second object lacks one": (
        {"features": [objects(WHOLE)[0], {"ret_1d": 1}]}, [], "MISSING_FEATURE", ["alpha 1.1.0", "row 1", "ret_5d"],
    ),
    "an object has one more": (
        {"features": objects(WHOLE)[0] | {"rsi": 1}}, [], "UNKNOWN_FEATURE", ["alpha 1.1.0", "rsi", "row 0"],
    ),
    "one tensor too few": ({"inputs": columns(WHOLE)[1:]}, [], "MISSING_FEATURE", ["alpha 1.1.0", "vol_20d"]),
    "one tensor alone": ({"inputs": columns(WHOLE)[:1]}, [], "MISSING_FEATURE", ["alpha 1.1.0", "ret_1d"]),
    "one tensor of another name": (
        {"inputs": [*columns(WHOLE)[:3], {**columns(WHOLE)[3], "name": "rsi"}]}, [], "UNKNOWN_FEATURE", ["rsi"],
    ),
    "a parameter beside the parameters": (
        {"features": ROW, "min_generation": 10**6}, [], "MALFORMED", ["'min_generation'", "'parameters'"],
    ),
    "a model under another name": ({"features": ROW, "model": "beta"}, [], "MALFORMED", ["'model'", "'model_name'"]),
    "a version under another name": ({"features": ROW, "version": "1"}, [], "MALFORMED", ["'model_version'"]),
    "a version among the parameters": (
        {"features": ROW, "parameters": {"model_version": "1.0.0"}}, [], "MALFORMED", ["'model_version'", "beside"],
    ),
    "infinity, raw": (
        {"inputs": [tensor()]}, [matrix([ROW, [1, 2, INF, 4], ROW]).tobytes()],
        "NON_FINITE", ["alpha 1.1.0", "row 1", "ret_20d"],
    ),
    "minus infinity, raw float32": (
        {"inputs": [tensor(datatype="FP32")]}, [np.array([ROW, [1, 2, -INF, 4], ROW], "<f4").tobytes()],
        "NON_FINITE", ["row 1", "ret_20d"],
    ),
    "too many rows": ({"features": [ROW] * (MAX_ROWS + 1)}, [], "TOO_LARGE", ["101", "100"]),
    "too many rows in a tensor": ({"inputs": [tensor([ROW] * 101, [101, 4])]}, [], "TOO_LARGE", ["101"]),
    "too many rows, raw": ({"inputs": [tensor(shape=[101, 4])]}, [b"\0" * 3232], "TOO_LARGE", ["101"]),
    "too many rows by name": ({"inputs": columns([ROW] * 101)}, [], "TOO_LARGE", ["101"]),
    "a message too large": (
        {"inputs": [tensor(shape=[100, 100])]}, [b"\0" * 140_000], "TOO_LARGE", [str(MAX_MESSAGE_BYTES)],
    ),
    "no such operation": ({"op": "explain"}, [], "UNKNOWN_OP", ["explain", "predict"]),
    "an operator's operation": ({"op": "rollback", "reason": "x"}, [], "UNKNOWN_OP", ["rollback", "admin"]),
    "frames with an operation that takes none": ({"op": "live"}, [b"x"], "MALFORMED", ["live"]),
    "metadata of no model": ({"op": "metadata", "model_name": "beta"}, [], "MODEL_NOT_FOUND", ["beta"]),
    "metadata of which model": ({"op": "metadata", "model_name": None}, [], "MODEL_NOT_FOUND", ["alpha"]),
}  # fmt: skip

RETRYABLE = {"DEADLINE_EXCEEDED", "BUSY", "DRAINING", "NOT_READY"}


def check_refusal(reply: Header, request_id: Any, code: str, words: list[str]) -> None:
    assert reply.keys() == {"id", "error", "code", "parameters"}, reply
    assert (reply["code"], reply["id"]) == (code, request_id), reply
    for word in words:
        assert word in reply["error"], reply
    assert reply["parameters"].get("retryable", False) is (code in RETRYABLE)


@pytest.mark.parametrize("case", REFUSALS)
@pytest.mark.parametrize("encode", ENCODINGS)
@pytest.mark.parametrize("padding", [{}, PADDING], ids=["small", "large"])
def test_what_cannot_be_answered(served: Served, case: str, encode: Encode, padding: Header) -> None:
    """One error of the table under the request's id, with a message that names what is wrong and where."""
    header, raw, code, words = REFUSALS[case]
    request = {"id": "r-1", **ALPHA, **header, **padding}
    given = request["id"]
    reply = served.ask(request, *raw, encode=encode)
    check_refusal(reply, given if given == "r-1" else None, code, words)
    assert served.ask({"op": "live"}) == {"id": None, "live": True}


@pytest.mark.parametrize(
    "features",
    [[1.0, 2.0, INF, 4.0], [ROW, [1.0, 2.0, -INF, 4.0]], {**objects(WHOLE)[0], "ret_20d": INF}],
    ids=["row", "rows", "object"],
)
def test_an_infinity_that_only_messagepack_has(served: Served, features: Any) -> None:
    """It is refused where it stands; a number that is one in float64 is refused in JSON too."""
    at = "row 1" if isinstance(features, list) and isinstance(features[1], list) else "row 0"
    reply = served.ask({**ALPHA, "features": features}, encode=MSGPACK)
    check_refusal(reply, None, "NON_FINITE", ["alpha 1.1.0", at, "ret_20d"])
    served.sock.send(b'{"model_name": "alpha", "features": [1, 2, 1e999, 4]}')
    assert decoded(served.sock.recv())["code"] in ("NON_FINITE", "MALFORMED")


@pytest.mark.parametrize(
    "frames", [[b""], [b"\xc1"], [b"{"], [b"{}x"], [b"[1]"], [b"\x93\x01\x02\x03"], [b"\0"], [b"x", b"y"]]
)
def test_what_has_no_header_that_can_be_read(served: Served, frames: list[bytes]) -> None:
    """MALFORMED without an id, on both sockets."""
    for sock in (served.sock, served.admin):
        sock.send_multipart([b"", *frames])
        empty, head = sock.recv_multipart()
        assert empty == b""
        check_refusal(decoded(head), None, "MALFORMED", ["header"])


def test_a_message_without_a_body(served: Served) -> None:
    """Dropped and counted; nothing comes back."""

    def dropped() -> int:
        count: int = served.operate({"op": "stats"})["dropped_messages"]
        return count

    before = dropped()
    for sock in (served.sock, served.admin):
        sock.send(b"")
    wait_until(lambda: dropped() == before + 2)
    assert served.ask({"op": "live"}) == {"id": None, "live": True}


@pytest.mark.parametrize("admin", [False, True], ids=["data", "admin"])
def test_each_kind_of_client(served: Served, admin: bool) -> None:
    """REQ, DEALER with and without a delimiter, and ROUTER: what comes back has the envelope that went out."""
    endpoint = served.daemon.admin if admin else served.daemon.data
    head = JSON({"op": "status"} if admin else {"features": ROW, **ALPHA})
    with zmq.Context() as context:
        with connected(context, zmq.REQ, endpoint) as sock:
            for _ in range(3):
                sock.send(head)
                assert "error" not in decoded(sock.recv())
        with connected(context, zmq.DEALER, endpoint) as sock:
            for envelope in ([], [b""], [b"hop", b""], [b"one", b"two", b""]):
                sock.send_multipart([*envelope, head])
                *echoed, reply = sock.recv_multipart()
                assert echoed == envelope
                assert "error" not in decoded(reply)
        with context.socket(zmq.ROUTER) as sock:
            sock.set(zmq.LINGER, 0)
            sock.set(zmq.RCVTIMEO, 20_000)
            sock.set(zmq.ROUTER_MANDATORY, 1)
            sock.set(zmq.CONNECT_ROUTING_ID, b"server")
            sock.connect(endpoint)
            for envelope in ([b""], [], [b"hop", b""]):
                sock.send_multipart([b"server", *envelope, head])
                peer, *echoed, reply = sock.recv_multipart()
                assert (peer, echoed) == (b"server", envelope)
                assert "error" not in decoded(reply)


# -- the other operations on the data socket


@pytest.mark.parametrize("encode", ENCODINGS)
def test_the_other_data_operations(served: Served, encode: Encode) -> None:
    """Field by field."""

    def ask(op: str, **fields: Any) -> Header:
        reply = served.ask({"op": op, "id": 1, **fields}, encode=encode)
        assert reply.pop("id") == 1
        return reply

    assert ask("live") == {"live": True}
    assert ask("ready") == {"ready": True}
    assert ask("ready", model_name="alpha") == {"ready": True}
    unknown = ask("ready", model_name="beta")
    assert unknown["ready"] is False
    assert "beta" in unknown["reason"]
    server = ask("server")
    assert server.keys() == {"name", "version", "extensions"}
    assert server["name"] == "modeld"
    generation = served.generation
    assert ask("models") == {
        "models": [
            {"model_name": name, "version": version, "generation": generation[name], "state": "serving"}
            for name, version in (("alpha", "1.1.0"), (BUNDLE, "1.0.0"), (WIDE, "1.0.0"))
        ]
    }
    metadata = ask("metadata", model_name="alpha")
    about = metadata.pop("parameters")
    assert metadata == {
        "name": "alpha",
        "versions": ["1.1.0", "1.0.0"],
        "platform": "lightgbm-text",
        "inputs": [{"name": "features", "datatype": "FP64", "shape": [-1, 4]}],
        "outputs": [{"name": "predictions", "datatype": "FP64", "shape": [-1]}],
    }
    assert (about["features"], about["generation"], about["nan"]) == (
        list(FEATURES),
        generation["alpha"],
        "missing",
    )
    assert about["schema"].startswith("sha256:")
    assert about["digest"].startswith("sha256:")
    assert ask("metadata", model_name=BUNDLE)["outputs"] == [
        {"name": "1d", "datatype": "FP64", "shape": [-1]},
        {"name": "direction", "datatype": "FP64", "shape": [-1, CLASSES]},
    ]


# -- the admin socket

ADMIN_REFUSALS: dict[str, tuple[Header, str, list[str]]] = {
    "no operation": ({}, "MALFORMED", ["op"]),
    "no such operation": ({"op": "restart"}, "UNKNOWN_OP", ["restart", "reload"]),
    "a data operation": ({"op": "predict"}, "UNKNOWN_OP", ["predict"]),
    "reload of no model": ({"op": "reload", "model_name": "beta"}, "MODEL_NOT_FOUND", ["beta", "alpha"]),
    "rollback of which model": ({"op": "rollback", "reason": "x"}, "MODEL_NOT_FOUND", ["alpha"]),
    "rollback of no model": ({"op": "rollback", "model_name": "beta", "reason": "x"}, "MODEL_NOT_FOUND", ["beta"]),
    "rollback without a reason": ({"op": "rollback", **ALPHA}, "MALFORMED", ["reason"]),
    "rollback with an empty reason": ({"op": "rollback", **ALPHA, "reason": " "}, "MALFORMED", ["reason"]),
    "rollback of another generation": (
        {"op": "rollback", **ALPHA, "reason": "x", "expect_generation": 1}, "CONFLICT", ["alpha", "nothing was done"],
    ),
    "rollback to no version": (
        {"op": "rollback", **ALPHA, "reason": "x", "to": "9.9.9"}, "VERSION_NOT_AVAILABLE", ["9.9.9"],
    ),
    "hold without a reason": ({"op": "hold", **ALPHA}, "MALFORMED", ["reason"]),
    "hold of no model": ({"op": "hold", "model_name": "beta", "reason": "x"}, "MODEL_NOT_FOUND", ["beta"]),
    "release of no model": ({"op": "release", "model_name": "beta"}, "MODEL_NOT_FOUND", ["beta"]),
    "history of no model": ({"op": "history", "model_name": "beta"}, "MODEL_NOT_FOUND", ["beta"]),
    "history of no length": ({"op": "history", "limit": "all"}, "MALFORMED", ["limit"]),
}  # fmt: skip


@pytest.mark.parametrize("case", ADMIN_REFUSALS)
@pytest.mark.parametrize("encode", ENCODINGS)
def test_what_an_operator_cannot_have(served: Served, case: str, encode: Encode) -> None:
    """An error with a code, and nothing done."""
    header, code, words = ADMIN_REFUSALS[case]
    reply = served.operate({"id": 5, **header}, encode=encode)
    check_refusal({"id": 5, **reply}, 5, code, words)
    assert served.daemon.model()["generation"] == served.generation["alpha"]


@pytest.mark.parametrize("encode", ENCODINGS)
def test_the_status(served: Served, encode: Encode) -> None:
    """Every field of the table, for every model."""
    status = served.operate({"op": "status"}, encode=encode)
    assert [model["model_name"] for model in status["models"]] == ["alpha", BUNDLE, WIDE]
    alpha = status["models"][0]
    assert (alpha["version"], alpha["generation"], alpha["state"], alpha["channel"], alpha["last_rejection"]) == (
        "1.1.0", served.generation["alpha"], "serving", "production", None,
    )  # fmt: skip
    assert alpha["digest"].startswith("sha256:")
    assert datetime.fromisoformat(alpha["since"]).utcoffset() is not None
    assert alpha["requests"] >= 0
    assert alpha["errors"] >= 0
    assert {"p50_us", "p99_us"} <= alpha.keys()
    assert "poll" in status["watching"]
    assert {"alpha", BUNDLE, WIDE} == {worker["model_name"] for worker in status["workers"]}
    assert all(worker.keys() == {"model_name", "version", "pid", "state"} for worker in status["workers"])
    assert status["degraded"] == []


class Events:
    """What the events socket published, in order."""

    def __init__(self, sock: zmq.Socket[bytes]) -> None:
        self._sock = sock

    def until(self, kind: str, model: str = "alpha", **fields: Any) -> Header:
        """The next event of that kind; every one on the way is checked."""
        while True:
            topic, body = self._sock.recv_multipart()
            event = decoded(body)
            assert topic == f"{event['kind']}.{event['model_name']}".encode()
            assert event["kind"] in ("swap", "rollback", "rejected", "hold", "state")
            assert {
                "kind",
                "model_name",
                "from",
                "to",
                "generation",
                "digest",
                "reason",
                "actor",
                "at",
            } <= event.keys()
            at = datetime.fromisoformat(event["at"])
            assert at.utcoffset() is not None
            assert not at.utcoffset()
            if (event["kind"], event["model_name"]) == (kind, model):
                assert {name: event[name] for name in fields} == fields
                return event


@pytest.fixture
def events(served: Served) -> Iterator[Events]:
    with zmq.Context() as context, context.socket(zmq.SUB) as sock:
        sock.set(zmq.RCVTIMEO, 20_000)
        sock.set(zmq.LINGER, 0)
        sock.subscribe(b"")
        sock.connect(served.daemon.events)

        def subscribed() -> bool:
            served.operate({"op": "release", "model_name": WIDE})
            return bool(sock.poll(50))

        wait_until(subscribed)
        yield Events(sock)


def test_an_operators_day(
    served: Served, events: Events, trained: dict[str, Trained], tmp_path: Path
) -> None:
    """Reload, hold, release, roll back, reject, look back, drain: each answer, and the event that tells the others."""
    operate, registry = served.operate, served.registry

    def production() -> tuple[str | None, int]:
        entry = registry.state("alpha").channels["production"]
        return entry.version, entry.seq

    # Nothing new, for one and for all; of the swap before, which nobody asked for, the first reload tells.
    now = served.generation["alpha"]
    assert operate({"op": "reload", **ALPHA, "wait": False}) == {"reloaded": False, "reason": "nothing new"}
    operate({"op": "reload"})
    nothing = operate({"op": "reload", **ALPHA})
    assert nothing == {
        "reloaded": False, "model_name": "alpha", "version": "1.1.0", "generation": now, "reason": "nothing new",
    }  # fmt: skip
    assert operate({"op": "reload", **ALPHA, "wait": False}) == {"reloaded": False, "reason": "nothing new"}
    all_of_them = operate({"op": "reload"})
    assert (all_of_them["reloaded"], all_of_them["reason"]) == (False, "nothing new")
    assert {line["model_name"] for line in all_of_them["models"]} == {"alpha", BUNDLE, WIDE}

    # Held over the open: a promotion waits, and an operator may go back all the same.
    assert operate({"op": "hold", **ALPHA, "reason": "the open"}) == {"held": True, "models": ["alpha"]}
    held = events.until("hold", held=True, reason="the open", generation=now)
    assert held["actor"].startswith("uid:")
    assert "the open" in served.daemon.model()["held"]
    registry.promote("alpha:1.2.0", reason="next")
    waiting = operate({"op": "reload", **ALPHA})
    assert (waiting["reloaded"], waiting["version"]) == (False, "1.1.0")
    assert "the open" in waiting["reason"]
    back = {"op": "rollback", **ALPHA, "reason": "x"}
    check_refusal({"id": None, **operate(back)}, None, "CONFLICT", ["1.2.0", "behind the hold", "--to 1.1.0"])
    rolled = operate({**back, "to": "1.1.0"})
    assert (rolled["from"], rolled["to"]) == ("1.2.0", "1.1.0")
    assert registry.state("alpha").versions["1.2.0"].status != "failed"
    registry.promote("alpha:1.2.0", reason="next")
    assert operate({"op": "reload", **ALPHA})["version"] == "1.1.0"
    assert operate({"op": "release", **ALPHA}) == {"held": False, "models": ["alpha"]}
    events.until("hold", held=False)

    # Something new, whoever was first to see it.
    reloaded = operate({"op": "reload", **ALPHA})
    version, now = production()
    assert reloaded == {"reloaded": True, "model_name": "alpha", "version": "1.2.0", "generation": now}
    assert version == "1.2.0"
    swap = events.until("swap", to="1.2.0", generation=now)
    assert swap["from"] == "1.1.0"
    assert swap["digest"] == served.daemon.model()["digest"]

    # Back, once: the same message again does nothing.
    back = {"op": "rollback", **ALPHA, "reason": "spread", "expect_generation": now, "mark_failed": False}
    rolled = operate(back)
    version, later = production()
    assert {**rolled, "written": None} == {
        "rolled_back": True, "model_name": "alpha", "from": "1.2.0", "to": "1.1.0", "generation": later,
        "written": None,
    }  # fmt: skip
    events.until("rollback", to="1.1.0", generation=later, reason="spread", **{"from": "1.2.0"})
    check_refusal({"id": None, **operate(back)}, None, "CONFLICT", [str(now), str(later)])
    assert production() == ("1.1.0", later)
    assert registry.state("alpha").versions["1.2.0"].status != "failed"
    assert registry.history("alpha")[0].actor.startswith("uid:")

    # To a version by name, marking the one that is left.
    rolled = operate({"op": "rollback", **ALPHA, "reason": "older", "to": "1.0.0"})
    assert (rolled["from"], rolled["to"]) == ("1.1.0", "1.0.0")
    assert registry.state("alpha").versions["1.1.0"].status == "failed"
    events.until("rollback", to="1.0.0")

    # Rejected: what served goes on.
    register_truncated(registry, trained["1.1.0"], tmp_path, "2.0.0")
    registry.promote("alpha:2.0.0", reason="bad")
    refusal = operate({"op": "reload", **ALPHA})
    check_refusal({"id": None, **refusal}, None, "REJECTED", ["alpha 2.0.0", "1.0.0 goes on serving"])
    assert refusal["parameters"]["version"] == "2.0.0"
    rejected = events.until("rejected")
    assert rejected["reason"]
    last = served.daemon.model()["last_rejection"]
    assert last.keys() == {"version", "reason", "at"}
    assert last["version"] == "2.0.0"

    # Looking back, newest first; counters.
    decisions = operate({"op": "history", **ALPHA, "limit": 3})["history"]
    assert len(decisions) == 3
    assert [one["at"] for one in decisions] == sorted((one["at"] for one in decisions), reverse=True)
    assert {one["model_name"] for one in operate({"op": "history", "limit": 1000})["history"]} >= {
        "alpha",
        WIDE,
    }
    served.ask({"op": "predict"})
    served.ask({**ALPHA, "features": WHOLE})
    stats = operate({"op": "stats"})
    assert {"dropped_replies", "dropped_messages", "errors", "models"} <= stats.keys()
    assert sum(stats["errors"].values()) > 0
    assert stats["models"]["alpha"].keys() >= {"requests", "errors", "latency_us", "predict_us"}
    assert sum(stats["models"]["alpha"]["latency_us"].values()) > 0

    # The end: exit status 0.
    assert operate({"op": "drain", "id": "end"}) == {"draining": True}
    assert served.daemon.wait() == 0
