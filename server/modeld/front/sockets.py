"""ZeroMQ sockets with every limit set, and the ipc endpoints' files: made, replaced when stale, never stolen."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
from pathlib import Path
from typing import Any

import zmq

from modeld import log
from modeld.errors import EndpointInUse, ModeldError

#: Messages that may wait for one peer in each direction; past it, replies to that peer are dropped and counted.
HIGH_WATER_MARK = 1000
#: A connection that hasn't finished its handshake by then is closed. Milliseconds.
HANDSHAKE_MS = 2000
#: Peers that vanished without a word are noticed by heartbeats. Milliseconds.
HEARTBEAT_MS, HEARTBEAT_TIMEOUT_MS = 5000, 15000
#: Replies still on their way at shutdown get this long. Milliseconds.
LINGER_MS = 500
_UNIX_PATH_BYTES = 107


def router(context: zmq.Context[Any], max_message_bytes: int) -> zmq.Socket[bytes]:
    """A ROUTER that never blocks and never drops without telling.

    The transport cuts a connection only at twice `max_message_bytes`, so that a message somewhat too large gets an
    error reply first.
    """
    sock: zmq.Socket[bytes] = context.socket(zmq.ROUTER)
    sock.set(zmq.ROUTER_MANDATORY, 1)
    sock.set(zmq.SNDTIMEO, 0)
    sock.set(zmq.SNDHWM, HIGH_WATER_MARK)
    sock.set(zmq.RCVHWM, HIGH_WATER_MARK)
    sock.set(zmq.MAXMSGSIZE, 2 * max_message_bytes)
    sock.set(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
    sock.set(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
    sock.set(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS)
    sock.set(zmq.LINGER, LINGER_MS)
    return sock


def publisher(context: zmq.Context[Any]) -> zmq.Socket[bytes]:
    """A PUB for events: slow subscribers lose events, nobody waits for them."""
    sock: zmq.Socket[bytes] = context.socket(zmq.PUB)
    sock.set(zmq.SNDHWM, HIGH_WATER_MARK)
    sock.set(zmq.MAXMSGSIZE, 1024)
    sock.set(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
    sock.set(zmq.LINGER, LINGER_MS)
    return sock


def bind(sock: zmq.Socket[bytes], endpoint: str) -> tuple[str, int, int] | None:
    """Bind, replacing an ipc file that nobody listens on; returns the ipc file that was made, for `remove_files`.

    Raises:
        EndpointInUse: a live process listens there.
        ModeldError: the address is no address, or may not be bound.
    """
    if endpoint.startswith("ipc://"):
        _prepare_path(Path(endpoint.removeprefix("ipc://")), endpoint)
    try:
        sock.bind(endpoint)
    except zmq.ZMQError as e:
        if e.errno in (zmq.EADDRINUSE, errno.EADDRINUSE):
            raise EndpointInUse(
                f"{endpoint}: another process listens there; stop it or choose another endpoint"
            ) from e
        raise ModeldError(f"{endpoint}: can't bind: {e.strerror}") from e
    if not endpoint.startswith("ipc://"):
        return None
    path = endpoint.removeprefix("ipc://")
    made = os.stat(path)
    return path, made.st_dev, made.st_ino


def _prepare_path(path: Path, endpoint: str) -> None:
    """libzmq silently takes over any socket file, even a live one: so find out first, and make the directory."""
    if len(os.fsencode(path)) > _UNIX_PATH_BYTES:
        raise ModeldError(
            f"{endpoint}: a socket path has at most {_UNIX_PATH_BYTES} bytes; shorten runtime_dir"
        )
    try:
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    except OSError as e:
        raise ModeldError(f"{path.parent}: can't make the directory for {endpoint}: {e.strerror}") from e
    if not path.exists():
        return
    if not path.is_socket():
        raise ModeldError(f"{endpoint}: {path} isn't a socket; it is left alone: choose another path")
    probe = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    with probe:
        probe.setblocking(False)
        try:
            probe.connect(str(path))
        except BlockingIOError:
            pass  # its backlog is full: busy, and very much alive
        except ConnectionRefusedError:
            log.get().info(log.STALE_SOCKET, path=str(path))
            path.unlink(missing_ok=True)
            return
        except OSError as e:
            raise ModeldError(f"{endpoint}: {path} is there and can't be used: {e.strerror}") from e
    raise EndpointInUse(f"{endpoint}: another daemon listens there; stop it or set another runtime_dir")


def remove_files(bound: list[tuple[str, int, int]]) -> None:
    """Take away the ipc files that `bind` made, but not another daemon's that has taken their place."""
    for path, device, inode in bound:
        with contextlib.suppress(OSError):
            found = os.stat(path)
            if (found.st_dev, found.st_ino) == (device, inode):
                os.unlink(path)
