"""ZeroMQ sockets with every limit set, and the ipc endpoints' files: made, replaced when stale, never stolen."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import zmq

from modeld import log
from modeld.errors import EndpointInUse, ModeldError
from modeld.front.exposure import group_id

if TYPE_CHECKING:
    from modeld.config import Config
    from modeld.front.guard import Guard

#: Messages that may wait for one peer in each direction; past it, replies to that peer are dropped and counted.
HIGH_WATER_MARK = 1000
#: A connection that hasn't finished its handshake by then is closed. Milliseconds.
HANDSHAKE_MS = 2000
#: Peers that vanished without a word are noticed by heartbeats. Milliseconds.
HEARTBEAT_MS, HEARTBEAT_TIMEOUT_MS = 5000, 15000
#: Replies still on their way at shutdown get this long. Milliseconds.
LINGER_MS = 500
#: A daemon's sockets, by the names of their endpoints in the configuration.
Sockets = dict[Literal["data", "admin", "events"], zmq.Socket[bytes]]
#: An ipc file that `bind` made: path, device, inode.
Made = tuple[str, int, int]


@dataclass(frozen=True, slots=True, eq=False)
class Listening:
    """One endpoint, as ZeroMQ names it, that a socket is bound to."""

    sock: zmq.Socket[bytes]
    endpoint: str
    #: Binds it once more, after it was unbound. Raises as `bind`: EndpointInUse also where libzmq hasn't closed it yet.
    bind_again: Callable[[], None]

    @property
    def is_tcp(self) -> bool:
        return not self.endpoint.startswith("ipc://")


def router(context: zmq.Context[Any], max_message_bytes: int) -> zmq.Socket[bytes]:
    """A ROUTER that never blocks and never drops without telling.

    The transport cuts a connection only at twice `max_message_bytes`, so that a message somewhat too large gets an
    error reply first.
    """
    sock: zmq.Socket[bytes] = context.socket(zmq.ROUTER)
    sock.set(zmq.ROUTER_MANDATORY, 1)
    sock.set(zmq.SNDTIMEO, 0)
    sock.set(zmq.SNDHWM, HIGH_WATER_MARK)
    # No mark here: libzmq 4.3.5 aborts where a peer goes whose input had stopped at it and something is due to be
    # sent to it, a heartbeat say ("Assertion failed: !_io_error"). What waits is bounded by the unit's memory.
    sock.set(zmq.RCVHWM, 0)
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
    sock.set(zmq.RCVHWM, 0)  # as above: a thousand subscriptions at once would do it
    sock.set(zmq.MAXMSGSIZE, 1024)
    sock.set(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
    sock.set(zmq.HEARTBEAT_IVL, HEARTBEAT_MS)
    sock.set(zmq.HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS)
    sock.set(zmq.LINGER, LINGER_MS)
    return sock


def bind_all(
    config: Config,
    socks: Sockets,
    guard: Guard,
    bound: list[Made],
) -> list[Listening]:
    """Bind every configured endpoint; ipc files are appended to `bound` as they are made. Raises as `bind`.

    Returns:
        What may be unbound and bound again: everything, but for ipc beside CURVE (see below).
    """
    listening: list[Listening] = []
    groups = {
        "data": config.security.group,
        "events": config.security.group,
        "admin": config.security.admin_group,
    }
    endpoints = {
        "data": config.data_endpoints,
        "admin": [config.admin_endpoint],
        "events": [config.events_endpoint],
    }
    for name, sock in socks.items():
        # What is set on a socket holds for what is bound later, and a ZAP domain can't be taken back: ipc first.
        for endpoint in sorted(endpoints[name], key=lambda one: not one.startswith("ipc://")):
            if not endpoint.startswith("ipc://"):
                guard.protect(sock)
            make = partial(bind, sock, endpoint, runtime_dir=config.runtime_dir, gid=group_id(groups[name]))
            made = make()
            named = str(sock.get_string(zmq.LAST_ENDPOINT)).rstrip("\0")
            if made is None:
                # By that name: it has the port where the configuration left it open.
                make = partial(bind, sock, named)
            else:
                bound.append(made)
            if made is None or not guard.curve:
                listening.append(Listening(sock, named, partial(_again, make, bound)))
    return listening


def _again(make: Callable[[], Made | None], bound: list[Made]) -> None:
    if (made := make()) is not None:
        bound[:] = [one for one in bound if one[0] != made[0]] + [made]


def bind(
    sock: zmq.Socket[bytes], endpoint: str, *, runtime_dir: str | None = None, gid: int | None = None
) -> Made | None:
    """Bind, replacing an ipc file that nobody listens on; returns the ipc file that was made, for `remove_files`.

    A socket file is for its owner and group (0660), and so is a directory that is made for it or is below
    `runtime_dir` (0750). `gid`: that group; None leaves the process's own.

    Raises:
        EndpointInUse: a live process listens there.
        ModeldError: the address is no address, or may not be bound.
    """
    if endpoint.startswith("ipc://"):
        _prepare_path(Path(endpoint.removeprefix("ipc://")), endpoint, runtime_dir, gid)
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
    _restrict(path, 0o660, gid)
    return path, made.st_dev, made.st_ino


def _restrict(path: str | Path, mode: int, gid: int | None) -> None:
    """Raises ModeldError where the group can't be given, or the mode."""
    try:
        found = os.stat(path)
        if gid is not None and found.st_gid != gid:
            os.chown(path, -1, gid)
        if stat.S_IMODE(found.st_mode) != mode:
            os.chmod(path, mode)
    except OSError as e:
        raise ModeldError(
            f"{path}: can't be given mode {mode:04o}{'' if gid is None else f' and group {gid}'}: {e.strerror}; "
            "the daemon's user must own it and belong to the group"
        ) from e


def _prepare_path(path: Path, endpoint: str, runtime_dir: str | None, gid: int | None) -> None:
    """libzmq silently takes over any socket file, even a live one: so find out first, and make the directory."""
    try:
        there = path.parent.exists()
        path.parent.mkdir(mode=0o750, parents=True, exist_ok=True)
    except OSError as e:
        raise ModeldError(f"{path.parent}: can't make the directory for {endpoint}: {e.strerror}") from e
    if not there or (runtime_dir is not None and Path(runtime_dir) in path.parent.parents):
        # What somebody made stricter stays so.
        _restrict(path.parent, 0o750 & stat.S_IMODE(path.parent.stat().st_mode), gid)
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


def remove_files(bound: list[Made]) -> None:
    """Take away the ipc files that `bind` made, but not another daemon's that has taken their place."""
    for path, device, inode in bound:
        with contextlib.suppress(OSError):
            found = os.stat(path)
            if (found.st_dev, found.st_ino) == (device, inode):
                os.unlink(path)
