"""The loop: timers, descriptors, and ZeroMQ's edge that must never be trusted."""

from __future__ import annotations

import os
import signal
import socket
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import zmq

from modeld.front.loop import Loop
from modeld.front.zsocket import VIEW_BYTES, ZSocket

BURST = 1000


@pytest.fixture
def loop() -> Iterator[Loop]:
    made = Loop()
    made.call_in(20, made.stop)
    yield made
    made._epoll.close()


@pytest.fixture
def pairs() -> Iterator[Callable[[], tuple[ZSocket, zmq.Socket[bytes]]]]:
    """Connected DEALERs over a real transport, with room for a burst."""
    context: zmq.Context[Any] = zmq.Context()
    made: list[zmq.Socket[bytes]] = []

    def make() -> tuple[ZSocket, zmq.Socket[bytes]]:
        server, client = context.socket(zmq.DEALER), context.socket(zmq.DEALER)
        made.extend((server, client))
        for sock in (server, client):
            sock.set(zmq.SNDHWM, 0)
            sock.set(zmq.RCVHWM, 0)
        server.bind("tcp://127.0.0.1:*")
        client.connect(server.get(zmq.LAST_ENDPOINT).rstrip(b"\0").decode())
        assert server.poll(5000, zmq.POLLOUT)  # the binding side can't send before somebody is there
        return ZSocket(server), client

    yield make
    for sock in made:
        sock.close(linger=0)
    context.term()


def test_pieces_take_turns_with_messages_and_with_each_other(loop, pairs):
    """One step of one chore in a turn: a message that comes meanwhile doesn't wait for the rest."""
    server, client = pairs()
    seen = []

    def chore(name: str) -> Callable[[], bool]:
        def step() -> bool:
            seen.append(name)
            if len(seen) == 4:
                client.send(b"m")
                assert server.raw.poll(5000)
                server.wake()  # asking took the edge
            return seen.count(name) == 20

        return step

    loop.add_socket(server, lambda: seen.append(server.recv()[0]))
    loop.call_in(0.2, loop.stop)
    loop.in_pieces(chore("a"))
    loop.in_pieces(chore("b"))
    loop.run()
    assert [name for name in seen if name != b"m"] == ["a", "b"] * 20
    assert 4 <= seen.index(b"m") <= 10


def test_large_frames_are_views_and_small_ones_bytes(pairs):
    """Nothing is copied that takes longer than a request; what was received stays after the next message."""
    server, client = pairs()
    for filling in (b"a", b"b"):
        client.send_multipart([filling * 10, filling * (VIEW_BYTES + 1), b"", filling * VIEW_BYTES])
        assert server.raw.poll(5000)
        received = server.recv()
        if filling == b"a":
            first = received
    assert [type(frame) for frame in first] == [bytes, memoryview, bytes, bytes]
    assert [bytes(frame) for frame in first] == [b"a" * 10, b"a" * (VIEW_BYTES + 1), b"", b"a" * VIEW_BYTES]


def test_timers_run_at_their_time_in_order(loop):
    """By time, and those of one time in the order in which they were set; each once."""
    seen = []
    loop.call_in(0.02, lambda: (seen.append("late"), loop.stop()))
    loop.call_in(0.01, lambda: seen.append("early"))
    loop.call_in(0, lambda: seen.append("now"))
    loop.call_in(0, lambda: loop.call_in(0, lambda: seen.append("then")))
    loop.run()
    assert seen == ["now", "then", "early", "late"]


def test_a_timer_is_not_early():
    """Measured by the clock that the loop was given."""
    now = [0]
    loop = Loop(lambda: now[0])
    seen = []
    reader, writer = os.pipe()

    def tick() -> None:
        now[0] += 10_000_000
        seen.append(now[0])
        if now[0] >= 100_000_000:
            loop.stop()

    loop.add_reader(reader, tick)
    loop.call_in(0.05, lambda: seen.append("timer"))
    os.write(writer, b"!")
    loop.run()
    assert seen.index("timer") == 5
    os.close(reader)
    os.close(writer)


def test_readers_are_called_while_there_is_something_to_read(loop):
    """Data, and the end of file; not after they were removed."""
    ours, theirs = socket.socketpair()
    seen = []

    def readable() -> None:
        seen.append(ours.recv(1))
        if not seen[-1]:
            loop.remove_reader(ours.fileno())
            loop.remove_reader(ours.fileno())
            loop.call_in(0.01, loop.stop)

    loop.add_reader(ours.fileno(), readable)
    theirs.sendall(b"ab")
    theirs.close()
    loop.run()
    ours.close()
    assert seen == [b"a", b"b", b""]


def test_a_reader_may_remove_another_that_is_ready_too(loop):
    """Neither is called on a descriptor that was given up a moment ago."""
    pipes = [os.pipe() for _ in range(2)]
    seen = []

    def first_come(at: int) -> None:
        seen.append(at)
        for reader, _ in pipes:
            loop.remove_reader(reader)
        loop.call_in(0.01, loop.stop)

    for at, (reader, writer) in enumerate(pipes):
        loop.add_reader(reader, lambda at=at: first_come(at))
        os.write(writer, b"!")
    loop.run()
    assert len(seen) == 1
    for fd in (fd for pipe in pipes for fd in pipe):
        os.close(fd)


@pytest.mark.parametrize("busy_poll_us", [0, 200])
def test_no_message_of_a_burst_is_lost_or_reordered(pairs, busy_poll_us):
    """A thousand messages at once are all handled, and readers and timers get their turn meanwhile."""
    loop = Loop(busy_poll_us=busy_poll_us)
    loop.call_in(20, loop.stop)
    server, client = pairs()
    seen = []
    timers = []

    def handle() -> None:
        seen.append(int(server.recv()[0]))
        if len(seen) == 1:
            loop.call_in(0, lambda: timers.append(len(seen)))
        if len(seen) == BURST:
            loop.stop()

    loop.add_socket(server, handle)
    for number in range(BURST):
        client.send(b"%d" % number)
    loop.run()
    assert seen == list(range(BURST))
    assert timers
    assert timers[0] < BURST
    loop._epoll.close()


def test_nothing_is_lost_when_a_handler_sends_on_the_other_socket(loop, pairs):
    """A send swallows the edge of a receive on the same socket: each message bounces between the two all the same."""
    (one, one_peer), (two, two_peer) = pairs(), pairs()
    seen = {"one": 0, "two": 0}

    def relay(name: str, source: ZSocket, other: ZSocket, peer: zmq.Socket[bytes]) -> None:
        source.recv()
        seen[name] += 1
        other.send([b"sent on the other"])
        if seen[name] < BURST:
            peer.send(b"the next")  # arrives while the loop is busy with the other socket
        if seen == {"one": BURST, "two": BURST}:
            loop.stop()

    loop.add_socket(one, lambda: relay("one", one, two, one_peer))
    loop.add_socket(two, lambda: relay("two", two, one, two_peer))
    one_peer.send(b"begin")
    two_peer.send(b"begin")
    loop.run()
    assert seen == {"one": BURST, "two": BURST}


def test_a_message_that_came_before_the_socket_was_added_is_handled(loop, pairs):
    """Its edge is long gone; the loop asks before it sleeps."""
    server, client = pairs()
    client.send(b"early")
    assert server.raw.poll(5000)
    loop.add_socket(server, lambda: (server.recv(), loop.stop()))
    loop.run()
    assert not server.raw.poll(0)


def test_signals_run_in_the_loop(loop):
    """The handler runs between two callbacks, once for each signal."""
    before = signal.getsignal(signal.SIGUSR1)
    seen = []
    try:
        loop.on_signals({signal.SIGUSR1: lambda: (seen.append("signal"), loop.stop())})
        loop.call_in(0, lambda: (os.kill(os.getpid(), signal.SIGUSR1), seen.append("after")))
        loop.run()
    finally:
        os.close(signal.set_wakeup_fd(-1))
        signal.signal(signal.SIGUSR1, before)
        for reader in loop._readers:
            os.close(reader)
    assert seen == ["after", "signal"]


def test_an_error_in_a_callback_ends_nothing_where_somebody_takes_it(loop, pairs):
    """The other callbacks, and the next message on the same socket, get their turn."""
    server, client = pairs()
    errors: list[Exception] = []

    def on_message() -> None:
        if server.recv() == [b"bad"]:
            raise ValueError("bad")
        loop.stop()

    def on_time() -> None:
        raise KeyError("late")

    loop.add_socket(server, on_message)
    loop.on_error = errors.append
    loop.call_in(0, on_time)
    client.send(b"bad")
    client.send(b"good")
    loop.run()
    assert {type(error) for error in errors} == {ValueError, KeyError}


def test_without_anybody_to_take_it_an_error_ends_the_loop(loop):
    """As in any program."""
    loop.call_in(0, lambda: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        loop.run()
