"""The load generator's sibling for HTTP: the same jobs, closed loops over plain sockets with prebuilt requests.

    python -m tests.bench.http_load

A job's messages have one frame each: a whole HTTP request. Every connection is kept alive; a reply is read by its
Content-Length.
"""

from __future__ import annotations

import gc
import itertools
import os
import selectors
import socket
import time
from array import array
from pathlib import Path
from urllib.parse import urlsplit

import msgspec
import numpy as np

from modeld.bench.errors import BenchError
from modeld.bench.lines import answer, say
from modeld.bench.load import Done, Job, read_messages
from modeld.bench.loops import SILENCE_S


class Connection:
    """One client's connection."""

    def __init__(self, host: str, port: int) -> None:
        self.socket = socket.create_connection((host, port), timeout=SILENCE_S)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.sent_ns = 0
        self._buffer = b""

    def receive(self) -> tuple[bytes, bytes] | None:
        """Read once: the reply's head and body if it is complete now."""
        data = self.socket.recv(65536)
        if not data:
            raise BenchError("the server closed a connection")
        self._buffer += data
        head, there, body = self._buffer.partition(b"\r\n\r\n")
        if not there or len(body) < content_length(head):
            return None
        self._buffer = b""
        return head, body


def content_length(head: bytes) -> int:
    """The length of the body that follows this head. BenchError where it isn't said."""
    lower = head.lower()
    at = lower.find(b"\r\ncontent-length:")  # not Inference-Header-Content-Length
    if at < 0:
        raise BenchError(f"a reply without Content-Length: {head[:200]!r}")
    return int(lower[at + 17 :].split(b"\r\n", 1)[0])


def exchange(endpoint: str, requests: list[bytes]) -> list[bytes]:
    """Each request's reply, one after another: the bodies. BenchError unless all are 200."""
    connection = _connect(endpoint)
    bodies = []
    try:
        for request in requests:
            connection.socket.sendall(request)
            while (reply := connection.receive()) is None:
                pass
            if b" 200 " not in reply[0].split(b"\r\n", 1)[0]:
                raise BenchError(f"{endpoint} answers {reply[0][:100]!r}")
            bodies.append(reply[1])
    finally:
        connection.socket.close()
    return bodies


def closed_loop(
    connections: list[Connection], requests: list[bytes], seconds: float
) -> tuple[array[int], array[int], int]:
    """One request under way on each connection; (started, replied, errors)."""
    now = time.monotonic_ns
    started, replied, errors = array("q"), array("q"), 0
    take = itertools.cycle(requests).__next__
    end = now() + int(seconds * 1e9)
    with selectors.DefaultSelector() as selector:
        for connection in connections:
            selector.register(connection.socket, selectors.EVENT_READ, connection)
            connection.sent_ns = now()
            connection.socket.sendall(take())
        under_way = len(connections)
        alone = connections[0] if under_way == 1 else None
        while under_way:
            # A single client blocks in recv, as one would write it.
            ready = [alone] if alone is not None else [key.data for key, _ in selector.select(SILENCE_S)]
            if not ready:
                raise BenchError(f"no reply within {SILENCE_S:g} s")
            for connection in ready:
                reply = connection.receive()
                if reply is None:
                    continue
                got = now()
                if got < end or not started:
                    started.append(connection.sent_ns)
                    replied.append(got)
                    errors += not reply[0].startswith(b"HTTP/1.1 200")
                if got >= end:
                    under_way -= 1
                    continue
                request = take()
                connection.sent_ns = now()
                connection.socket.sendall(request)
    return started, replied, errors


def run(job: Job) -> Done:
    """Do one job."""
    os.sched_setaffinity(0, job.cpus if job.cpus is not None else _STARTED_ON)
    requests = [frames[0] for frames in read_messages(Path(job.messages))]
    connections = [_connect(job.endpoint) for _ in range(job.clients)]
    try:
        closed_loop(connections, requests, job.warmup_s)
        say({"started": True})
        started, replied, errors = closed_loop(connections, requests, job.seconds)
    except OSError as error:
        raise BenchError(f"{job.endpoint}: {error}") from error
    finally:
        for connection in connections:
            connection.socket.close()
    begun, ends = np.frombuffer(started, np.int64), np.frombuffer(replied, np.int64)
    np.savez(job.log, started_ns=begun, latency_ns=ends - begun, late_ns=np.empty(0, np.int64))
    return Done(seconds=max(float(ends.max() - begun.min()) / 1e9, 1e-9), errors=errors, lost=0)


def _connect(endpoint: str) -> Connection:
    at = urlsplit(endpoint)
    try:
        return Connection(at.hostname or "127.0.0.1", at.port or 80)
    except OSError as error:
        raise BenchError(f"{endpoint}: {error}") from error


_STARTED_ON = os.sched_getaffinity(0)


if __name__ == "__main__":
    gc.freeze()
    gc.disable()
    raise SystemExit(answer(lambda line: run(msgspec.json.decode(line, type=Job))))
