"""Large messages of numbers, which another process decodes: their answers, and what becomes of them when it dies."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import numpy as np
import psutil
import pytest
import zmq
from tests.e2e.conftest import Daemon
from tests.registry.conftest import FEATURES, Trained
from tests.support import wait_until

from modelreg import Registry

#: So many rows take some hundred kilobytes in JSON.
TIMES = 20


@pytest.fixture
def sock(daemon: Daemon) -> Iterator[zmq.Socket[bytes]]:
    with zmq.Context() as context, context.socket(zmq.DEALER) as made:
        made.set(zmq.RCVTIMEO, 20_000)
        made.set(zmq.LINGER, 0)
        made.connect(daemon.data)
        yield made


def request(rows: np.ndarray, request_id: Any, **fields: Any) -> bytes:
    values = np.tile(rows, (TIMES, 1))
    tensor = {"name": "x", "shape": list(values.shape), "datatype": "FP64", "data": values.tolist()}
    return json.dumps({"id": request_id, **fields, "inputs": [tensor]}).replace("NaN", "null").encode()


def decoder(daemon: Daemon) -> psutil.Process | None:
    found = [one for one in daemon.children() if one.name() == "modeld-decoder"]
    assert len(found) < 2
    return found[0] if found else None


def expected(trained: dict[str, Trained], rows: np.ndarray) -> np.ndarray:
    return np.tile(trained["1.0.0"].booster.predict(rows, num_threads=1), TIMES)


def forms(many: np.ndarray) -> dict[str, tuple[bytes, list[bytes]]]:
    """The same rows as a header and raw frames, in each form that has to be decoded or converted."""
    tensor: dict[str, Any] = {
        "name": "x",
        "shape": list(many.shape),
        "datatype": "FP64",
        "data": many.tolist(),
    }
    objects = [dict(zip(FEATURES, row, strict=True)) for row in many.tolist()]
    columns = [
        {"name": name, "shape": [len(many)], "datatype": "FP64", "data": column}
        for name, column in zip(FEATURES, many.T.tolist(), strict=True)
    ]
    floats = many.astype("<f4").tobytes()
    raw = {**tensor, "datatype": "FP32", "parameters": {"binary_data_size": len(floats)}}
    del raw["data"]
    headers: dict[str, Any] = {"tensor": {"inputs": [tensor]}, "objects": {"features": objects}}
    headers |= {"rows": {"features": many.tolist()}, "columns": {"inputs": columns}}
    as_json = {
        name: (json.dumps({"id": name, **header}).replace("NaN", "null").encode(), [])
        for name, header in headers.items()
    }
    packed = {
        f"msgpack {name}": (msgspec.msgpack.encode({"id": f"msgpack {name}", **header}), [])
        for name, header in headers.items()
    }
    return {**as_json, **packed, "raw": (msgspec.msgpack.encode({"id": "raw", "inputs": [raw]}), [floats])}


def test_every_large_form_is_bit_equal_to_the_offline_prediction(
    sock: zmq.Socket[bytes], daemon: Daemon, trained: dict[str, Trained], rows: np.ndarray
) -> None:
    """Thousands of rows, inline or to be converted; one process, made for the first of them, takes them in."""
    assert decoder(daemon) is None
    rows = rows.astype(np.float32).astype(np.float64)
    sent = forms(np.tile(rows, (2 * TIMES, 1)))
    wanted = np.tile(expected(trained, rows), 2)
    for head, raw in sent.values():
        sock.send_multipart([head, *raw])
    for name in sent:
        reply = sock.recv()
        answer = json.loads(reply) if reply[:1] == b"{" else msgspec.msgpack.decode(reply)
        assert answer["id"] == name, answer
        assert np.array(answer["outputs"][0]["data"]).tobytes() == wanted.tobytes()
    assert decoder(daemon) is not None


def test_a_decoder_that_dies_takes_no_message_with_it(
    sock: zmq.Socket[bytes], daemon: Daemon, trained: dict[str, Trained], rows: np.ndarray
) -> None:
    """The one that it had goes to another, and so do those that waited."""
    sock.send(request(rows, 0))
    sock.recv()
    first = decoder(daemon)
    assert first is not None
    os.kill(first.pid, signal.SIGSTOP)
    for number in range(1, 4):
        sock.send(request(rows, number))
    with daemon.client() as client:  # its answer comes behind the messages above
        assert client.predict(rows[0]).version == "1.0.0"
    os.kill(first.pid, signal.SIGKILL)
    replies = [json.loads(sock.recv()) for _ in range(3)]
    assert [reply["id"] for reply in replies] == [1, 2, 3]
    for reply in replies:
        assert np.array(reply["outputs"][0]["data"]).tobytes() == expected(trained, rows).tobytes()
    assert decoder(daemon) not in (None, first)
    assert not daemon.logged("incident")


def test_a_message_that_takes_two_decoders_with_it_gets_an_error(
    sock: zmq.Socket[bytes], daemon: Daemon, rows: np.ndarray
) -> None:
    """INTERNAL under its id, an incident in the log, and the next message is answered."""
    sock.send(request(rows, 0))
    sock.recv()
    seen: set[int] = set()
    first = decoder(daemon)
    assert first is not None
    os.kill(first.pid, signal.SIGSTOP)
    sock.send(request(rows, "fatal"))

    def killed() -> bool:
        """Each decoder is ended while the message is its own."""
        found = decoder(daemon)
        if found is not None and found.pid not in seen:
            os.kill(found.pid, signal.SIGSTOP)
            with daemon.client() as client:
                client.live()
            os.kill(found.pid, signal.SIGKILL)
            seen.add(found.pid)
        return bool(sock.poll(5))

    wait_until(killed)
    reply = json.loads(sock.recv())
    if "error" in reply:  # else the second decoder was quicker than this test
        assert (reply["id"], reply["code"], len(seen)) == ("fatal", "INTERNAL", 2)
        assert daemon.logged("incident")[0]["incident"] == reply["parameters"]["incident"]
    sock.send(request(rows, "next"))
    assert json.loads(sock.recv())["id"] == "next"


def test_what_waits_to_be_decoded_is_bounded(
    registry: Registry, make_daemon: Callable[..., Daemon], rows: np.ndarray
) -> None:
    """Beyond the queue's limit BUSY at once, under the id; each message gets one reply, in a drain as well."""
    daemon = make_daemon(registry.root, limits={"queue_bytes": 1 << 20, "drain_timeout_s": 60}).start()
    with zmq.Context() as context, context.socket(zmq.DEALER) as sock:
        sock.set(zmq.RCVTIMEO, 20_000)
        sock.set(zmq.LINGER, 0)
        sock.connect(daemon.data)
        sock.send(request(rows, -1))
        sock.recv()
        stopped = decoder(daemon)
        assert stopped is not None
        os.kill(stopped.pid, signal.SIGSTOP)
        for number in range(20):
            sock.send(request(rows, number))
        sock.send(b'{"op": "live"}')  # when that is answered, all of them have been admitted or refused
        replies = list(iter(lambda: json.loads(sock.recv()), {"id": None, "live": True}))
        assert {(reply["code"], reply["parameters"]["retryable"]) for reply in replies} == {("BUSY", True)}
        daemon.signal(signal.SIGTERM)
        wait_until(lambda: daemon.logged("draining"))
        sock.send(request(rows, 20))
        refused = json.loads(sock.recv())
        assert (refused["id"], refused["code"]) == (20, "DRAINING")
        os.kill(stopped.pid, signal.SIGCONT)
        answered = [json.loads(sock.recv()) for _ in range(20 - len(replies))]
    assert sorted(reply["id"] for reply in (*replies, *answered)) == list(range(20))
    assert not any("error" in reply for reply in answered), answered
    assert daemon.wait() == 0


def test_what_the_decoder_cannot_finish_is_refused_at_the_end(
    registry: Registry, make_daemon: Callable[..., Daemon], rows: np.ndarray
) -> None:
    """A drain waits no longer than its limit: each message that is still with the decoder, or behind it, is told so."""
    daemon = make_daemon(registry.root, limits={"drain_timeout_s": 0.5}).start()
    with zmq.Context() as context, context.socket(zmq.DEALER) as sock:
        sock.set(zmq.RCVTIMEO, 20_000)
        sock.set(zmq.LINGER, 0)
        sock.connect(daemon.data)
        sock.send(request(rows, -1))
        sock.recv()
        stopped = decoder(daemon)
        assert stopped is not None
        os.kill(stopped.pid, signal.SIGSTOP)
        for number in range(3):
            sock.send(request(rows, number))
        sock.send(b'{"op": "live"}')
        assert json.loads(sock.recv())["live"]
        daemon.signal(signal.SIGTERM)
        replies = [json.loads(sock.recv()) for _ in range(3)]
    assert [(reply["id"], reply["code"]) for reply in replies] == [(at, "DRAINING") for at in range(3)]
    assert daemon.wait() == 0
