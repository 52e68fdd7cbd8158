"""The client against a server that can fail in the ways a real one can."""

from __future__ import annotations

import math
import pickle
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest
import zmq
from tests.client.fake_server import FakeServer, Replies, answer, answer_raw, message
from tests.support import wait_until

from modeld.client import AdminClient, Client
from modeld.client import errors as client_errors
from modeld.client.codec import decode_prediction, encode_predict
from modeld.client.errors import (
    Busy,
    Conflict,
    Internal,
    Malformed,
    ModeldError,
    ProtocolError,
    Rejected,
    RequestTimeout,
    ServerError,
    ShapeMismatch,
)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[FakeServer]:
    fake = FakeServer(f"ipc://{tmp_path}/s").start()
    yield fake
    fake.stop()


@pytest.fixture
def client(server: FakeServer) -> Iterator[Client]:
    with Client(server.endpoint, timeout_s=5) as connected:
        yield connected


def row_sums(header: dict[str, Any], raw: list[bytes]) -> Replies:
    """Answers a raw request with each row's sum; bytes that don't fit the header end the test."""
    tensor = header["inputs"][0]
    assert tensor["parameters"]["binary_data_size"] == len(raw[0])
    matrix = np.frombuffer(raw[0], "<f8").reshape(tensor["shape"])
    return [answer_raw(header, matrix.sum(axis=1))]


@pytest.mark.parametrize(
    "array",
    [
        np.array([0.1, 0.2, np.nan]),
        np.arange(6.0).reshape(2, 3),
        np.asfortranarray(np.arange(6.0).reshape(2, 3)),
        np.arange(12, dtype=np.int32).reshape(4, 3)[::2],
        np.array([1, 2, 3], dtype=np.float32),
        np.array([1.5, 2.5, 3.5], dtype=">f8"),
    ],
    ids=["row", "rows", "column-major", "strided-int", "float32", "big-endian"],
)
def test_an_array_goes_and_comes_back_as_raw_float64(
    server: FakeServer, client: Client, array: np.ndarray
) -> None:
    """Whatever its layout and dtype, an array's values arrive in row-major order and come back to the bit."""
    server.handler = row_sums
    prediction = client.predict(array)
    expected = np.atleast_2d(array).astype("<f8").sum(axis=1)
    assert prediction.values.tobytes() == expected.tobytes()
    assert server.headers[0]["parameters"]["binary_data_output"] is True


def test_a_prediction_says_what_computed_it(server: FakeServer, client: Client) -> None:
    """Version, generation, digest and both durations come from the reply."""
    server.handler = lambda header, _raw: [answer(header, [0.1, 0.2])]
    got = client.predict([[1.0], [2.0]])
    assert (got.model, got.version, got.generation, got.digest) == ("alpha", "1.4.0", 12, "sha256:ab")
    assert (got.queue_us, got.predict_us) == (8, 31)
    assert got.values.tolist() == [0.1, 0.2]


def test_outputs_are_read_only(server: FakeServer, client: Client) -> None:
    """Two holders of one prediction can't change it under each other."""
    server.handler = lambda header, _raw: [answer(header, [0.1])]
    with pytest.raises(ValueError, match="read-only"):
        client.predict([1.0]).values[0] = 7


@pytest.mark.parametrize(
    ("features", "sent"),
    [
        ([0.1, math.nan], [0.1, None]),
        ([[0.1, 2], [3, 4]], [[0.1, 2], [3, 4]]),
        ({"sma_5": np.float64(1.25), "rsi_14": None}, {"sma_5": 1.25, "rsi_14": None}),
        ([{"a": 1.0}, {"a": np.float32(0.5)}], [{"a": 1.0}, {"a": 0.5}]),
        ([np.array([1.0, 2.0])], [[1.0, 2.0]]),
    ],
)
def test_lists_and_dicts_go_in_the_short_form(
    server: FakeServer, client: Client, features: Any, sent: Any
) -> None:
    """Rows by position and by name travel as `features`, with null for a missing value."""
    server.handler = lambda header, _raw: [answer(header, [0.0])]
    client.predict(features)
    assert server.headers[0]["features"] == sent
    assert "inputs" not in server.headers[0]


@pytest.mark.parametrize(
    "features", [[1.0, math.inf], [[-math.inf]], {"a": np.float32("inf")}, [{"a": math.inf}]]
)
def test_an_infinity_is_refused_before_json_makes_it_a_missing_value(
    server: FakeServer, client: Client, features: Any
) -> None:
    """In the short form an infinity is an error here: JSON would send null, which means something else."""
    with pytest.raises(ValueError, match="inf"):
        client.predict(features)
    assert server.headers == []


@pytest.mark.parametrize(
    ("array", "error"),
    [(np.zeros((1, 1, 1)), ValueError), (np.array(["a"]), TypeError), (np.array([1j]), TypeError)],
)
def test_an_array_that_is_no_matrix_of_reals_is_refused(
    server: FakeServer, client: Client, array: np.ndarray, error: type[Exception]
) -> None:
    """A wrong rank or dtype is told at once, without a round trip."""
    with pytest.raises(error, match="features of"):
        client.predict(array)
    assert server.headers == []


def test_options_go_where_the_protocol_has_them(server: FakeServer, client: Client) -> None:
    """Model and version are header fields; deadline, schema and generation are parameters."""
    server.handler = lambda header, _raw: [answer(header, [0.0])]
    client.predict([1.0], model="alpha", version="1.0", timeout_us=900, min_generation=3, schema="sha256:x")
    header = server.headers[0]
    assert (header["model_name"], header["model_version"]) == ("alpha", "1.0")
    assert header["parameters"] == {"timeout_us": 900, "min_generation": 3, "schema": "sha256:x"}


def test_a_null_output_is_nan(server: FakeServer, client: Client) -> None:
    """A NaN that had to travel through JSON is a NaN again."""
    server.handler = lambda header, _raw: [answer(header, [None, 1.0])]
    assert np.isnan(client.predict([1.0]).values).tolist() == [True, False]


def test_several_outputs_are_taken_by_name(server: FakeServer, client: Client) -> None:
    """With one tensor per horizon `values` would be a guess, so it is an error."""
    tensors = [
        {"name": name, "shape": [1, 2], "datatype": "FP64", "data": [[1.0, 2.0]]} for name in ("1d", "7d")
    ]
    server.handler = lambda header, _raw: [answer(header, [], outputs=tensors)]
    prediction = client.predict([1.0])
    assert prediction.outputs["7d"].shape == (1, 2)
    with pytest.raises(ValueError, match="2 outputs: 1d, 7d"):
        _ = prediction.values


def test_msgpack_headers(server: FakeServer) -> None:
    """With encoding="msgpack" the request's header is MessagePack, and so may be the reply's."""
    server.handler = lambda header, _raw: [
        [msgspec.msgpack.encode(msgspec.json.decode(answer(header, [0.5])[0]))]
    ]
    with Client(server.endpoint, timeout_s=5, encoding="msgpack") as client:
        assert client.predict({"a": 1.0}).values.tolist() == [0.5]
    assert server.first_bytes != [b"{"]


@pytest.mark.parametrize(
    "error_class",
    [cls for cls in vars(client_errors).values() if isinstance(cls, type) and ServerError in cls.__bases__],
    ids=lambda cls: cls.CODE,
)
def test_each_code_is_its_own_exception(
    server: FakeServer, client: Client, error_class: type[ServerError]
) -> None:
    """An error reply is raised as its code's class, with its message and parameters."""
    server.handler = lambda header, _raw: [
        message(id=header["id"], error="why", code=error_class.CODE, parameters={"incident": "x"})
    ]
    with pytest.raises(error_class, match=f"{error_class.CODE}: why") as caught:
        client.predict([1.0])
    assert (caught.value.code, caught.value.message) == (error_class.CODE, "why")
    assert caught.value.parameters == {"incident": "x"}
    assert not caught.value.retryable


def test_retryable_is_what_the_server_says(server: FakeServer, client: Client) -> None:
    """`parameters.retryable: true` marks an error that another try may cure."""
    server.handler = lambda header, _raw: [
        message(id=header["id"], error="full", code="BUSY", parameters={"retryable": True})
    ]
    with pytest.raises(Busy) as caught:
        client.live()
    assert caught.value.retryable


def test_a_code_from_the_future_is_a_plain_server_error(server: FakeServer, client: Client) -> None:
    """A newer server's code is still a ServerError with that code."""
    server.handler = lambda header, _raw: [message(id=header["id"], error="?", code="TEAPOT")]
    with pytest.raises(ServerError) as caught:
        client.live()
    assert type(caught.value) is ServerError
    assert caught.value.code == "TEAPOT"


def test_an_error_survives_pickling() -> None:
    """An exception that crosses a process pool keeps its code and its parameters."""
    error = pickle.loads(pickle.dumps(Internal("INTERNAL", "oops", {"incident": "7"})))
    assert (type(error), error.code, error.parameters) == (Internal, "INTERNAL", {"incident": "7"})


def test_an_error_without_an_id_is_raised(server: FakeServer, client: Client) -> None:
    """A message that the server couldn't read is told, although no id comes with it."""
    server.handler = lambda _header, _raw: [message(id=None, error="no header", code="MALFORMED")]
    with pytest.raises(Malformed):
        client.predict([1.0])


def test_silence_is_a_timeout(server: FakeServer) -> None:
    """A server that takes the request and says nothing costs the timeout and no more."""
    with Client(server.endpoint, timeout_s=0.05) as client:
        started = time.monotonic()
        with pytest.raises(RequestTimeout, match=r"no reply from ipc://.* within 0.05 s") as caught:
            client.predict([1.0])
        assert time.monotonic() - started < 2
    assert caught.value.sent
    assert isinstance(caught.value, ModeldError)
    assert isinstance(caught.value, TimeoutError)


def test_a_late_reply_is_never_taken_for_the_next_request(server: FakeServer) -> None:
    """The reply of a request that timed out arrives before the next one's and is dropped by its id."""
    late: list[list[bytes]] = []

    def first_silent_then_both(header: dict[str, Any], _raw: list[bytes]) -> Replies:
        reply = answer(header, [float(header["features"][0])])
        if not late:
            late.append(reply)
            return []
        return [late[0], reply]

    server.handler = first_silent_then_both
    with Client(server.endpoint, timeout_s=0.05) as client:
        with pytest.raises(RequestTimeout):
            client.predict([1.0])
        client.timeout_s = 5
        assert client.predict([2.0]).values.tolist() == [2.0]


def test_a_late_error_is_dropped_too(server: FakeServer) -> None:
    """An error reply belongs to the request that it names, not to the one that is waiting."""
    server.handler = lambda header, _raw: [
        message(id=header["id"] - 1, error="late", code="INTERNAL"),
        answer(header, [3.0]),
    ]
    with Client(server.endpoint, timeout_s=5) as client:
        assert client.predict([1.0]).values.tolist() == [3.0]


def test_a_flood_of_other_replies_does_not_stretch_the_timeout(server: FakeServer) -> None:
    """Replies that aren't ours don't start the wait anew."""
    server.handler = lambda _header, _raw: [message(id="other", live=True)] * 500
    with Client(server.endpoint, timeout_s=0.2) as client:
        started = time.monotonic()
        with pytest.raises(RequestTimeout):
            client.live()
        assert time.monotonic() - started < 2


def test_nobody_there_is_a_timeout_that_was_never_sent(tmp_path: Path) -> None:
    """Without a server the request isn't queued: a server that starts later must not act on it."""
    endpoint = f"ipc://{tmp_path}/s"
    with AdminClient(endpoint) as admin:
        with pytest.raises(RequestTimeout, match="is modeld running there") as caught:
            admin.rollback(reason="given up", timeout_s=0.05)
        assert not caught.value.sent
        server = FakeServer(endpoint).start()
        try:
            server.handler = lambda header, _raw: [message(id=header["id"], models=[])]
            admin.timeout_s = 5
            assert admin.status()["models"] == []
            assert [header["op"] for header in server.headers] == ["status"]
        finally:
            server.stop()


def test_a_client_outlives_its_server(tmp_path: Path) -> None:
    """After a restart of the server the same client goes on."""
    endpoint = f"ipc://{tmp_path}/s"
    with Client(endpoint, timeout_s=0.5) as client:
        for _ in range(2):
            server = FakeServer(endpoint).start()
            server.handler = lambda header, _raw: [message(id=header["id"], live=True)]
            try:
                wait_until(lambda: _answers(client))
            finally:
                server.stop()


def _answers(client: Client) -> bool:
    try:
        return client.live()
    except RequestTimeout:
        return False


@pytest.mark.parametrize(
    "frames",
    [[b""], [b"\xc1"], [b"{nonsense"], [b'{"id": "\xff"}'], [b"[1]"], [b"\x93\x01\x02\x03"]],
    ids=["empty", "msgpack", "json", "utf-8", "json-array", "msgpack-array"],
)
def test_garbage_is_a_protocol_error(server: FakeServer, client: Client, frames: list[bytes]) -> None:
    """A reply that can't be read is said at once, as the protocol's fault."""
    server.handler = lambda _header, _raw: [frames]
    with pytest.raises(ProtocolError):
        client.predict([1.0])


HEADER = {"id": 1}
WHOLE = msgspec.json.decode(answer(HEADER, [0.5])[0])


def _tensor(**fields: Any) -> dict[str, Any]:
    return WHOLE | {"outputs": [{"name": "p", "shape": [1], "datatype": "FP64"} | fields]}


@pytest.mark.parametrize(
    ("header", "raw"),
    [
        ({name: value for name, value in WHOLE.items() if name != "model_version"}, []),
        (WHOLE | {"parameters": None}, []),
        (WHOLE | {"outputs": "none"}, []),
        (_tensor(data=[1.0, 2.0]), []),
        (_tensor(data=["x"]), []),
        (_tensor(data=[1.0], datatype="STRING"), []),
        (_tensor(), []),
        (_tensor(), [b"1234567"]),
        (_tensor(parameters={"binary_data_size": 8}), [b"0123456789abcdef"]),
        (_tensor(data=[1.0]), [b"12345678"]),
    ],
    ids=[
        "no-version",
        "no-parameters",
        "no-outputs",
        "too-many-values",
        "text",
        "datatype",
        "no-frame",
        "short-frame",
        "other-size",
        "left-over-frame",
    ],
)
def test_a_reply_that_contradicts_itself_is_a_protocol_error(
    header: dict[str, Any], raw: list[bytes]
) -> None:
    """A reply is believed only where header and frames fit together."""
    with pytest.raises(ProtocolError):
        decode_prediction(header, raw)


def test_the_codec_needs_no_socket() -> None:
    """A request is frames and a reply is a value, so another transport can carry them."""
    header, raw = encode_predict(1, np.array([1.0, 2.0]))
    assert msgspec.json.decode(header)["inputs"][0]["shape"] == [1, 2]
    assert bytes(raw) == np.array([1.0, 2.0]).tobytes()


def test_health_and_metadata(server: FakeServer, client: Client) -> None:
    """Each small operation sends its name, the model where one is given, and unwraps its answer."""
    server.handler = lambda header, _raw: [
        message(
            id=header["id"], live=True, ready=header.get("model_name") == "alpha", models=[{"name": "alpha"}]
        )
    ]
    assert client.live() is True
    assert client.ready("alpha") is True
    assert client.ready() is False
    assert client.models() == [{"name": "alpha"}]
    assert client.metadata("alpha")["ready"] is True
    assert client.server()["live"] is True
    assert [header["op"] for header in server.headers] == [
        "live",
        "ready",
        "ready",
        "models",
        "metadata",
        "server",
    ]
    assert "model_name" not in server.headers[2]


def test_an_operators_messages(server: FakeServer) -> None:
    """Status, reload and rollback carry the protocol's fields; conflict and rejection are exceptions."""
    replies: dict[str, dict[str, Any]] = {
        "status": {"models": []},
        "reload": {"error": "died of SIGABRT", "code": "REJECTED"},
        "rollback": {"error": "generation is 8", "code": "CONFLICT"},
    }
    server.handler = lambda header, _raw: [message(id=header["id"], **replies[header["op"]])]
    with AdminClient(server.endpoint, timeout_s=5) as admin:
        assert admin.status()["models"] == []
        with pytest.raises(Rejected, match="SIGABRT"):
            admin.reload("alpha")
        with pytest.raises(Conflict):
            admin.rollback("alpha", to="1.0.0", reason="drift", expect_generation=7, mark_failed=False)
    header = server.headers[-1]
    assert {
        name: header[name] for name in ("model_name", "to", "reason", "expect_generation", "mark_failed")
    } == {
        "model_name": "alpha",
        "to": "1.0.0",
        "reason": "drift",
        "expect_generation": 7,
        "mark_failed": False,
    }
    assert server.headers[1]["wait"] is True


def test_an_error_leaves_the_client_usable(server: FakeServer, client: Client) -> None:
    """After an error the next request works: one exchange leaves nothing behind."""
    replies = iter(["SHAPE_MISMATCH", None])

    def once(header: dict[str, Any], _raw: list[bytes]) -> Replies:
        code = next(replies)
        return [answer(header, [1.0]) if code is None else message(id=header["id"], error="24", code=code)]

    server.handler = once
    with pytest.raises(ShapeMismatch):
        client.predict([1.0])
    assert client.predict([1.0]).values.tolist() == [1.0]


@pytest.mark.parametrize("bad", [{"encoding": "xml"}, {"endpoint": "nowhere"}])
def test_a_wrong_constructor_argument_is_told(bad: dict[str, Any]) -> None:
    """An unknown encoding and an endpoint that can't be parsed fail at once and leave no socket open."""
    with pytest.raises((ValueError, zmq.ZMQError)):
        Client(**({"endpoint": "ipc:///tmp/x"} | bad))
