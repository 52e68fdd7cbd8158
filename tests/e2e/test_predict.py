"""Predictions over a real socket by a real daemon."""

from __future__ import annotations

import json
import struct

import msgspec
import numpy as np
import pytest
import zmq
from tests.e2e.conftest import Daemon
from tests.registry.conftest import FEATURES, Trained

from modeld.client.errors import ServerError


def test_each_row_is_bit_equal_to_the_offline_prediction(
    daemon: Daemon, trained: dict[str, Trained], rows: np.ndarray
) -> None:
    """Single rows, small batches and a matrix larger than a packet give the bits of Booster.predict."""
    offline = trained["1.0.0"].booster.predict(rows, num_threads=1)
    many = np.ascontiguousarray(np.tile(rows, (30, 1)))
    with daemon.client() as client:
        for row, expected in zip(rows[:50], offline, strict=False):
            reply = client.predict(row)
            assert reply.values.tobytes() == np.float64(expected).tobytes()
            assert (reply.model, reply.version, reply.generation) == ("alpha", "1.0.0", 4)
        assert client.predict(rows[:7]).values.tobytes() == offline[:7].tobytes()
        assert client.predict(many).values.tobytes() == np.tile(offline, 30).tobytes()


def test_matrices_of_all_sizes_one_after_the_other(
    daemon: Daemon, trained: dict[str, Trained], rows: np.ndarray
) -> None:
    """The memory of one is used for the next, larger or smaller, and nothing of it is left in the answer."""
    chance = np.random.default_rng(1)
    with daemon.client() as client:
        for size in (3000, 40, 9000, 700, 9000, 50):
            matrix = rows[chance.integers(0, len(rows), size)]
            offline = trained["1.0.0"].booster.predict(matrix, num_threads=1)
            assert client.predict(matrix).values.tobytes() == offline.tobytes()


@pytest.mark.parametrize("delimiter", [True, False])
def test_plain_json_over_req_and_dealer(daemon: Daemon, rows: np.ndarray, delimiter: bool) -> None:
    """A client that knows only JSON gets JSON, its own id with its type, and one tensor named `predictions`."""
    with zmq.Context() as context, context.socket(zmq.REQ if delimiter else zmq.DEALER) as sock:
        sock.set(zmq.RCVTIMEO, 5000)
        sock.set(zmq.LINGER, 0)
        sock.connect(daemon.data)
        sock.send(
            json.dumps({"id": 7, "features": dict(zip(FEATURES, rows[0].tolist(), strict=True))}).encode()
        )
        reply = json.loads(sock.recv())
    assert reply["id"] == 7
    assert reply["outputs"][0]["name"] == "predictions"
    assert reply["outputs"][0]["shape"] == [1]
    assert reply["parameters"].keys() == {"generation", "digest", "queue_us", "predict_us", "path"}


def test_raw_frames_both_ways(daemon: Daemon, trained: dict[str, Trained], rows: np.ndarray) -> None:
    """Raw float64 in, raw float64 out where it is asked for."""
    header = {
        "op": "predict",
        "id": "r",
        "model_name": "alpha",
        "parameters": {"binary_data_output": True},
        "inputs": [
            {"name": "features", "shape": [2, 4], "datatype": "FP64", "parameters": {"binary_data_size": 64}}
        ],
    }
    with zmq.Context() as context, context.socket(zmq.DEALER) as sock:
        sock.set(zmq.RCVTIMEO, 5000)
        sock.set(zmq.LINGER, 0)
        sock.connect(daemon.data)
        sock.send_multipart([json.dumps(header).encode(), rows[:2].tobytes()])
        head, raw = sock.recv_multipart()
    assert json.loads(head)["outputs"][0]["parameters"] == {"binary_data_size": 16}
    assert struct.unpack("<2d", raw) == tuple(trained["1.0.0"].booster.predict(rows[:2], num_threads=1))


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        ([b"\x00\x01nonsense"], "MALFORMED"),
        ([b'{"op": "predict"'], "MALFORMED"),
        ([b'{"op": "rollback", "reason": "x"}'], "UNKNOWN_OP"),
        ([b'{"op": "predict", "features": [1, 2]}'], "SHAPE_MISMATCH"),
        ([msgspec.msgpack.encode({"features": [1.0, 2.0, 3.0, float("inf")]})], "NON_FINITE"),
        ([b'{"op": "predict", "model_name": "beta", "features": [1, 2, 3, 4]}'], "MODEL_NOT_FOUND"),
        ([b'{"op": "predict", "model_version": "9.9.9", "features": [1, 2, 3, 4]}'], "VERSION_NOT_AVAILABLE"),
        ([b'{"features": [1, 2, 3, 4], "parameters": {"min_generation": 99}}'], "VERSION_NOT_AVAILABLE"),
        ([b'{"features": [1, 2, 3, 4], "parameters": {"schema": "sha256:0"}}'], "SCHEMA_MISMATCH"),
        ([b'{"features": [1, 2, 3, 4], "parameters": {"timeout_us": 0}}'], "DEADLINE_EXCEEDED"),
        ([b'{"features": {"ret_1d": 1}}'], "MISSING_FEATURE"),
        ([b'{"features": [1, 2, 3, 4]}', b"left over"], "MALFORMED"),
        ([b'{"features": [1, 2, 3, 4]}' + b" " * (17 << 20)], "TOO_LARGE"),
    ],
)
def test_bad_messages_get_a_typed_error_and_the_daemon_goes_on(
    daemon: Daemon, frames: list[bytes], code: str, rows: np.ndarray
) -> None:
    """Whatever a client sends, it gets the code of the table, and the next client is served."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as sock:
        sock.set(zmq.RCVTIMEO, 5000)
        sock.set(zmq.LINGER, 0)
        sock.connect(daemon.data)
        sock.send_multipart(frames)
        reply = sock.recv()
        error = json.loads(reply) if reply[:1] == b"{" else msgspec.msgpack.decode(reply)
    assert error["code"] == code
    assert error["error"]
    with daemon.client() as client:
        assert client.predict(rows[0]).version == "1.0.0"


def test_an_infinity_in_a_large_matrix_is_named_and_nan_is_missing(
    daemon: Daemon, trained: dict[str, Trained], rows: np.ndarray
) -> None:
    """The worker looks through what the front only hands on: the same error, and the same bits, as for few rows."""
    many = np.tile(rows, (20, 1))
    many[1234, 2] = np.nan
    with daemon.client() as client:
        got = client.predict(many).values
        assert got.tobytes() == trained["1.0.0"].booster.predict(many, num_threads=1).tobytes()
        for value in (np.inf, -np.inf):
            many[3000, 3] = value
            with pytest.raises(ServerError) as refusal:
                client.predict(many)
            assert refusal.value.code == "NON_FINITE"
            assert refusal.value.parameters == {"row": 3000, "feature": FEATURES[3]}
            with pytest.raises(ServerError) as refusal:
                client.predict(many.astype(np.float32))
            assert refusal.value.code == "NON_FINITE"
        assert client.predict(rows[0]).version == "1.0.0"


def test_other_data_operations(daemon: Daemon) -> None:
    """live, ready, server, models and metadata say what the protocol's page says."""
    with daemon.client() as client:
        assert client.live()
        assert client.ready("alpha")
        assert client.server()["name"] == "modeld"
        assert client.models() == [
            {"model_name": "alpha", "version": "1.0.0", "generation": 4, "state": "serving"}
        ]
        metadata = client.metadata("alpha")
        assert metadata["inputs"] == [{"name": "features", "datatype": "FP64", "shape": [-1, 4]}]
        assert metadata["parameters"]["features"] == list(FEATURES)
        with pytest.raises(ServerError) as refusal:
            client.metadata("beta")
        assert refusal.value.code == "MODEL_NOT_FOUND"
