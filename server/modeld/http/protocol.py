"""uvicorn's HTTP protocol, which waits for a request only so long and keeps only so much of its head.

uvicorn ends a connection that is idle after an answer, and no other: one that never asks, or asks a byte at a time,
would stay for ever, and a head without an end would be kept whole. Deadlines are for what the client does; the time
that an answer takes isn't counted, nor while we don't read.
"""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle

from modeld.http.problems import Problem, render

#: A request may come as slowly as this, beyond the time that each has. Bytes a second.
MIN_BYTES_PER_S = 16_384
#: Head, trailers, what frames a chunk: at most so much in a row, without any of the body. Bytes.
MAX_HEAD_BYTES = 65_536
#: Requests of one connection that may wait for the answer of the one before. uvicorn reads on meanwhile.
MAX_PIPELINED = 256


class BoundedProtocol(HttpToolsProtocol):
    """One connection. Called by uvicorn, in the event loop."""

    #: A request has to have come whole after so many seconds, and one more for each `MIN_BYTES_PER_S` received,
    #: counted from the connection or from the request's first byte.
    request_timeout_s = 20.0

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._timer: asyncio.TimerHandle | None = None
        self._since = 0.0
        #: What has come since then, and how much of it since the last of the body. Bytes.
        self._came = self._bare = 0
        self._whole = False
        self._answered: RequestResponseCycle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._expect()

    def connection_lost(self, exc: Exception | None) -> None:
        self._expect_no_more()
        if self._answered is not None:
            # uvicorn tells the last request alone, which waits behind this one where requests come in a row.
            self._answered.disconnected = True
            self._answered.message_event.set()
        super().connection_lost(exc)

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._answered = cycle
        super()._start_asgi_task(cycle, app)

    def data_received(self, data: bytes) -> None:
        self._whole = False
        self._came += len(data)
        self._bare += len(data)
        super().data_received(data)
        if len(self.pipeline) > MAX_PIPELINED:
            self.logger.warning("closed a connection with more than %d requests under way", MAX_PIPELINED)
            self.transport.close()
            self.pipeline.clear()  # whatever is under way ends first, and keeps us until then
        if self._whole:  # nearly always: a request is seldom larger than a read
            self._came = self._bare = 0
            if self._timer is not None:
                self._expect_no_more()
        elif not self.transport.is_closing():
            if self._bare > MAX_HEAD_BYTES:
                self._end(431, "HEAD_TOO_LARGE", f"a request's head has at most {MAX_HEAD_BYTES} bytes")
            elif self._timer is None:
                self._expect()

    def on_message_begin(self) -> None:
        if self._whole:  # it begins in the same read that ended the one before
            self._whole = False
            self._came = self._bare = 1  # of its first bytes one at least
            self._since = self.loop.time()
        super().on_message_begin()

    def on_body(self, body: bytes) -> None:
        self._bare = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        self._whole = True
        super().on_message_complete()

    def send_400_response(self, msg: str) -> None:
        self._end(400, "usage", msg)

    def handle_websocket_upgrade(self) -> None:
        # From here on it is another protocol's connection, with pings of its own.
        self._whole = True
        super().handle_websocket_upgrade()

    def _expect(self) -> None:
        self._since = self.loop.time()
        self._timer = self.loop.call_later(self.request_timeout_s, self._look)

    def _expect_no_more(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _look(self) -> None:
        """Time is up, unless enough came meanwhile, or it is we who don't read or are still answering."""
        self._timer = None
        if self.transport.is_closing():
            return
        cycle = self.cycle
        answering = cycle is not None and not (cycle.more_body or cycle.response_complete)
        if answering or self.pipeline or self.flow.read_paused:
            self._expect()
            return
        allowed_s = self.request_timeout_s + self._came / MIN_BYTES_PER_S
        left_s = self._since + allowed_s - self.loop.time()
        if left_s > 0:
            self._timer = self.loop.call_later(left_s, self._look)
        elif self._came:
            self._end(408, "TIMEOUT", f"the request didn't come whole within {allowed_s:.0f} s")
        else:
            self.transport.close()

    def _end(self, status: int, code: str, told: str) -> None:
        """Close; with an answer where it can't be taken for another request's, or for the rest of one."""
        cycle = self.cycle
        asking = cycle is None or cycle.response_complete or (cycle.more_body and not cycle.response_started)
        if asking and not self.pipeline:
            oip = cycle is not None and cycle.scope["path"].startswith("/v2")
            response = render(Problem(status, code, told), oip=oip)
            head = [b"%b: %b\r\n" % header for header in response.raw_headers]
            self.transport.write(
                b"".join((STATUS_LINE[status], *head, b"connection: close\r\n\r\n", bytes(response.body)))
            )
        self.transport.close()
