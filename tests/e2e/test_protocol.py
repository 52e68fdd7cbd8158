"""The data socket to the letter: every form of request, every refusal, every kind of client."""

from __future__ import annotations

import math
import re
import struct
from typing import Any

import numpy as np
import pytest
import zmq
from tests.e2e.protocol import (
    ALPHA,
    BUNDLE,
    CLASSES,
    ENCODINGS,
    JSON,
    MAX_MESSAGE_BYTES,
    MAX_ROWS,
    MSGPACK,
    PADDING,
    PARTS,
    WHOLE,
    WIDE,
    WIDTH,
    Encode,
    Header,
    Served,
    check_refusal,
    columns,
    connected,
    decoded,
    matrix,
    objects,
    raw_columns,
    tensor,
)
from tests.registry.conftest import FEATURES, Trained
from tests.support import wait_until

#: The first test of the file waits for a daemon with three models, on a machine that may be busy.
pytestmark = pytest.mark.timeout(300)

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
