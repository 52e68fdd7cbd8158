"""A daemon on the network: CURVE on tcp, an allow-list with roles, and peers that don't play by the rules."""

from __future__ import annotations

import asyncio
import json
import os
import resource
import shutil
import signal
import socket
import struct
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
import zmq
from tests.e2e.conftest import MODELD, Daemon
from tests.registry.conftest import Trained
from tests.support import wait_until
from typer.testing import CliRunner

from modeld import keys
from modeld.cli.app import app
from modeld.client import AdminClient, AsyncClient, Client, Curve
from modeld.client.errors import Conflict, RequestTimeout, ServerError, Unauthorized
from modeld.client.sockets import subscribe
from modelreg import Registry
from modelreg.errors import ConfigError

#: The signature, ZMTP 3.1, the mechanism, no server: a greeting, which CURVE's endpoint waits for.
GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"CURVE".ljust(20, b"\0") + bytes(32)
WHO = {"engine": ["predict"], "viewer": ["read"], "anna": ["read", "operate"]}


@dataclass
class Network:
    """A daemon's tcp endpoints and everybody's keys."""

    daemon: Daemon
    server: keys.KeyPair
    pairs: dict[str, keys.KeyPair]
    ports: dict[str, int]
    files: Path
    registry: Registry

    def endpoint(self, name: str) -> str:
        return f"tcp://127.0.0.1:{self.ports[name]}"

    def curve(self, who: str) -> Curve:
        return Curve(self.server.public, self.pairs[who].secret)

    def client(self, who: str, **options: Any) -> Client:
        return Client(self.endpoint("data"), curve=self.curve(who), **{"timeout_s": 10.0, **options})

    def admin(self, who: str, timeout_s: float = 10.0) -> AdminClient:
        return AdminClient(self.endpoint("admin"), curve=self.curve(who), timeout_s=timeout_s)

    def allow(self, who: dict[str, list[str]]) -> None:
        listed = [
            {"key": self.pairs[name].public, "name": name, "roles": roles} for name, roles in who.items()
        ]
        (self.files / "allow.yaml").write_text(yaml.safe_dump({"keys": listed}))


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        probes = [stack.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]


@pytest.fixture(scope="module")
def network(template: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Network]:
    """A ready daemon that serves alpha over CURVE, for all tests here; `stranger` has keys that nobody lists."""
    files = tmp_path_factory.mktemp("network")
    root = shutil.copytree(template, files / "models", symlinks=True)
    server = keys.generate()
    _, secret = keys.write_pair(files, "server", server)
    ports = dict(zip(("data", "admin", "events"), free_ports(3), strict=True))
    short = Path(tempfile.mkdtemp(prefix="md-"))  # socket paths have 107 bytes
    daemon = Daemon(
        short,
        root,
        endpoints={
            # The network first: the order in the settings doesn't matter.
            "data": [f"tcp://127.0.0.1:{ports['data']}", "ipc://{runtime_dir}/data/predict.sock"],
            "admin": f"tcp://127.0.0.1:{ports['admin']}",
            "events": f"tcp://127.0.0.1:{ports['events']}",
        },
        security={"curve_secret_file": str(secret), "allow_list": str(files / "allow.yaml")},
    )
    pairs = {name: keys.generate() for name in (*WHO, "stranger")}
    made = Network(daemon, server, pairs, ports, files, Registry(root, actor="tester"))
    made.allow(WHO)
    try:
        daemon.start()
        yield made
    finally:
        daemon.close()
        shutil.rmtree(short)


@pytest.fixture
def stranger(network: Network) -> Iterator[zmq.Socket[bytes]]:
    """Connected with a key that isn't listed, its request sent."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as sock:
        sock.linger = 0
        network.curve("stranger").apply(sock)
        sock.connect(network.endpoint("data"))
        sock.send(b'{"op": "live", "id": 7}')
        yield sock


def refused(client: Client | AdminClient, op: str, **fields: Any) -> str:
    with pytest.raises(Unauthorized) as caught:
        client.call(op, **fields)
    return str(caught.value)


def test_listed_keys_predict_to_the_bit(
    network: Network, trained: dict[str, Trained], rows: np.ndarray
) -> None:
    """Blocking and asyncio clients over CURVE, and beside them ipc without keys."""
    expected = trained["1.0.0"].booster.predict(rows[:3], num_threads=1)

    async def ask() -> Any:
        async with AsyncClient(
            network.endpoint("data"), curve=network.curve("engine"), timeout_s=10
        ) as client:
            return await client.predict(rows[:3])

    with network.client("engine") as client, network.daemon.client() as local:
        for answer in (client.predict(rows[:3]), local.predict(rows[:3]), asyncio.run(ask())):
            assert answer.values.tolist() == expected.tolist()


def test_roles_are_kept_and_refusals_logged_by_name(network: Network) -> None:
    """Each key does what its roles say, and nothing else; a predict-only key that sends rollback changes nothing."""
    with (
        network.client("engine") as engine,
        network.client("viewer") as viewer,
        network.client("anna") as anna,
    ):
        assert engine.metadata()["name"] == viewer.metadata()["name"] == "alpha"
        assert anna.ready()
        generation = engine.metadata()["parameters"]["generation"]
        assert "key:viewer has read; predict needs predict" in refused(
            viewer, "predict", features=[0, 0, 0, 0]
        )
        refused(anna, "predict", features=[0, 0, 0, 0])
    records = len(network.registry.history("alpha"))
    with network.admin("engine") as engine, network.admin("viewer") as viewer, network.admin("anna") as anna:
        told = refused(engine, "rollback", reason="mine now")
        assert "key:engine has predict; rollback needs operate" in told
        for op in ("status", "history", "stats"):
            refused(engine, op)
            viewer.call(op)
            anna.call(op)
        for op in ("reload", "rollback", "hold", "release", "drain"):
            refused(viewer, op, reason="no")
        assert viewer.status()["models"][0]["generation"] == generation
        assert anna.call("stats")["unauthorized"] == 11
    assert len(network.registry.history("alpha")) == records
    lines = network.daemon.logged("unauthorized")
    assert ("key:engine", "rollback") in [(line["peer"], line["op"]) for line in lines]
    assert len(lines) <= 6  # five, then a count


def test_the_audit_names_the_key(network: Network) -> None:
    """Who rolled back over the network: in the registry's record, in the daemon's history and log, and in the event."""
    network.registry.promote("alpha:1.1.0", reason="better")
    with network.admin("anna") as anna, zmq.Context() as context, context.socket(zmq.SUB) as events:
        wait_until(lambda: anna.status()["models"][0]["version"] == "1.1.0", 15)
        generation = anna.status()["models"][0]["generation"]
        events.subscribe(b"hold.")
        subscribe(events, network.endpoint("events"), curve=network.curve("engine"))
        # A subscription has no answer: what is published shows when it is there.
        wait_until(lambda: anna.call("hold", reason="checking") and events.poll(100), 10)
        anna.call("release")
        anna.rollback(reason="worse after all", expect_generation=generation)
        with pytest.raises(Conflict):
            anna.rollback(reason="worse after all", expect_generation=generation)
        event: dict[str, Any] = {}
        while event.get("kind") != "rollback":
            assert events.poll(10_000)
            event = json.loads(events.recv_multipart()[1])
        decision = anna.call("history")["history"][0]
    record = network.registry.history("alpha")[0]
    assert (record.actor, record.reason) == ("key:anna", "worse after all")
    assert (decision["kind"], decision["actor"]) == ("rollback", "key:anna")
    assert (event["to"], event["actor"]) == ("1.0.0", "key:anna")
    done = [line for line in network.daemon.logged("operation") if line["op"] == "rollback"]
    assert [(line["actor"], line["reason"]) for line in done] == [("key:anna", "worse after all")] * 2


def test_a_replayed_rollback_does_nothing(network: Network) -> None:
    """The very bytes again, from the very key: the generation is another one by then."""
    network.registry.promote("alpha:1.2.0", reason="better")
    with network.admin("anna") as anna, zmq.Context() as context, context.socket(zmq.DEALER) as sock:
        wait_until(lambda: anna.status()["models"][0]["version"] == "1.2.0", 15)
        generation = anna.status()["models"][0]["generation"]
        sock.linger = 0
        network.curve("anna").apply(sock)
        sock.connect(network.endpoint("admin"))
        message = json.dumps(
            {"op": "rollback", "id": 1, "reason": "once", "expect_generation": generation}
        ).encode()
        answers = []
        for _ in range(2):
            sock.send(message)
            assert sock.poll(15_000)
            answers.append(json.loads(sock.recv()))
        assert answers[0]["rolled_back"]
        assert answers[1]["code"] == "CONFLICT"
        assert anna.status()["models"][0]["version"] == "1.0.0"
    assert [record.reason for record in network.registry.history("alpha")].count("once") == 1


def test_a_stranger_gets_no_answer_until_it_is_listed(network: Network, stranger: zmq.Socket[bytes]) -> None:
    """Its handshakes are denied, counted and logged; once listed, it is let in without a new connection of ours."""
    wait_until(lambda: network.daemon.logged("handshake_denied"), 10)
    denied = network.daemon.logged("handshake_denied")[0]
    assert (denied["peer"], denied["key"]) == ("127.0.0.1", network.pairs["stranger"].public)
    with network.admin("viewer") as viewer:
        assert viewer.call("stats")["handshakes_denied"] >= 1
    assert not stranger.poll(0)
    network.allow({**WHO, "stranger": ["predict"]})
    network.daemon.signal(signal.SIGHUP)
    assert stranger.poll(20_000)
    assert json.loads(stranger.recv()) == {"id": 7, "live": True}
    network.allow(WHO)


def test_a_key_off_the_list_is_refused_at_once(network: Network) -> None:
    """Also over a connection from before; a broken list keeps the old one, and says so until it is mended."""
    with network.client("engine") as engine, network.admin("anna") as anna:
        assert engine.live()
        (network.files / "allow.yaml").write_text("keys: [{key: short, name: x, roles: [predict, fly]}]")
        reply = anna.reload()
        assert "keys.0.roles.1" in reply["allow_list"]
        assert "the list read before stays in force" in anna.status()["degraded"][0]
        assert engine.live()
        network.allow({name: roles for name, roles in WHO.items() if name != "engine"})
        assert "allow_list" not in anna.reload()
        assert anna.status()["degraded"] == []
        assert "no role" in refused(engine, "live")
        network.allow(WHO)
        anna.reload()
        assert engine.live()


def test_plain_peers_get_nothing_and_hurt_nobody(network: Network) -> None:
    """No keys, another server's key, rubbish, and a frame header that announces 8 GB."""
    other = Curve(keys.generate().public, network.pairs["engine"].secret)
    with network.client("engine") as engine, ExitStack() as stack:
        for curve in (None, other):
            lost = stack.enter_context(Client(network.endpoint("data"), curve=curve, timeout_s=0.3))
            with pytest.raises(RequestTimeout):
                lost.live()
        for sent in (
            b"GET / HTTP/1.1\r\n\r\n" * 8,
            GREETING + b"\x06" + struct.pack(">Q", 8 << 30) + b"\x05HELLO",
        ):
            with (
                socket.create_connection(("127.0.0.1", network.ports["data"]), 20) as raw,
                suppress(ConnectionError),  # a reset is an end too
            ):
                raw.sendall(sent)
                while raw.recv(4096):  # the greeting, then the end
                    pass
        assert engine.live()
    wait_until(lambda: network.daemon.logged("handshake_failed"), 10)


def test_a_listed_key_may_not_send_8_gb_either(network: Network) -> None:
    """A message above the limit ends its connection, whoever sends it; the others are answered."""
    with zmq.Context() as context, context.socket(zmq.DEALER) as sock, network.client("engine") as engine:
        sock.linger = 0
        network.curve("engine").apply(sock)
        monitor = sock.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        sock.connect(network.endpoint("data"))
        sock.send(bytes(40 << 20))
        assert monitor.poll(30_000)
        sock.disable_monitor()
        monitor.close()
        assert engine.live()


def test_silent_connections_starve_nobody(network: Network) -> None:
    """Twice as many as the daemon has descriptors: handshakes end in time, and who has a key gets in."""
    limit = len(os.listdir(f"/proc/{network.daemon.pid}/fd")) + 40
    before = resource.prlimit(network.daemon.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(network.daemon.pid, resource.RLIMIT_NOFILE, (limit, before[1]))
    with ExitStack() as stack:
        for _ in range(2 * limit):
            sock = stack.enter_context(socket.socket())
            sock.setblocking(False)
            sock.connect_ex(("127.0.0.1", network.ports["data"]))
        with network.client("engine", timeout_s=30.0, retries=0) as engine:
            assert engine.live()
    resource.prlimit(network.daemon.pid, resource.RLIMIT_NOFILE, before)
    assert not network.daemon.exited


def test_a_local_peer_can_not_claim_a_key(network: Network) -> None:
    """A User-Id in an ipc handshake is the peer's own word: what counts is the uid that the kernel names."""
    claimed = network.pairs["anna"].public.encode()  # anna's key may not predict; a local caller may
    ready = b"\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER\x07User-Id" + struct.pack(">I", 40) + claimed
    null = GREETING.replace(b"CURVE", b"NULL\0")
    body = b'{"op":"predict","id":1,"features":[0,0,0,0]}'
    with socket.socket(socket.AF_UNIX) as raw:
        raw.settimeout(10)
        raw.connect(network.daemon.data.removeprefix("ipc://"))
        received = b""
        # libzmq takes the next thing only when it has answered the last.
        for sent, answer in (
            (null, b"NULL"),
            (b"\x04" + bytes([len(ready)]) + ready, b"READY"),
            (b"\x00" + bytes([len(body)]) + body, b"}"),
        ):
            raw.sendall(sent)
            while answer not in received:
                more = raw.recv(4096)
                assert more
                received += more
        assert b"outputs" in received


def test_commands_take_keys(network: Network, tmp_path: Path) -> None:
    """--key-file and --server-key, or the environment; errors say what is missing."""
    _, secret = keys.write_pair(tmp_path, "anna", network.pairs["anna"])
    here = ["--endpoint", network.endpoint("admin")]
    given = ["--key-file", str(secret), "--server-key", str(network.files / "server.key")]
    done = subprocess.run(
        [MODELD, *here, *given, "status", "--json"], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)["models"][0]["model_name"] == "alpha"
    env = {"MODELD_KEY_FILE": str(secret), "MODELD_SERVER_KEY": network.server.public}
    assert CliRunner().invoke(app, [*here, "release"], env=env).stdout == "released: alpha\n"
    with pytest.raises(ValueError, match="go together"):
        CliRunner().invoke(app, [*here, *given[:2], "status"], catch_exceptions=False)
    secret.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        CliRunner().invoke(app, [*here, "status"], env=env, catch_exceptions=False)


def test_an_error_in_the_client_is_a_timeout_not_a_hang(network: Network) -> None:
    """An operator without the role is told, one without a listed key isn't."""
    with network.admin("stranger", timeout_s=0.5) as nobody, pytest.raises(RequestTimeout):
        nobody.status()
    with network.admin("engine") as engine, pytest.raises(ServerError, match="UNAUTHORIZED"):
        engine.status()
