"""The Open Inference Protocol over HTTP: the real tritonclient, and everything that a client can get wrong."""

from __future__ import annotations

import asyncio
import gzip
import json
import socket
import zlib
from typing import Any

import numpy as np
import pytest
import tritonclient.http as triton
import tritonclient.http.aio as triton_aio
from tests.http.conftest import Gateway, Serve
from tests.support import wait_until
from tritonclient.utils import InferenceServerException

from modelreg import Registry

INFER = "/v2/models/alpha/infer"
ROW = {"name": "features", "shape": [1, 4], "datatype": "FP64", "data": [0.01, 0.02, -0.01, 0.2]}


@pytest.fixture
def client(gateway):
    with triton.InferenceServerClient(gateway.address) as found:
        yield found


def tensor(matrix: np.ndarray, *, binary: bool = True, kind: Any = triton) -> Any:
    made = kind.InferInput("features", list(matrix.shape), "FP32" if matrix.dtype == np.float32 else "FP64")
    made.set_data_from_numpy(matrix, binary_data=binary)
    return made


@pytest.mark.parametrize("sent", [True, False], ids=["bytes in", "JSON in"])
@pytest.mark.parametrize("wanted", [True, False], ids=["bytes out", "JSON out"])
def test_tritonclient_gets_what_the_booster_predicts(client, trained, rows, sent, wanted):
    """Bit for bit, with tensors as bytes and as JSON, both ways."""
    result = client.infer(
        "alpha",
        [tensor(rows, binary=sent)],
        outputs=[triton.InferRequestedOutput("predictions", binary_data=wanted)],
        request_id="42",
    )
    expected = trained["1.0.0"].booster.predict(rows, num_threads=1)
    np.testing.assert_array_equal(result.as_numpy("predictions"), expected)
    reply = result.get_response()
    assert (reply["id"], reply["model_name"], reply["model_version"]) == ("42", "alpha", "1.0.0")
    assert reply["parameters"]["generation"] >= 1
    assert ("binary_data_size" in reply["outputs"][0].get("parameters", {})) is wanted


@pytest.mark.parametrize("up", [None, "gzip", "deflate"])
@pytest.mark.parametrize("down", [None, "gzip", "deflate"])
def test_compression_both_ways(client, trained, rows, up, down):
    """What tritonclient deflates is inflated, and the other way round."""
    result = client.infer(
        "alpha", [tensor(rows)], request_compression_algorithm=up, response_compression_algorithm=down
    )
    expected = trained["1.0.0"].booster.predict(rows, num_threads=1)
    np.testing.assert_array_equal(result.as_numpy("predictions"), expected)


def test_an_answer_is_compressed_where_that_pays(gateway, rows):
    """200 rows of JSON come in gzip; one row comes as it is."""
    for count, coding in ((200, "gzip"), (1, None)):
        body = {"inputs": [{**ROW, "shape": [count, 4], "data": rows[:count].tolist()}]}
        reply = gateway.client.post(INFER, json=body, headers={"Accept-Encoding": "br, gzip;q=0.5"})
        assert (reply.status_code, reply.headers.get("content-encoding")) == (200, coding)
        assert len(reply.json()["outputs"][0]["data"]) == count


def test_tritonclient_for_asyncio_with_many_requests_under_way(gateway, trained, rows):
    """Each gets its own answer."""

    async def ask() -> list[np.ndarray]:
        async with triton_aio.InferenceServerClient(gateway.address) as client:
            replies = await asyncio.gather(
                *(client.infer("alpha", [tensor(rows[at : at + 1], kind=triton_aio)]) for at in range(50))
            )
            return [reply.as_numpy("predictions") for reply in replies]

    expected = trained["1.0.0"].booster.predict(rows[:50], num_threads=1)
    np.testing.assert_array_equal(np.concatenate(asyncio.run(ask())), expected)


def test_what_tritonclient_asks_of_a_server(client):
    """Health, metadata, statistics and the repository's index, in the forms that it reads."""
    assert client.is_server_live()
    assert client.is_server_ready()
    assert client.is_model_ready("alpha")
    assert client.is_model_ready("alpha", "1.0.0")
    assert not client.is_model_ready("alpha", "9.9.9")
    assert not client.is_model_ready("beta")
    assert client.get_server_metadata()["name"] == "modeld"
    metadata = client.get_model_metadata("alpha", "1.0.0")
    assert (metadata["versions"], metadata["inputs"][0]["shape"]) == (["1.0.0"], [-1, 4])
    statistics = client.get_inference_statistics("alpha")["model_stats"][0]
    assert statistics["inference_stats"]["success"]["count"] == statistics["inference_count"]
    assert client.get_inference_statistics()["model_stats"][0]["name"] == "alpha"
    assert client.get_model_repository_index() == [
        {"name": "alpha", "version": "1.0.0", "state": "READY", "reason": ""}
    ]


def test_single_precision_and_one_tensor_a_feature(client, trained, rows):
    """Other datatypes are computed in FP64; features by name may come in any order."""
    single = rows[:3].astype(np.float32)
    expected = trained["1.0.0"].booster.predict(single.astype(float), num_threads=1)
    np.testing.assert_array_equal(client.infer("alpha", [tensor(single)]).as_numpy("predictions"), expected)
    columns = []
    names = client.get_model_metadata("alpha")["parameters"]["features"]
    for at in (2, 0, 3, 1):
        column = triton.InferInput(names[at], [3, 1], "FP64")
        column.set_data_from_numpy(np.ascontiguousarray(rows[:3, at : at + 1]), binary_data=at % 2 == 0)
        columns.append(column)
    expected = trained["1.0.0"].booster.predict(rows[:3], num_threads=1)
    np.testing.assert_array_equal(client.infer("alpha", columns).as_numpy("predictions"), expected)


def with_header(header: dict[str, Any], tail: bytes, length: str | None = None) -> dict[str, Any]:
    text = json.dumps(header).encode()
    said = str(len(text)) if length is None else length
    return {"content": text + tail, "headers": {"Inference-Header-Content-Length": said}}


BINARY = {"inputs": [{**ROW, "data": None, "parameters": {"binary_data_size": 32}}]}
WRONG = {
    "not JSON": (INFER, {"content": b"{"}, 400, "MALFORMED"),
    "not an object": (INFER, {"content": b"[1]"}, 400, "MALFORMED"),
    "no inputs": (INFER, {"json": {}}, 400, "MALFORMED"),
    "nested too deep": (INFER, {"content": b'{"inputs":' + b"[" * 100_000}, 400, "MALFORMED"),
    "header longer than the body": (INFER, with_header(BINARY, b"", "99999"), 400, "MALFORMED"),
    "header length isn't one": (INFER, with_header(BINARY, b"", "-1"), 400, "MALFORMED"),
    "data and bytes": (INFER, with_header(BINARY, bytes(32)), 400, "MALFORMED"),
    "bytes missing": (
        INFER,
        with_header({"inputs": [{k: v for k, v in BINARY["inputs"][0].items() if k != "data"}]}, bytes(31)),
        400,
        "MALFORMED",
    ),
    "bytes left over": (INFER, with_header({"inputs": [ROW]}, bytes(8)), 400, "MALFORMED"),
    "shared memory": (
        INFER,
        {"json": {"inputs": [{**ROW, "parameters": {"shared_memory_region": "x"}}]}},
        400,
        "MALFORMED",
    ),
    "no such output": (INFER, {"json": {"inputs": [ROW], "outputs": [{"name": "x"}]}}, 400, "MALFORMED"),
    "classification": (
        INFER,
        {
            "json": {
                "inputs": [ROW],
                "outputs": [{"name": "predictions", "parameters": {"classification": 3}}],
            }
        },
        400,
        "MALFORMED",
    ),
    "three features": (
        INFER,
        {"json": {"inputs": [{**ROW, "shape": [1, 3], "data": [1, 2, 3]}]}},
        400,
        "SHAPE_MISMATCH",
    ),
    "text": (INFER, {"json": {"inputs": [{**ROW, "datatype": "BYTES"}]}}, 400, "DATATYPE_UNSUPPORTED"),
    "infinity": (
        INFER,
        with_header(
            {"inputs": [{k: v for k, v in BINARY["inputs"][0].items() if k != "data"}]},
            np.full(4, np.inf).tobytes(),
        ),
        400,
        "NON_FINITE",
    ),
    "a wrong parameter": (
        INFER,
        {"json": {"inputs": [ROW], "parameters": {"timeout_us": "soon"}}},
        400,
        "MALFORMED",
    ),
    "no such model": ("/v2/models/beta/infer", {"json": {"inputs": [ROW]}}, 404, "MODEL_NOT_FOUND"),
    "no such version": (
        "/v2/models/alpha/versions/9.9.9/infer",
        {"json": {"inputs": [ROW]}},
        404,
        "VERSION_NOT_AVAILABLE",
    ),
    "no such path": ("/v2/models/alpha/explain", {"json": {}}, 404, "not_found"),
    "not gzip": (INFER, {"content": b"x", "headers": {"Content-Encoding": "gzip"}}, 400, "usage"),
    "half of a gzip": (
        INFER,
        {"content": gzip.compress(b"{}" * 500)[:-9], "headers": {"Content-Encoding": "gzip"}},
        400,
        "usage",
    ),
    "another coding": (INFER, {"content": b"x", "headers": {"Content-Encoding": "br"}}, 415, "usage"),
    "a bomb": (
        INFER,
        {"content": zlib.compress(bytes(64 << 20)), "headers": {"Content-Encoding": "deflate"}},
        413,
        "TOO_LARGE",
    ),
    "too large": (INFER, {"content": bytes(17 << 20)}, 413, "TOO_LARGE"),
}


@pytest.mark.parametrize(("path", "request_", "status", "code"), WRONG.values(), ids=WRONG.keys())
def test_a_wrong_request_gets_one_clear_error(gateway, path, request_, status, code):
    """The protocol's shape, a status, a stable code; the next request is answered as if nothing had been."""
    reply = gateway.client.post(path, **request_)
    assert (reply.status_code, reply.json()["code"]) == (status, code), reply.text
    assert reply.json()["error"]
    assert gateway.client.post(INFER, json={"inputs": [ROW]}).status_code == 200


def test_a_get_of_infer_says_what_is_allowed(gateway):
    """405 with Allow."""
    reply = gateway.client.get(INFER)
    assert (reply.status_code, reply.headers["allow"]) == (405, "POST")


def test_load_swaps_to_what_was_promoted_and_unload_is_refused(serve: Serve):
    """Both need the scope to operate; a load without anything new says so."""
    gateway = serve()
    token = gateway.bearer("model:operate")
    with triton.InferenceServerClient(gateway.address) as client:
        with pytest.raises(InferenceServerException, match="token"):
            client.load_model("alpha")
        with pytest.raises(InferenceServerException, match="lacks the scope"):
            client.load_model("alpha", headers=gateway.bearer("model:read", "model:write"))
        Registry(gateway.daemon.directory / "models", actor="tester").promote("alpha:1.1.0", reason="better")
        client.load_model("alpha", headers=token)
        assert client.get_model_metadata("alpha")["versions"][0] == "1.1.0"
        with pytest.raises(InferenceServerException, match="stays loaded"):
            client.unload_model("alpha", headers=token)
        with pytest.raises(InferenceServerException, match="takes no parameters"):
            client.load_model("alpha", headers=token, config="{}")
    assert gateway.operator.post("/v2/repository/models/alpha/load").json()["reloaded"] is False
    assert gateway.operator.post("/v2/repository/models/beta/load").status_code == 404


def test_without_a_daemon_the_gateway_says_when_to_come_back(serve: Serve):
    """503 with Retry-After for what needs it; its own metadata are answered; and when it comes all is well."""
    gateway = serve(start=False)
    for method, path in (("POST", INFER), ("GET", "/v2/health/live"), ("GET", "/v2/models/alpha")):
        reply = gateway.client.request(method, path, content=json.dumps({"inputs": [ROW]}))
        assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")
        assert "is modeld running" in reply.json()["error"]
    assert gateway.client.get("/v2").status_code == 200
    assert "modeld_up 0.0" in gateway.client.get("/metrics").text
    assert gateway.operator.post("/model/reload").status_code == 503
    assert gateway.operator.get("/api/v1/models/alpha/current").json()["version"] == "1.0.0"
    gateway.daemon.start()

    def answers() -> bool:
        return gateway.client.post(INFER, json={"inputs": [ROW]}).status_code == 200

    wait_until(answers, 20)
    assert gateway.client.get("/v2/health/ready").json() == {"ready": True}


def test_a_daemon_that_dies_under_load_costs_errors_and_no_gateway(serve: Serve):
    """Every request is answered by 200 or by an explicit error, and the restarted daemon is found again."""
    gateway = serve("http.timeout_s=1")
    gateway.daemon.process.kill()
    gateway.daemon.process.wait()
    seen = {gateway.client.post(INFER, json={"inputs": [ROW]}).status_code for _ in range(5)}
    assert seen <= {503, 504}
    gateway.daemon.start()
    wait_until(lambda: gateway.client.post(INFER, json={"inputs": [ROW]}).status_code == 200, 20)


def test_clients_that_leave_are_forgotten(gateway: Gateway):
    """A connection that ends in the middle of a request, or before its answer, is no error of ours."""
    body = json.dumps({"inputs": [ROW]}).encode()
    head = f"POST {INFER} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    host, port = gateway.address.split(":")
    for sent in (head, head + body[:9], head + body) * 5:
        with socket.create_connection((host, int(port))) as connection:
            connection.sendall(sent)
    assert gateway.client.get("/v2/health/live").json() == {"live": True}
    assert gateway.logged("incident") == []
