"""Endpoints: a stale ipc file is replaced, everything else that is in the way is left alone."""

from __future__ import annotations

import grp
import os
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import zmq

from modeld.errors import EndpointInUse, ModeldError
from modeld.front import sockets


@pytest.fixture
def context() -> Iterator[zmq.Context[Any]]:
    made: zmq.Context[Any] = zmq.Context()
    yield made
    made.destroy(linger=0)


@pytest.fixture
def make_router(context: zmq.Context[Any]) -> Iterator[Callable[[], zmq.Socket[bytes]]]:
    made: list[zmq.Socket[bytes]] = []

    def make() -> zmq.Socket[bytes]:
        made.append(sockets.router(context, 1000))
        return made[-1]

    yield make
    for one in made:
        one.close(linger=0)


@pytest.fixture
def sock(make_router: Callable[[], zmq.Socket[bytes]]) -> zmq.Socket[bytes]:
    return make_router()


def answers(context: zmq.Context[Any], server: zmq.Socket[bytes], endpoint: str) -> bool:
    with context.socket(zmq.DEALER) as client:
        client.connect(endpoint)
        client.send(b"ping")
        assert server.poll(5000)
        server.send_multipart(server.recv_multipart())
        assert client.poll(5000)
        return bool(client.recv() == b"ping")


def test_the_directory_is_made_for_its_group_only(context, sock, tmp_path):
    """0750: others don't get at the socket."""
    path = tmp_path / "run/data/predict.sock"
    sockets.bind(sock, f"ipc://{path}")
    assert path.parent.stat().st_mode & 0o777 == 0o750
    assert answers(context, sock, f"ipc://{path}")


def test_a_stale_file_is_replaced(context, sock, tmp_path):
    """A daemon that was killed leaves its socket file; the next one takes its place."""
    path = tmp_path / "predict.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as dead:
        dead.bind(str(path))
    sockets.bind(sock, f"ipc://{path}")
    assert answers(context, sock, f"ipc://{path}")


@pytest.mark.parametrize("backlog", ["room", "full"])
def test_a_live_endpoint_is_not_taken(sock, tmp_path, backlog):
    """Another process that listens there keeps its socket, one that is too busy to accept as well."""
    path = tmp_path / "predict.sock"
    with (
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as live,
        socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client,
    ):
        live.bind(str(path))
        live.listen(0)
        if backlog == "full":
            client.connect(str(path))
        with pytest.raises(EndpointInUse, match="another daemon listens there"):
            sockets.bind(sock, f"ipc://{path}")
        assert path.is_socket()


def test_a_live_router_is_not_taken(context, sock, make_router, tmp_path):
    """Two daemons never share a runtime directory."""
    endpoint = f"ipc://{tmp_path}/predict.sock"
    sockets.bind(sock, endpoint)
    with pytest.raises(EndpointInUse):
        sockets.bind(make_router(), endpoint)
    assert answers(context, sock, endpoint)


def test_a_file_that_is_no_socket_is_left_alone(sock, tmp_path):
    """A wrong path in the settings costs nobody a file."""
    path = tmp_path / "precious"
    path.write_text("data")
    with pytest.raises(ModeldError, match="isn't a socket") as caught:
        sockets.bind(sock, f"ipc://{path}")
    assert str(path) in str(caught.value)
    assert path.read_text() == "data"


def test_a_directory_that_can_not_be_made_is_refused(sock, tmp_path):
    """The message names the directory and the endpoint."""
    (tmp_path / "file").write_text("")
    with pytest.raises(ModeldError, match=f"{tmp_path}/file/data: can't make the directory"):
        sockets.bind(sock, f"ipc://{tmp_path}/file/data/predict.sock")


def test_a_tcp_port_in_use_is_refused(sock, make_router):
    """The same error as for a path."""
    sock.bind("tcp://127.0.0.1:*")
    endpoint = sock.get(zmq.LAST_ENDPOINT).rstrip(b"\0").decode()
    with pytest.raises(EndpointInUse, match=endpoint):
        sockets.bind(make_router(), endpoint)


@pytest.mark.parametrize("endpoint", ["nonsense", "tcp://nowhere", "http://127.0.0.1:80"])
def test_an_address_that_is_none_is_refused(sock, endpoint):
    """Whatever libzmq says of it, it is our error with the endpoint in it."""
    with pytest.raises(ModeldError, match=endpoint):
        sockets.bind(sock, endpoint)


def test_the_files_are_removed_at_the_end(sock, tmp_path):
    """Nothing stale is left for the next start; a file that is gone already is fine."""
    path: Path = tmp_path / "predict.sock"
    made = sockets.bind(sock, f"ipc://{path}")
    sock.close()
    for _ in range(2):
        sockets.remove_files([made])
        assert not path.exists()
    path.write_text("another daemon's")
    inode = path.stat().st_ino
    sockets.remove_files([(str(path), path.stat().st_dev, inode + 1)])
    assert path.exists()


def test_a_router_never_blocks_and_has_limits(context, sock):
    """Every limit that keeps a peer from hurting the others is set."""
    assert sock.get(zmq.SNDTIMEO) == 0
    assert sock.get(zmq.MAXMSGSIZE) == 2000
    with sockets.publisher(context) as publisher:
        for one in (sock, publisher):
            assert one.get(zmq.SNDHWM) == sockets.HIGH_WATER_MARK
            assert one.get(zmq.HANDSHAKE_IVL) == sockets.HANDSHAKE_MS
    with pytest.raises(zmq.ZMQError):
        sock.send_multipart([b"nobody", b"hello"])


def test_sockets_are_for_their_owner_and_group(sock, tmp_path):
    """Files 0660 and directories 0750, of the group that is set, also where the directory was there before."""
    other = next((g.gr_gid for g in grp.getgrall() if g.gr_gid != os.getgid()), os.getgid())
    gid = other if os.geteuid() == 0 else os.getgid()
    directory = tmp_path / "run/data"
    directory.mkdir(parents=True)
    directory.chmod(0o777)
    sockets.bind(sock, f"ipc://{directory}/predict.sock", runtime_dir=str(tmp_path / "run"), gid=gid)
    for path, mode in ((directory, 0o750), (directory / "predict.sock", 0o660)):
        assert (path.stat().st_mode & 0o777, path.stat().st_gid) == (mode, gid)


def test_directories_of_others_are_left_as_they_are(sock, tmp_path):
    """An endpoint in /tmp, say, doesn't close /tmp; the socket itself is closed to others."""
    tmp_path.chmod(0o755)
    sockets.bind(sock, f"ipc://{tmp_path}/predict.sock", runtime_dir="/run/modeld")
    assert tmp_path.stat().st_mode & 0o777 == 0o755
    assert (tmp_path / "predict.sock").stat().st_mode & 0o777 == 0o660
