"""The streaming client writes down whatever happens to a request."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from modeld.client.codec import Prediction
from modeld.client.errors import Busy, RequestTimeout
from modeld.demo.stream import stream
from modeld.demo.stream_log import ERROR, LOST, NONE, REPLY


class FakeClient:
    """Replies, refuses, stays silent, replies; then stops the stream."""

    def __init__(self, stop: threading.Event) -> None:
        self.stop = stop
        self.calls = 0

    def predict(self, row: Any, *, model: str | None) -> Prediction:
        assert model == "alpha"
        self.calls += 1
        if self.calls == 2:
            raise Busy("BUSY", "full")
        if self.calls == 3:
            raise RequestTimeout("no reply", sent=True)
        if self.calls == 4:
            self.stop.set()
        return Prediction(
            {"predictions": np.array([row[0] + 0.5])}, "alpha", "1.0", self.calls, "sha256:x", 0, 0
        )


def test_every_request_has_one_entry() -> None:
    """Replies, an error and a silence are recorded, rows go round, and the last reply is waited for."""
    stop = threading.Event()
    client: Any = FakeClient(stop)
    log = stream(client, np.array([[1.0], [2.0], [3.0]]), stop, model="alpha", interval_us=0)
    assert log.outcome.tolist() == [REPLY, ERROR, LOST, REPLY]
    assert log.row.tolist() == [0, 1, 2, 0]
    assert log.generation.tolist() == [1, NONE, NONE, 4]
    assert log.bits.view(np.float64)[[0, 3]].tolist() == [1.5, 1.5]
    assert log.versions == ("1.0",)
    assert log.errors == ("Busy: BUSY: full", "no reply")
    assert (log.replied_ns >= log.sent_ns).all()


def test_the_interval_is_kept() -> None:
    """With a rate limit the starts of two requests are at least that far apart."""
    stop = threading.Event()
    client: Any = FakeClient(stop)
    log = stream(client, np.array([[1.0]]), stop, model="alpha", interval_us=3000)
    assert (np.diff(log.sent_ns) >= 3_000_000).all()
