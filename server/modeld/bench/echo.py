"""The yardstick: `python -m modeld.bench.echo ENDPOINT REPLY`, a bare ROUTER with one fixed reply.

REPLY is a file with a daemon's reply (`load.write_messages`): so the echo moves the same bytes both ways, and
what it takes is what ZeroMQ, Python and the machine take. Its first line on stdout is the endpoint.
"""

from __future__ import annotations

import argparse
import gc
import os
from pathlib import Path

import zmq

from modeld.bench.lines import say
from modeld.bench.load import read_messages

#: How often it looks whether its parent is still there. Milliseconds.
LOOK_MS = 1000


def serve(endpoint: str, body: list[bytes]) -> None:
    """Echo until the parent is gone."""
    parent = os.getppid()
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        socket = context.socket(zmq.ROUTER)
        socket.set(zmq.RCVTIMEO, LOOK_MS)
        socket.bind(endpoint)
        say({"endpoint": bytes(socket.getsockopt(zmq.LAST_ENDPOINT)).rstrip(b"\0").decode()})
        receive, send = socket.recv_multipart, socket.send_multipart
        while True:
            try:
                frames = receive()
            except zmq.Again:
                if os.getppid() != parent:
                    return
                continue
            send(frames[: frames.index(b"") + 1] + body)
    finally:
        context.destroy(linger=0)


def main(argv: list[str] | None = None) -> int:
    """Echo; 0 when the parent is gone."""
    parser = argparse.ArgumentParser(prog="python -m modeld.bench.echo", description="A bare ZeroMQ echo.")
    parser.add_argument("endpoint", help="where to listen; tcp://127.0.0.1:* takes a free port")
    parser.add_argument("reply", type=Path, help="file with the reply's frames")
    arguments = parser.parse_args(argv)
    body = read_messages(arguments.reply)[0]
    gc.freeze()
    gc.disable()
    serve(arguments.endpoint, body)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
