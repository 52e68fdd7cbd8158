"""The load generator's loops: what is done between two requests, and nothing more.

Sockets are raw, frames go out as they are, times go into arrays of integers. Every loop is given a connected socket
and messages that it sends in turn, round and round, and it leaves nothing under way.
"""

from __future__ import annotations

import itertools
import select
import time
from array import array
from collections.abc import Callable, Sequence

import numpy as np
import zmq
from numpy.typing import NDArray

#: A client without a reply for so long ends the job. Seconds.
SILENCE_S = 20.0
#: An open loop waits so long for the last replies. Seconds.
LAST_REPLIES_S = 3.0

Socket = zmq.Socket[bytes]
Frames = Sequence[bytes | zmq.Frame]
Messages = Sequence[Frames]


class Times:
    """What one loop saw, ns."""

    def __init__(self) -> None:
        self.started = array("q")
        self.replied = array("q")
        self.late = array("q")
        self.errors = 0
        self.lost = 0
        self.seen_ns = 0


def _copied(messages: Messages) -> bool:
    """Whether small frames are copied when sent; large ones are `zmq.Frame`s, which needn't be."""
    return type(messages[0][-1]) is not zmq.Frame


def connection_names(clients: int) -> list[bytes]:
    """A ROUTER's names for its connections."""
    return [b"client-%d" % number for number in range(clients)]


def one_client(
    socket: Socket, messages: Messages, seconds: float, error_mark: bytes, until: bytes | None, times: Times
) -> None:
    """A closed loop of one REQ client."""
    send, receive, now = socket.send_multipart, socket.recv_multipart, time.monotonic_ns
    started, replied = times.started.append, times.replied.append
    copy, take = _copied(messages), itertools.cycle(messages).__next__
    end = now() + int(seconds * 1e9)
    while True:
        frames = take()
        begun = now()
        send(frames, copy=copy)
        reply = receive()
        got = now()
        started(begun)
        replied(got)
        if error_mark in reply[0]:
            times.errors += 1
        if until is not None and until in reply[0]:
            times.seen_ns = got
            return
        if got >= end:
            return


def many_clients(
    socket: Socket,
    messages: Messages,
    clients: int,
    seconds: float,
    error_mark: bytes,
    until: bytes | None,
    times: Times,
) -> None:
    """A closed loop of several clients: one request under way on each connection."""
    send, receive, now = socket.send_multipart, socket.recv_multipart, time.monotonic_ns
    copy, take = _copied(messages), itertools.cycle(messages).__next__
    sent: dict[bytes, int] = {}
    end = now() + int(seconds * 1e9)
    for name in connection_names(clients):
        sent[name] = now()
        send([name, b"", *take()], copy=copy)
    while True:
        reply = receive()
        got = now()
        name = reply[0]
        times.started.append(sent[name])
        times.replied.append(got)
        if error_mark in reply[2]:
            times.errors += 1
        if until is not None and until in reply[2]:
            times.seen_ns = got
            break
        if got >= end:
            break
        message = [name, b"", *take()]
        sent[name] = now()
        send(message, copy=copy)
    # What is still under way must not burden whoever is measured next.
    for _ in range(clients - 1):
        receive()


def several_sockets(
    sockets: list[Socket], messages: Messages, seconds: float, error_mark: bytes, times: Times
) -> None:
    """A closed loop of several REQ clients, polled: dearer for this process than `many_clients`."""
    now = time.monotonic_ns
    sent: dict[Socket, int] = {}
    poller = zmq.Poller()
    take = itertools.cycle(messages).__next__
    end = now() + int(seconds * 1e9)
    for socket in sockets:
        poller.register(socket, zmq.POLLIN)
        sent[socket] = now()
        socket.send_multipart(take())
    while sent:
        ready = poller.poll(int(SILENCE_S * 1000))
        if not ready:
            raise zmq.Again
        for socket, _ in ready:
            reply = socket.recv_multipart()
            got = now()
            begun = sent.pop(socket)
            if got < end or not times.replied:
                times.started.append(begun)
                times.replied.append(got)
                if error_mark in reply[0]:
                    times.errors += 1
            if got < end:
                frames = take()
                sent[socket] = now()
                socket.send_multipart(frames)


def fixed_rate(
    socket: Socket, messages: Messages, clients: int, due: NDArray[np.int64], error_mark: bytes, times: Times
) -> None:
    """An open loop: each request goes out when it is due, however many are unanswered.

    `times.replied` has one entry for each request afterwards, 0 where no reply came.
    """
    now = time.monotonic_ns
    receive: Callable[[int], list[bytes]] = socket.recv_multipart
    copy, take = _copied(messages), itertools.cycle(messages).__next__
    names = connection_names(clients)
    count = len(due)
    due_ns: list[int] = due.tolist()
    replied = times.replied = array("q", bytes(8 * count))
    times.late = array("q", bytes(8 * count))
    descriptor = int(socket.getsockopt(zmq.FD))
    sent = answered = 0
    end = due_ns[-1] + int(LAST_REPLIES_S * 1e9)
    while True:
        while int(socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
            reply = receive(zmq.NOBLOCK)
            replied[int(reply[1])] = now()
            answered += 1
            if error_mark in reply[3]:
                times.errors += 1
        if answered == count:
            break
        moment = now()
        next_ns = due_ns[sent] if sent < count else end
        if moment < next_ns:
            # ZeroMQ's descriptor tells of a change once; events were asked for since, after every send too.
            # No spinning: ZeroMQ's own thread may be on the same core, and would wait for the end of a time slice.
            select.select([descriptor], [], [], (next_ns - moment) / 1e9)
        elif sent < count:
            socket.send_multipart([names[sent % clients], b"%d" % sent, b"", *take()], zmq.NOBLOCK, copy=copy)
            times.late[sent] = moment - next_ns
            sent += 1
        else:
            break
    times.lost = count - answered
