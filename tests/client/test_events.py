"""`on_swap`, from a publisher that sends what a test tells it to."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq
from tests.support import wait_until

from modeld.client import AsyncClient, Client, Event
from modeld.client.errors import ProtocolError
from modeld.client.events import read_event

SWAP = {
    "kind": "swap", "model_name": "alpha", "from": "1.0.0", "to": "1.1.0", "generation": 5, "digest": "sha256:ab",
    "reason": "next", "actor": "ann", "at": "2026-01-02T03:04:05Z",
}  # fmt: skip


class Publisher:
    """An XPUB that knows when a subscriber has arrived."""

    def __init__(self, context: zmq.Context[Any], endpoint: str) -> None:
        self.endpoint = endpoint
        self._socket = context.socket(zmq.XPUB)
        self._socket.linger = 0
        self._socket.bind(endpoint)

    def wait_for_subscriber(self) -> None:
        for _ in ("swap.", "rollback."):
            assert self._socket.poll(5000)
            self._socket.recv()

    def send(self, **fields: Any) -> None:
        body = SWAP | fields
        self._socket.send_multipart(
            [f"{body['kind']}.{body['model_name']}".encode(), msgspec.json.encode(body)]
        )

    def send_raw(self, *frames: bytes) -> None:
        self._socket.send_multipart(frames)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def publisher(tmp_path: Path) -> Iterator[Publisher]:
    with zmq.Context() as context:
        made = Publisher(context, f"ipc://{tmp_path}/e")
        yield made
        made.close()


def test_an_event_has_the_fields_of_the_protocol() -> None:
    """`from` and `to` are words of Python, so they have longer names; what is absent is None."""
    event = read_event([b"swap.alpha", msgspec.json.encode(SWAP)])
    assert event == Event(
        "swap", "alpha", "2026-01-02T03:04:05Z", "1.0.0", "1.1.0", 5, "sha256:ab", "next", "ann"
    )
    assert read_event([b"x", b'{"kind":"hold","model_name":"a","at":"t","held":true}']).generation is None


@pytest.mark.parametrize("frames", [[b"swap.a"], [b"swap.a", b"{"], [b"swap.a", b"{}"], [b"a", b"{}", b""]])
def test_an_event_that_cannot_be_read_is_a_protocol_error(frames: list[bytes]) -> None:
    """Wrong frames, no JSON, no kind."""
    with pytest.raises(ProtocolError):
        read_event(frames)


def test_a_thread_calls_back_in_order(publisher: Publisher, tmp_path: Path) -> None:
    """Swaps and rollbacks, not the other kinds; in a thread named modeld-events that `close` ends."""
    got: list[tuple[str, int | None, str]] = []

    def on_swap(event: Event) -> None:
        got.append((event.kind, event.generation, threading.current_thread().name))

    with Client(f"ipc://{tmp_path}/s", events=publisher.endpoint, on_swap=on_swap):
        publisher.wait_for_subscriber()
        publisher.send(generation=5)
        publisher.send(kind="rejected")
        publisher.send(kind="rollback", generation=6)
        wait_until(lambda: len(got) == 2)
    assert got == [("swap", 5, "modeld-events"), ("rollback", 6, "modeld-events")]


def test_what_a_callback_raises_is_logged_and_the_next_event_comes(
    publisher: Publisher, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither a broken callback nor a broken event ends the thread."""
    got: list[int | None] = []

    def on_swap(event: Event) -> None:
        got.append(event.generation)
        if len(got) == 1:
            raise RuntimeError("not today")

    with (
        caplog.at_level(logging.ERROR, "modeld.client"),
        Client(f"ipc://{tmp_path}/s", events=[publisher.endpoint], on_swap=on_swap),
    ):
        publisher.wait_for_subscriber()
        publisher.send(generation=5)
        publisher.send_raw(b"swap.alpha", b"nonsense")
        publisher.send(generation=6)
        wait_until(lambda: len(got) == 2)
    assert [record.exc_info[0].__name__ for record in caplog.records] == ["RuntimeError", "ProtocolError"]  # type: ignore[index,union-attr]


def test_a_callback_may_close_the_client(publisher: Publisher, tmp_path: Path) -> None:
    """The thread ends when the callback returns instead of waiting for itself."""
    closed = threading.Event()
    client = Client(
        f"ipc://{tmp_path}/s",
        events=publisher.endpoint,
        on_swap=lambda _event: (client.close(), closed.set()),
    )
    publisher.wait_for_subscriber()
    publisher.send()
    assert closed.wait(5)
    wait_until(lambda: not any(thread.name == "modeld-events" for thread in threading.enumerate()))


def test_a_task_calls_back_and_awaits(
    publisher: Publisher, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An asynchronous callback has ended before the next event is taken; an error is logged."""
    steps: list[str] = []

    async def listen() -> None:
        done = asyncio.Event()

        async def on_swap(event: Event) -> None:
            steps.append(f"begin {event.generation}")
            await asyncio.sleep(0)
            steps.append(f"end {event.generation}")
            if event.generation == 6:
                done.set()
            raise RuntimeError("not today")

        async with AsyncClient(f"ipc://{tmp_path}/s", events=publisher.endpoint, on_swap=on_swap):
            await asyncio.to_thread(publisher.wait_for_subscriber)
            publisher.send(generation=5)
            publisher.send(generation=6)
            await asyncio.wait_for(done.wait(), 5)

    asyncio.run(listen())
    assert steps == ["begin 5", "end 5", "begin 6", "end 6"]
    assert caplog.records[0].name == "modeld.client"


def test_a_wrong_events_endpoint_is_told_and_leaves_nothing_open(tmp_path: Path) -> None:
    """The autouse fixture sees to the second half."""
    with pytest.raises(zmq.ZMQError):
        Client(f"ipc://{tmp_path}/s", events="nowhere", on_swap=print)

    async def connect() -> None:
        client = AsyncClient(f"ipc://{tmp_path}/s", events="nowhere", on_swap=print)
        with pytest.raises(zmq.ZMQError):
            await client.live()
        await client.close()

    asyncio.run(connect())
