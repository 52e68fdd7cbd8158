"""A daemon's events as they are published, with a word on stderr when it comes and goes."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from typing import Any

import zmq
from zmq.utils.monitor import recv_monitor_message

from modeld.client import Curve
from modeld.client.sockets import subscribe

#: What the transport tells, in words.
_TOLD: dict[int, str] = {
    zmq.EVENT_CONNECTED: "connected",
    zmq.EVENT_DISCONNECTED: "connection lost; waiting for it",
}


def follow(
    endpoint: str, kinds: Sequence[str], model: str | None, curve: Curve | None
) -> Iterator[dict[str, Any]]:
    """Events for ever, as their JSON bodies. What is published while nothing is connected is not seen."""
    with zmq.Context() as context, context.socket(zmq.SUB) as sock:
        told = sock.get_monitor_socket(sum(_TOLD))
        topics = [f"{kind}.{model or ''}".encode() for kind in kinds]
        subscribe(sock, endpoint, topics=topics, curve=curve)
        print(f"modeld: waiting for {endpoint}", file=sys.stderr)
        poller = zmq.Poller()
        poller.register(sock, zmq.POLLIN)
        poller.register(told, zmq.POLLIN)
        try:
            while True:
                ready = dict(poller.poll())
                if told in ready:
                    change = recv_monitor_message(told)["event"]
                    if change in _TOLD:
                        print(f"modeld: {_TOLD[change]}", file=sys.stderr)
                if sock in ready:
                    event = json.loads(sock.recv_multipart()[1])
                    if model in (None, event["model_name"]):
                        yield event
        except KeyboardInterrupt:
            return
        finally:
            sock.disable_monitor()
