"""systemd's notifications over a real datagram socket."""

from __future__ import annotations

import os
import select
import socket
from collections.abc import Callable, Iterator

import pytest

from modeld.front.notify import Notifier


@pytest.fixture
def later() -> list[Callable[[], None]]:
    """What the notifier asked to be called for later."""
    return []


@pytest.fixture
def notifier(later: list[Callable[[], None]]) -> Iterator[Callable[..., Notifier]]:
    made: list[Notifier] = []

    def make(**environ: str) -> Notifier:
        made.append(Notifier(environ, later=lambda _, call: later.append(call)))
        return made[-1]

    yield make
    for one in made:
        one.close()


@pytest.mark.parametrize("kind", ["path", "abstract"])
def test_fields_go_to_the_socket_that_the_environment_names(notifier, tmp_path, kind):
    """One datagram, one field a line; an address with @ is in the abstract namespace."""
    address = str(tmp_path / "notify") if kind == "path" else f"@modeld-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(5)
        manager.bind(address.replace("@", "\0", 1))
        one = notifier(NOTIFY_SOCKET=address)
        one.send("READY=1", "STATUS=serving alpha 1.0.0")
        one.send("STOPPING=1")
        assert manager.recv(1000) == b"READY=1\nSTATUS=serving alpha 1.0.0"
        assert manager.recv(1000) == b"STOPPING=1"


def test_without_a_manager_nothing_happens(notifier):
    """No variable, no socket, no error."""
    one = notifier()
    one.send("READY=1")
    assert one.watchdog_s is None


def test_a_manager_that_is_gone_or_full_is_no_error(notifier, tmp_path):
    """The daemon never waits for the manager, and never fails because of it."""
    path = str(tmp_path / "notify")
    notifier(NOTIFY_SOCKET=path).send("READY=1")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        one = notifier(NOTIFY_SOCKET=path)
        for _ in range(2000):
            one.send("WATCHDOG=1")


def test_a_message_that_found_the_queue_full_is_sent_again_in_order(notifier, later, tmp_path):
    """A slow manager still learns of READY; pings are not kept for it."""
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(5)
        manager.bind(path)
        one = notifier(NOTIFY_SOCKET=path)
        for _ in range(2000):
            one.send("WATCHDOG=1")
        one.send("READY=1")
        one.send("WATCHDOG=1")
        one.send("RELOADING=1")
        assert len(later) == 1
        later.pop()()  # the queue is still full: asks once more
        while select.select([manager], [], [], 0)[0]:
            assert manager.recv(1000) == b"WATCHDOG=1"
        later.pop()()
        assert manager.recv(1000) == b"READY=1"
        assert manager.recv(1000) == b"RELOADING=1"


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"WATCHDOG_USEC": "2000000"}, 1.0),
        ({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": str(os.getpid())}, 1.0),
        ({"WATCHDOG_USEC": "2000000", "WATCHDOG_PID": "1"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({}, None),
    ],
)
def test_the_watchdog_is_fed_twice_as_often_as_asked(notifier, tmp_path, environ, expected):
    """Half of WATCHDOG_USEC, and only where it is meant for this process."""
    assert notifier(NOTIFY_SOCKET=str(tmp_path / "notify"), **environ).watchdog_s == expected


def test_more_time_is_asked_for_now_and_then(notifier, tmp_path, monkeypatch):
    """EXTEND_TIMEOUT_USEC once, and again after a while: not with each turn of the loop."""
    path = str(tmp_path / "notify")
    now = 100.0
    monkeypatch.setattr("modeld.front.notify.time.monotonic", lambda: now)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.settimeout(5)
        manager.bind(path)
        one = notifier(NOTIFY_SOCKET=path)
        for _ in range(5):
            one.extend()
        assert manager.recv(1000) == b"EXTEND_TIMEOUT_USEC=10000000"
        assert not select.select([manager], [], [], 0)[0]
        now = 103.0
        one.extend()
        assert manager.recv(1000) == b"EXTEND_TIMEOUT_USEC=10000000"
