"""Connections that never ask, ask for ever, or ask without end; and those that only take their time."""

from __future__ import annotations

import asyncio
import json
import re
import resource
import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest
from tests.http.conftest import Gateway, _maker, _take_down
from tests.support import wait_until
from uvicorn.config import Config
from uvicorn.server import ServerState

from modeld.http.protocol import MAX_PIPELINED, BoundedProtocol

INFER = "/v2/models/alpha/infer"
BODY = json.dumps({"inputs": [{"name": "f", "shape": [1, 1], "datatype": "FP64", "data": [1]}]}).encode()


def head(length: int, *more: str) -> bytes:
    lines = [f"POST {INFER} HTTP/1.1", "Host: localhost", f"Content-Length: {length}", *more]
    return ("\r\n".join(lines) + "\r\n\r\n").encode()


@pytest.fixture(scope="module")
def gateway(template: Path) -> Iterator[Gateway]:
    """One whose clients have a second for a request; no daemon is there, so an inference takes half a second."""
    directories: list[Path] = []
    made: list[Gateway] = []
    try:
        yield _maker(directories, made, template)("http.request_timeout_s=1", start=False)
    finally:
        _take_down(directories, made)


@pytest.fixture
def connect(gateway: Gateway) -> Iterator:
    """Opens connections, and closes them in the end."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    host, _, port = gateway.address.rpartition(":")
    with ExitStack() as opened:

        def make(sent: bytes = b"") -> socket.socket:
            made = opened.enter_context(socket.create_connection((host, int(port)), 60))
            made.sendall(sent)
            return made

        yield make
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def rest(connection: socket.socket) -> bytes:
    """Everything until the gateway closes it."""
    parts = []
    with suppress(ConnectionResetError):  # it had not read everything
        while part := connection.recv(65536):
            parts.append(part)
    return b"".join(parts)


def answer(connection: socket.socket) -> bytes:
    """One answer with a body whose length is said."""
    came = b""
    while b"\r\n\r\n" not in came:
        came += connection.recv(65536)
    length = int(came.lower().split(b"\r\ncontent-length:")[1].split(b"\r\n")[0])
    while len(came.partition(b"\r\n\r\n")[2]) < length:
        came += connection.recv(65536)
    return came


def readable(connection: socket.socket) -> bool:
    return bool(select.select([connection], [], [], 0)[0])


def test_a_thousand_silent_connections_hurt_nobody_and_are_ended(gateway: Gateway, connect) -> None:
    """Requests are answered beside them; whoever has asked before, or sends steadily, isn't ended with them."""
    large = BODY + b" " * (1 << 19)
    steady = connect(head(len(large)) + large[: 1 << 18])
    asked_before = connect(b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert answer(asked_before).startswith(b"HTTP/1.1 200")
    silent = [connect() for _ in range(1030)]
    assert gateway.client.get("/v2").status_code == 200
    assert all(rest(each) == b"" for each in silent)
    steady.sendall(large[1 << 18 :])
    assert answer(steady).startswith(b"HTTP/1.1 503")
    asked_before.sendall(b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert answer(asked_before).startswith(b"HTTP/1.1 200")
    assert gateway.logged("incident") == gateway.logged("http_server") == []


CHUNKED = head(0, "Transfer-Encoding: chunked").replace(b"Content-Length: 0\r\n", b"")


@pytest.mark.parametrize(
    ("sent", "drop"),
    [
        (f"POST {INFER} HTTP/1.1\r\nHost: loc".encode(), b"a"),
        (head(len(BODY)), b""),
        (head(99_999) + BODY, b" "),
        (CHUNKED + b"ffff\r\n{", b" "),
    ],
    ids=["half a head", "no body", "half a body", "half a chunk"],
)
def test_half_a_request_is_ended_with_408(gateway: Gateway, connect, sent: bytes, drop: bytes) -> None:
    """Once its time is up, also where a byte comes every now and then; it isn't logged as an error of ours."""
    connection = connect(sent)

    def dripping() -> bool:
        if not (answered := readable(connection)):
            connection.sendall(drop)
        return answered

    wait_until(dripping, 60, poll_s=0.02)
    said = rest(connection)
    assert said.startswith(b"HTTP/1.1 408 Request Timeout\r\n")
    assert json.loads(said.partition(b"\r\n\r\n")[2])["code"] == "TIMEOUT"
    assert gateway.logged("incident") == gateway.logged("http_server") == []


def test_the_time_of_an_answer_isnt_counted(connect) -> None:
    """Half of the next request is there while the first is computed: that one is answered, then the other is ended."""
    said = rest(connect(head(len(BODY)) + BODY + b"GET /v2 HTT"))
    assert said.startswith(b"HTTP/1.1 503")
    assert said.count(b"HTTP/1.1 408") == 1


@pytest.mark.parametrize(
    ("start", "more"),
    [
        (b"GET /", b"x" * 1000),
        (b"GET /v2 HTTP/1.1\r\nX-Long: ", b"x" * 1000),
        (b"GET /v2 HTTP/1.1\r\n", b"X-Many: yes\r\n" * 80),
        (CHUNKED + b"1;", b"x" * 1000),
        (CHUNKED + b"0\r\n", b"T: y\r\n" * 160),
    ],
    ids=["path", "header", "headers", "chunk", "trailers"],
)
def test_a_head_without_an_end_is_refused(connect, start: bytes, more: bytes) -> None:
    """At 64 KiB, whatever it is that doesn't end: nothing is kept for ever."""
    connection = connect(start)
    with suppress(BrokenPipeError, ConnectionResetError):
        for _ in range(4000):
            connection.sendall(more)
            if readable(connection):
                break
    assert rest(connection).startswith(b"HTTP/1.1 431 ")


def test_requests_in_a_row_are_answered_in_order_up_to_a_limit(gateway: Gateway, connect) -> None:
    """A hundred at once are; a client that asks on and on and reads nothing is let go, and the log says so."""
    asked = b"".join(f"GET /{at} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode() for at in range(99))
    said = rest(connect(asked + b"GET /99 HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"))
    assert re.findall(rb"no path /(\d+) here", said) == [str(at).encode() for at in range(100)]
    greedy = connect()
    with suppress(BrokenPipeError, ConnectionResetError):
        greedy.sendall(b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n" * 20_000)
    rest(greedy)
    assert any("requests under way" in line["what"] for line in gateway.logged("http_server"))


def test_a_client_that_leaves_with_requests_waiting_is_no_incident(gateway: Gateway, connect) -> None:
    """The one under way has nobody to answer, nor have those behind it."""
    for reset in (b"\1\0\0\0\0\0\0\0", b"\0" * 8):
        leaving = connect((head(len(BODY)) + BODY) * 3)
        leaving.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, reset)
        leaving.close()
    for _ in range(3):  # each takes as long as one of theirs
        assert gateway.client.post(INFER, content=BODY).status_code == 503
    assert gateway.logged("incident") == []


def test_small_chunks_are_no_head(connect) -> None:
    """A body that comes byte by byte, each a chunk, is framed by more than a head may have; that isn't kept."""
    said = answer(
        connect(CHUNKED + b"".join(b"1\r\n%c\r\n" % each for each in BODY.ljust(100_000)) + b"0\r\n\r\n")
    )
    assert said.startswith(b"HTTP/1.1 503")


def test_what_is_no_http_isnt_the_answer_to_what_was_asked_before(connect) -> None:
    """Behind a request under way it only ends the connection; else it is told like any other refusal."""
    assert b"HTTP/1.1 400" not in rest(connect(head(len(BODY)) + BODY + b"\0\0\0\0"))
    said = rest(connect(b"\0\0\0\0"))
    assert said.startswith(b"HTTP/1.1 400 Bad Request\r\n")
    assert json.loads(said.partition(b"\r\n\r\n")[2])["code"] == "usage"


class SteppedLoop(asyncio.SelectorEventLoop):
    """An event loop whose time is set."""

    now = 0.0

    def time(self) -> float:
        return self.now


async def echo(scope, receive, send) -> None:
    """Answers with the path, once whatever was asked is there."""
    while (await receive()).get("more_body"):
        pass
    said = scope["path"].encode()
    length = [(b"content-length", str(len(said)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": length})
    await send({"type": "http.response.body", "body": said})


@pytest.fixture
def stepped() -> Iterator[tuple[SteppedLoop, socket.socket, BoundedProtocol]]:
    """A connection whose time is set: its loop, the client's end, and the protocol."""
    loop, (ours, theirs) = SteppedLoop(), socket.socketpair()
    config = Config(echo, log_config=None, lifespan="off", timeout_keep_alive=60)
    protocol = BoundedProtocol(config, ServerState(), {}, loop)
    theirs.setblocking(False)
    try:
        loop.run_until_complete(loop.connect_accepted_socket(lambda: protocol, ours))
        yield loop, theirs, protocol
    finally:
        protocol.transport.abort()
        loop.run_until_complete(asyncio.sleep(0))
        theirs.close()
        loop.close()


def test_time_begins_anew_with_each_request_of_a_row(stepped) -> None:
    """Also where every read ends one request and begins the next; half a request is still ended."""
    loop, client, protocol = stepped
    asked = b"GET /v2 HTTP/1.1\r\nHost: localhost\r\n\r\n"
    client.sendall(asked[:10])
    for _ in range(8):
        loop.now += protocol.request_timeout_s / 2
        loop.run_until_complete(
            asyncio.sleep(0)
        )  # a timer that is due is called now, while nothing is answered
        client.sendall(asked[10:] + asked[:10])
        said = loop.run_until_complete(loop.sock_recv(client, 65536))
        assert said.startswith(b"HTTP/1.1 200")
        assert said.endswith(b"/v2")
    loop.now += protocol.request_timeout_s + 1
    assert loop.run_until_complete(loop.sock_recv(client, 65536)).startswith(b"HTTP/1.1 408")


def test_nothing_is_kept_of_requests_beyond_the_limit(stepped) -> None:
    """They aren't kept until the one under way is answered, nor until its client has read what there is."""
    loop, client, protocol = stepped
    client.setblocking(True)
    client.sendall(b"GET / HTTP/1.1\r\n\r\n" * (MAX_PIPELINED + 2))
    client.setblocking(False)
    loop.run_until_complete(asyncio.sleep(0))
    assert protocol.transport.is_closing()
    assert not protocol.pipeline
