"""Whatever reaches the data socket: the daemon's pid and memory stay, and honest clients are served throughout.

Short by default; `pytest tests/faults --campaign 5` makes five times as many cases, 10,000 connections among them.
Byte-level cases come from a fixed seed.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import resource
import select
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psutil
import pytest
import zmq
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.e2e.conftest import Daemon
from tests.e2e.test_swap import Stream, check
from tests.registry.conftest import FEATURES, Trained
from tests.support import wait_until

from modeld.client import Client

SEED = 20260102
#: What the front may grow by in one of these tests, MiB: docs/wire.md, "Limits and memory".
GROWTH_MIB = 64
ROW = [0.1, 0.2, 0.3, 0.4]
#: Where the daemon under attack listens, besides its ipc socket.
HOST = "127.0.0.1"

_ids = itertools.count(1)


@pytest.fixture(scope="module")
def target(template: Path) -> Iterator[Daemon]:
    """One daemon for all the attacks: what one leaves behind the next one meets."""
    directory = Path(tempfile.mkdtemp(prefix="md-"))
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        port = probe.getsockname()[1]
    root = shutil.copytree(template, directory / "models", symlinks=True)
    daemon = Daemon(
        directory,
        root,
        endpoints={"data": ["ipc://{runtime_dir}/data/predict.sock", f"tcp://{HOST}:{port}"]},
    )
    daemon.port = port  # type: ignore[attr-defined]
    try:
        yield daemon.start()
    finally:
        daemon.close()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture
def honest(target: Daemon, trained: dict[str, Trained], rows: np.ndarray) -> Iterator[Stream]:
    """A client that asks all the while, its replies checked to the bit; then the front's pid, workers and memory."""
    front = psutil.Process(target.pid)
    with Stream(target, rows) as stream:
        workers = {worker["pid"] for worker in target.status()["workers"]}
        before = front.memory_info().rss
        yield stream
        served = len(stream.replies)
        wait_until(lambda: len(stream.replies) > served + 20 or stream.errors)
    check(stream, trained, rows)
    assert not target.exited
    assert {worker["pid"] for worker in target.status()["workers"]} == workers
    grown_mib = (front.memory_info().rss - before) / 2**20
    assert grown_mib < GROWTH_MIB, f"the front grew by {grown_mib:.0f} MiB"
    assert not target.logged("incident")


@contextmanager
def dealer(context: zmq.Context[Any], endpoint: str, **options: Any) -> Iterator[zmq.Socket[bytes]]:
    with context.socket(zmq.DEALER) as sock:
        sock.linger = 0
        sock.rcvtimeo = 10_000
        for name, value in options.items():
            setattr(sock, name, value)
        sock.connect(endpoint)
        yield sock


@pytest.fixture
def context() -> Iterator[zmq.Context[Any]]:
    with zmq.Context() as made:
        yield made


@pytest.fixture
def attacker(target: Daemon, context: zmq.Context[Any]) -> Iterator[zmq.Socket[bytes]]:
    with dealer(context, target.data) as sock:
        yield sock


def decoded(frames: list[bytes]) -> dict[str, Any]:
    """A reply's header; any reply at all has to be one, with `id`."""
    # A reply echoes the envelope that the request had; the header is what stands behind the delimiter.
    head = (
        frames[frames.index(b"") + 1] if frames[0] != b"" and b"" in frames[:-1] else frames[frames[0] == b""]
    )
    header = json.loads(head) if head[:1] == b"{" else msgspec.msgpack.decode(head)
    assert "id" in header
    return header  # type: ignore[no-any-return]


def still_there(sock: zmq.Socket[bytes]) -> list[dict[str, Any]]:
    """Ask `live` with an id of its own; the replies that came before that one's."""
    wanted = f"alive-{next(_ids)}"
    sock.send(json.dumps({"op": "live", "id": wanted}).encode())
    before = []
    while True:
        frames = sock.recv_multipart()
        if b"alive-" in frames[-1] and json.loads(frames[-1])["id"] == wanted:
            return before
        before.append(frames)


def counted(target: Daemon, name: str) -> int:
    with target.operator() as operator:
        number: int = operator.call("stats")[name]
    return number


# -- random frames

_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=5)
    | st.sampled_from(["FP64", "alpha"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)
_keys = st.sampled_from(
    [
        "op",
        "id",
        "model_name",
        "model_version",
        "parameters",
        "inputs",
        "features",
        "timeout_us",
        "shape",
        "data",
    ]
)
_tensors = st.fixed_dictionaries(
    {},
    optional={
        "name": st.sampled_from(["features", *FEATURES]) | st.text(max_size=3),
        "shape": st.lists(st.integers(-(2**63), 2**63 - 1) | st.integers(-1, 5), max_size=3),
        "datatype": st.sampled_from(["FP64", "FP32", "INT64", "INT32", "BYTES"]),
        "data": _values,
        "parameters": st.fixed_dictionaries({}, optional={"binary_data_size": st.integers(-1, 100)}),
    },
)
_headers = st.dictionaries(_keys, _values, max_size=6) | st.fixed_dictionaries(
    {"inputs": st.lists(_tensors, max_size=5)}, optional={"id": _values, "op": st.just("predict")}
)


def _json(value: Any) -> bytes:
    return json.dumps(value).encode("utf-8", "surrogatepass")


def _msgpack(value: Any) -> bytes:
    try:
        return msgspec.msgpack.encode(value)
    except (OverflowError, UnicodeEncodeError, ValueError):
        return b"\xc1"


_frames = st.lists(
    st.binary(max_size=60) | _headers.map(_json) | _headers.map(_msgpack), min_size=1, max_size=6
)


def test_random_frames(attacker: zmq.Socket[bytes], honest: Stream, campaign: int) -> None:
    """Random bytes, and random fields in both encodings: an error, a refusal or nothing, and on it goes."""

    @settings(
        max_examples=300 * campaign,
        deadline=None,
        database=None,
        suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
    )
    @given(_frames)
    def send(frames: list[bytes]) -> None:
        attacker.send_multipart(frames)
        still_there(attacker)

    send()
    assert not honest.errors


def _valid() -> list[list[bytes]]:
    """Good requests of each form."""
    raw = np.array([ROW, ROW]).tobytes()
    matrix = {"name": "features", "shape": [2, 4], "datatype": "FP64"}
    headers: list[tuple[dict[str, Any], list[bytes]]] = [
        ({"id": 1, "features": ROW}, []),
        ({"id": "x", "features": [dict(zip(FEATURES, ROW, strict=True))], "model_name": "alpha"}, []),
        ({"inputs": [matrix | {"data": [ROW, ROW]}], "parameters": {"binary_data_output": True}}, []),
        ({"id": 2, "inputs": [matrix | {"parameters": {"binary_data_size": 64}}]}, [raw]),
        (
            {"inputs": [{"name": name, "shape": [1], "datatype": "INT32", "data": [1]} for name in FEATURES]},
            [],
        ),
        ({"op": "metadata", "model_name": "alpha"}, []),
    ]
    return [[encode(header), *frames] for header, frames in headers for encode in (_json, _msgpack)]


def _mutate(chance: random.Random, frames: list[bytes]) -> list[bytes]:
    """One to three changes to the bytes or to the list of frames."""
    frames = [bytes(frame) for frame in frames]
    for _ in range(chance.randint(1, 3)):
        at = chance.randrange(len(frames))
        frame = bytearray(frames[at])
        where = chance.randrange(len(frame) + 1)
        match chance.randrange(7):
            case 0:
                frame = frame[:where]
            case 1 if frame:
                frame[where % len(frame)] ^= 1 << chance.randrange(8)
            case 2 if frame:
                frame[where % len(frame)] = chance.choice(b'\x00\xff\xc1\xdd\xdf\x7f"[]{}:,0-e')
            case 3:
                frame[where:where] = chance.randbytes(chance.randint(1, 9))
            case 4:
                frame[where:where] = frame[where // 2 : where]
            case 5:
                frames.insert(chance.randrange(len(frames) + 1), chance.randbytes(chance.randint(0, 40)))
                continue
            case 6 if len(frames) > 1:
                del frames[at]
                continue
        frames[at] = bytes(frame)
    return frames


@pytest.mark.parametrize("seed", [SEED, SEED + 1])
def test_changed_bytes(attacker: zmq.Socket[bytes], honest: Stream, campaign: int, seed: int) -> None:
    """Good requests with bits flipped, pieces cut, repeated and added; each is answered at most once."""
    chance = random.Random(seed)
    good = _valid()
    sent = received = 0
    for _ in range(40 * campaign):
        for _ in range(25):
            attacker.send_multipart(_mutate(chance, chance.choice(good)))
        sent += 25
        received += len(still_there(attacker))
        assert received <= sent
    assert not honest.errors


@pytest.mark.parametrize("depth", [100, 10_000, 500_000])
@pytest.mark.parametrize(
    ("head", "inner", "tail"),
    [
        (b'{"id": 1, "features": ', b"[", b"]}"),
        (b'{"id": 1, "features": ', b'{"a":', b"}"),
        (b'{"id": 1, "parameters": ', b'{"a":', b"}"),
        (b'{"id": 1, "nobody": ', b"[", b"]}"),
        (b'{"id": 1, "inputs": [{"name": "a", "shape": [1], "datatype": "FP64", "data": ', b"[", b"]}]}"),
        (b"\x82\xa2id\x01\xa8features", b"\x91", b"\x01"),
        (b"\x82\xa2id\x01\xa8features", b"\x81\xa1a", b"\x01"),
        (b"\x82\xa2id\x01\xa6nobody", b"\x91", b"\x01"),
    ],
)
def test_deep_nesting(
    attacker: zmq.Socket[bytes], honest: Stream, head: bytes, inner: bytes, tail: bytes, depth: int
) -> None:
    """A recursive decoder meets its limit and says MALFORMED."""
    for closed in (True, False):
        attacker.send(head + inner * depth + (tail if closed else b""))
        error = decoded(attacker.recv_multipart())
        assert error["code"] in ("MALFORMED", "SHAPE_MISMATCH")
    assert not honest.errors


def test_numbers_of_frames(attacker: zmq.Socket[bytes], target: Daemon, honest: Stream) -> None:
    """No body is dropped and counted; 1,000 raw frames, and one too many or too few, are MALFORMED."""
    dropped = counted(target, "dropped_messages")
    attacker.send(b"")
    attacker.send_multipart([b"", b""])
    still_there(attacker)
    assert counted(target, "dropped_messages") >= dropped + 1
    tensor = {"name": "features", "shape": [1, 4], "datatype": "FP64", "parameters": {"binary_data_size": 32}}
    header = _json({"id": 1, "inputs": [tensor]})
    for raw in ([], [b"x" * 32] * 2, [b"x" * 31], [b"x" * 33], [b"x"] * 65, [b"x"] * 1000):
        attacker.send_multipart([header, *raw])
        error = decoded(attacker.recv_multipart())
        assert (error["code"], error["id"]) == ("MALFORMED", 1)
    for count in (999, 5000):
        attacker.send_multipart([b"nonsense"] * count)
        assert decoded(attacker.recv_multipart())["code"] == "MALFORMED"
    assert not honest.errors


def test_a_message_that_is_too_large_is_refused_under_its_id(
    attacker: zmq.Socket[bytes], honest: Stream
) -> None:
    """The header can be read, so the refusal bears its id and only that request fails."""
    attacker.send_multipart([_json({"id": "big", "inputs": []}), b"x" * (17 << 20)])
    error = decoded(attacker.recv_multipart())
    assert (error["code"], error["id"]) == ("TOO_LARGE", "big")
    assert not honest.errors


_TLS_HELLO = bytes.fromhex(
    "160301005a0100005603035f"
    + "00" * 31
    + "00000ac02bc02fc00ac0090035010000230000000e000c0000096c6f63616c686f7374"
)
_ZMTP = b"\xff" + b"\x00" * 8 + b"\x7f\x03\x00NULL" + b"\x00" * 16 + b"\x00" + b"\x00" * 31
#: Greeting and READY of a DEALER: a connection that stays.
_READY = (
    b"\xff" + b"\0" * 8 + b"\x7f\x03\x01NULL" + b"\0" * 16 + b"\0" + b"\0" * 31
    + b"\x04\x1c\x05READY\x0bSocket-Type\0\0\0\x06DEALER"
)  # fmt: skip


@pytest.mark.parametrize(
    "hello",
    [
        _TLS_HELLO,
        b"\x00" * 4096,
        b"\xff" * 4096,
        _ZMTP + b"\x04\x19\x05READY" + b"\xff" * 40,
        _ZMTP + b"\x02" + b"\xff" * 8,
        _ZMTP[:20],
        b"",
    ],
    ids=["tls", "zeros", "ones", "bad-ready", "huge-frame", "half-greeting", "silence"],
)
def test_other_protocols_on_the_tcp_port(target: Daemon, honest: Stream, hello: bytes) -> None:
    """The connection is closed, at once or when the handshake's time is over."""
    with socket.create_connection((HOST, target.port), timeout=10) as peer:  # type: ignore[attr-defined]
        peer.sendall(hello)
        try:
            while peer.recv(4096):
                pass
        except ConnectionResetError:
            pass
    assert not honest.errors


@pytest.mark.parametrize("path", ["", "x" * 4000])
def test_http_on_the_tcp_port(target: Daemon, honest: Stream, path: str) -> None:
    """ZeroMQ takes it for a peer of its version 1 and waits for more: nothing is answered, and it may go."""
    front = psutil.Process(target.pid)
    before = front.num_fds()
    with socket.create_connection((HOST, target.port), timeout=10) as peer:  # type: ignore[attr-defined]
        peer.sendall(f"GET /{path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        peer.shutdown(socket.SHUT_WR)
        while answer := peer.recv(4096):
            assert b"{" not in answer
    wait_until(lambda: front.num_fds() <= before)
    assert not honest.errors


def test_random_bytes_on_the_tcp_port(target: Daemon, honest: Stream, campaign: int) -> None:
    """Behind a good greeting too."""
    chance = random.Random(SEED)
    for _ in range(200 * campaign):
        with socket.create_connection((HOST, target.port), timeout=10) as peer:  # type: ignore[attr-defined]
            peer.sendall(chance.choice([b"", _ZMTP]) + chance.randbytes(chance.randint(1, 300)))
    assert not honest.errors


def test_silent_connections(target: Daemon, honest: Stream) -> None:
    """300 connections that never say anything are held and don't keep anybody out."""
    peers = [socket.create_connection((HOST, target.port), timeout=10) for _ in range(300)]  # type: ignore[attr-defined]
    try:
        with zmq.Context() as context, dealer(context, f"tcp://{HOST}:{target.port}") as sock:  # type: ignore[attr-defined]
            still_there(sock)
        assert peers[0].recv(64)[:1] == b"\xff"
    finally:
        for peer in peers:
            peer.close()
    assert not honest.errors


@contextmanager
def flood(port: int, greeting: bytes) -> Iterator[None]:
    """Connections that never end by themselves, a new one every other millisecond."""
    over = threading.Event()
    peers: list[socket.socket] = []

    def connect() -> None:
        while not over.wait(0.002):
            with suppress(OSError):  # the endpoint may just have been closed, with all of them
                peers.append(socket.create_connection((HOST, port), timeout=10))
                peers[-1].sendall(greeting)

    thread = threading.Thread(target=connect)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
        for peer in peers:
            peer.close()


@pytest.mark.parametrize("greeting", [b"", _READY], ids=["silent", "connected"])
def test_connections_that_take_every_descriptor(
    template: Path,
    make_daemon: Callable[..., Daemon],
    trained: dict[str, Trained],
    rows: np.ndarray,
    tmp_path: Path,
    free_port: int,
    greeting: bytes,
) -> None:
    """While they keep coming, a worker that dies is replaced, ipc clients go on, and tcp clients get in within 2 s."""
    root = shutil.copytree(template, tmp_path / "models", symlinks=True)
    tcp = f"tcp://{HOST}:{free_port}"
    daemon = make_daemon(
        root, endpoints={"data": ["ipc://{runtime_dir}/data/predict.sock", tcp]}, plan={"inline_rows": 0}
    ).start()
    front = psutil.Process(daemon.pid)
    worker = daemon.status()["workers"][0]["pid"]
    limit = front.num_fds() + 100  # of which half are kept
    front.rlimit(psutil.RLIMIT_NOFILE, (limit, limit))
    waits_s = []
    with Client(tcp, timeout_s=20, try_timeout_s=0.5, retries=40) as remote, Stream(daemon, rows) as stream:
        assert remote.predict(rows[0]).version == "1.0.0"
        with flood(free_port, greeting):
            wait_until(lambda: daemon.logged("no_descriptors"))
            os.kill(worker, signal.SIGKILL)
            stream.until("1.0.0")
            wait_until(lambda: worker not in {one["pid"] for one in daemon.status()["workers"]})
            for _ in range(20):
                asked_s = time.monotonic()
                assert remote.predict(rows[0]).version == "1.0.0"
                waits_s.append(time.monotonic() - asked_s)
        wait_until(lambda: not daemon.status()["degraded"])
        assert remote.predict(rows[0]).version == "1.0.0"
    check(stream, trained, rows)
    assert statistics.median(waits_s) < 2
    assert not daemon.exited


#: Descriptors of a daemon that ten thousand connections can't exhaust, and of which they take more than half.
MANY_FDS = 12_000
#: Connects to a unix socket so often, as fast as it can, and holds what it gets; says when, and ends with its stdin.
_HOLD = """
import resource, socket, struct, sys
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
held = []
for _ in range(int(sys.argv[2])):
    held.append(socket.socket(socket.AF_UNIX))
    # Connecting waits so long where the backlog is full.
    held[-1].setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 5, 0))
    try:
        held[-1].connect(sys.argv[1])
        held[-1].send(bytes.fromhex(sys.argv[3]))
    except OSError:
        held.pop().close()
print(flush=True)
sys.stdin.read()
"""


@contextmanager
def holding(path: str, connections: int, greeting: bytes) -> Iterator[subprocess.Popen[bytes]]:
    """That many connections at once, from another process."""
    command = [sys.executable, "-c", _HOLD, path, str(connections), greeting.hex()]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        try:
            yield process
        finally:
            process.communicate()


def test_ten_thousand_local_connections_at_once(
    template: Path,
    make_daemon: Callable[..., Daemon],
    trained: dict[str, Trained],
    rows: np.ndarray,
    tmp_path: Path,
) -> None:
    """Started with a limit of 1,024 descriptors, it may have more, and keeps half of them for itself: libzmq aborts
    where the last one goes to a unix socket's connection."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < MANY_FDS:
        pytest.skip(f"this system allows {hard} descriptors; {MANY_FDS} are needed")
    root = shutil.copytree(template, tmp_path / "models", symlinks=True)
    resource.setrlimit(resource.RLIMIT_NOFILE, (1024, hard))
    try:
        daemon = make_daemon(root).start()
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    front = psutil.Process(daemon.pid)
    assert front.rlimit(psutil.RLIMIT_NOFILE) == (hard, hard)
    front.rlimit(psutil.RLIMIT_NOFILE, (MANY_FDS, MANY_FDS))
    with daemon.client(timeout_s=30, try_timeout_s=0.5, retries=60) as client:
        with holding(str(daemon.run / "data/predict.sock"), 10_000, _READY) as crowd:
            assert crowd.stdout is not None
            while not select.select([crowd.stdout], [], [], 0)[0]:
                assert client.predict(rows[0]).version == "1.0.0"
            wait_until(lambda: daemon.logged("no_descriptors"))
        wait_until(lambda: not daemon.status()["degraded"])
        expected = trained["1.0.0"].booster.predict(rows[:1], num_threads=1)
        assert client.predict(rows[0]).values.tobytes() == expected.tobytes()
    assert not daemon.exited


def test_connections_in_turn(target: Daemon, honest: Stream, campaign: int) -> None:
    """Each asks and goes, some without waiting for the answer; no descriptor is left behind."""
    front = psutil.Process(target.pid)
    before = front.num_fds()
    with zmq.Context() as context:
        for at in range(2000 * campaign):
            endpoint = target.data if at % 2 else f"tcp://{HOST}:{target.port}"  # type: ignore[attr-defined]
            with dealer(context, endpoint) as sock:
                sock.send(_json({"id": at, "features": ROW}))
                if at % 5:
                    assert decoded(sock.recv_multipart())["id"] == at
    wait_until(lambda: front.num_fds() <= before + 2)
    assert not honest.errors


def test_duplicate_identities(target: Daemon, honest: Stream) -> None:
    """The first holder of a name keeps it and gets its own replies; the second gets nothing of the first's."""
    with (
        zmq.Context() as context,
        dealer(context, target.data, routing_id=b"twin") as first,
        dealer(context, f"tcp://{HOST}:{target.port}", routing_id=b"twin") as second,  # type: ignore[attr-defined]
    ):
        for at in range(100):
            first.send(_json({"id": f"first-{at}", "features": ROW}))
            second.send(_json({"id": f"second-{at}", "features": ROW}))
            assert decoded(first.recv_multipart())["id"] == f"first-{at}"
        assert not second.poll(50)
    assert not honest.errors


def test_a_client_that_never_reads(target: Daemon, honest: Stream, campaign: int) -> None:
    """It loses its own replies, which `stats` counts; nobody else waits for it."""
    dropped = counted(target, "dropped_replies")
    request = _json({"op": "metadata", "id": "x" * 1000})
    with zmq.Context() as context, dealer(context, target.data, rcvhwm=1, rcvbuf=4096) as sock:
        sock.sndtimeo = 10_000
        for _ in range(5000 * campaign):
            sock.send(request)
        wait_until(lambda: counted(target, "dropped_replies") > dropped, 10)
        served = len(honest.replies)
        wait_until(lambda: len(honest.replies) > served + 100)
    assert not honest.errors


@pytest.mark.usefixtures("honest")
def test_a_header_as_deep_as_the_decoder_takes_gets_an_error(attacker):
    """Where the decoder's limit of nesting is just not reached, whatever handles the value must bear it too."""
    for depth in range(930, 1001, 5):
        deep = b"[" * depth + b"]" * depth
        tensor = b'{"name":"x","shape":[1,4],"datatype":"FP64","parameters":{"binary_data_size":%b}}' % deep
        attacker.send_multipart([b"", b'{"id":1,"inputs":[%b]}' % tensor, bytes(32)])
        assert json.loads(attacker.recv_multipart()[-1])["code"] == "MALFORMED"


def test_a_peer_that_leaves_amid_thousands_of_messages_ends_nothing(honest, target, context):
    """Subscriptions and requests that nobody has read yet when their sender goes: libzmq must not stumble over them."""
    with context.socket(zmq.SUB) as sub:
        sub.linger = 0
        sub.sndhwm = 0
        sub.connect(target.events)
        for number in range(3000):
            sub.subscribe(b"%d" % number)
        with dealer(context, target.data, sndhwm=0) as sender:
            for number in range(5000):
                sender.send_multipart([b"", b'{"op":"live","id":%d}' % number])
            assert sender.poll(10_000)
    served = len(honest.replies)
    wait_until(lambda: len(honest.replies) > served + 200 or honest.errors)
