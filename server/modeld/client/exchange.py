"""A request over one or several endpoints, decided and not acted: no sockets, no clock, no waiting.

The Freelance pattern of the ZeroMQ guide, chapter 4, with the client's sockets in hand: one try goes to the endpoint
that answered last; after a timeout or a retryable error the same bytes, with the same id, go to the next one. A
prediction has no effect on its server, so asking twice is harmless, and the first reply to any of the tries is taken.

Whoever drives an exchange calls `start`, then, until `over`: sends `frames` to each endpoint in `unsent` as soon as
its socket takes them (`sent`), hands in what arrives (`reply`), and calls `time` at `wake_at`.
Endpoints are numbers; times are seconds of one monotonic clock. Not thread-safe.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

from modeld.client.codec import Frame, Reply
from modeld.client.errors import ModeldError, RequestTimeout, ServerError

T = TypeVar("T")

#: An endpoint that doesn't take a message within this is passed over where there is another. Seconds.
CONNECT_S = 0.1
#: After each endpoint refused: the pause before the first is asked again; doubled each time up to the second. Seconds.
PAUSE_S, PAUSE_MAX_S = 0.01, 0.2


class Endpoints:
    """The servers that a client may ask, and the one that is asked first: the last that answered."""

    def __init__(self, names: Sequence[str]) -> None:
        self.names = tuple(names)
        self.preferred = 0

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True, slots=True)
class Health:
    """What one server says of itself.

    Attributes:
        endpoint: its endpoint.
        ready: it can serve now.
        reason: why not, in the server's words or the client's; empty where it is ready.
    """

    endpoint: str
    ready: bool
    reason: str


class Exchange(Generic[T]):
    """One request that wants one answer.

    Args:
        request_id: the id in `frames`.
        frames: the message; each try sends the same.
        read: makes the result of an answer and the endpoint's name. What it raises is the outcome.
        endpoints: shared by a client's exchanges.
        timeout_s: how long it may take in all.
        try_timeout_s: how long one try waits before the next is made. The last one waits to the end.
        tries: how many times the message may be sent.
    """

    def __init__(
        self,
        request_id: int,
        frames: list[Frame],
        read: Callable[[Reply, str], T],
        endpoints: Endpoints,
        *,
        timeout_s: float,
        try_timeout_s: float,
        tries: int,
    ) -> None:
        self.id = request_id
        self.frames = frames
        self.timeout_s = timeout_s
        self.over = False
        self.wake_at = 0.0
        #: Endpoints that shall get the message as soon as they take it.
        self.unsent: set[int] = set()
        self._read = read
        self._endpoints = endpoints
        self._try_timeout_s = try_timeout_s
        self._tries = tries
        #: Where a reply is still due, in the order of the tries; twice where an endpoint was asked twice.
        self._due: list[int] = []
        self._at = endpoints.preferred
        self._refused: ServerError | None = None
        self._refusals = 0
        self._paused = False
        self._deadline = 0.0
        self._sent = 0
        self._value: T | None = None
        self._error: BaseException | None = None

    def start(self, now: float) -> None:
        self._deadline = now + self.timeout_s
        self._try(now)

    def awaits(self, endpoint: int) -> bool:
        """Whether a reply from there is still of use."""
        return not self.over and endpoint in self._due

    @property
    def waiting_on(self) -> set[int]:
        """Where replies are due."""
        return set(self._due)

    def sent(self, endpoint: int, now: float) -> None:
        """The endpoint's socket took the message."""
        self.unsent.discard(endpoint)
        self._due.append(endpoint)
        self._sent += 1
        last = self._sent >= self._tries
        self.wake_at = self._deadline if last else min(self._deadline, now + self._try_timeout_s)

    def reply(self, endpoint: int, reply: Reply, now: float) -> None:
        """A message came. One with another request's id changes nothing; see `Reply` for one without an id."""
        if self.over or not (reply.id == self.id or (reply.id is None and reply.error is not None)):
            return
        self._note_sent(endpoint, reply, now)
        if endpoint not in self._due:
            return
        error = reply.error
        if isinstance(error, ServerError) and error.retryable:
            self._refuse(endpoint, error, now)
            return
        self._endpoints.preferred = endpoint
        if error is not None:
            self.fail(error)
            return
        try:
            self._value = self._read(reply, self._endpoints.names[endpoint])
        except ModeldError as unreadable:
            self._error = unreadable
        self._end()

    def time(self, now: float) -> None:
        """`wake_at` has come."""
        if self.over or now < self.wake_at:
            return
        if now >= self._deadline:
            self.fail(self._refused or self._timeout())
        elif self._paused:
            self._try(now)
        else:
            self.unsent.clear()
            self._next()
            self._try(now)

    def fail(self, error: BaseException) -> None:
        """End it with this error."""
        self._error = error
        self._end()

    def result(self) -> T:
        """The answer, or the error raised. Only when `over`."""
        assert self.over
        if self._error is not None:
            raise self._error
        return self._value  # type: ignore[return-value]

    def _note_sent(self, endpoint: int, reply: Reply, now: float) -> None:
        """A reply may be handed in before the news that its request went out."""
        if endpoint in self.unsent and reply.id == self.id:
            self.sent(endpoint, now)

    def _refuse(self, endpoint: int, error: ServerError, now: float) -> None:
        """Another server, or the same one later, may answer: go on where there is anything to wait for."""
        self._due.remove(endpoint)
        self._refused = error
        self._refusals += 1
        if self._sent >= self._tries:
            if not self._due:
                self.fail(error)
        elif endpoint == self._at and not self.unsent and not self._paused:
            self._next()
            if self._refusals % len(self._endpoints):
                self._try(now)
            else:
                rounds = self._refusals // len(self._endpoints)
                self._paused = True
                self.wake_at = min(self._deadline, now + min(PAUSE_MAX_S, PAUSE_S * 2 ** (rounds - 1)))

    def _try(self, now: float) -> None:
        self._paused = False
        self.unsent.add(self._at)
        wait_s = min(CONNECT_S, self._try_timeout_s) if len(self._endpoints) > 1 else self.timeout_s
        self.wake_at = min(self._deadline, now + wait_s)

    def _next(self) -> None:
        self._at = (self._at + 1) % len(self._endpoints)

    def _end(self) -> None:
        self.over = True
        self.unsent.clear()

    def _timeout(self) -> RequestTimeout:
        names = ", ".join(self._endpoints.names)
        if not self._sent:
            return RequestTimeout(
                f"nothing took the request at {names} within {self.timeout_s:g} s: is modeld running there?",
                sent=False,
            )
        return RequestTimeout(f"no reply from {names} within {self.timeout_s:g} s", sent=True)


class Survey(Exchange[list[Health]]):
    """`ready`, asked of every endpoint at once. The first that is ready is asked first from then on."""

    def __init__(
        self, request_id: int, frames: list[Frame], endpoints: Endpoints, *, timeout_s: float
    ) -> None:
        super().__init__(
            request_id,
            frames,
            lambda _reply, _name: [],
            endpoints,
            timeout_s=timeout_s,
            try_timeout_s=timeout_s,
            tries=len(endpoints),
        )
        self._found: dict[int, Health] = {}

    def start(self, now: float) -> None:
        self._deadline = self.wake_at = now + self.timeout_s
        self.unsent = set(range(len(self._endpoints)))

    def sent(self, endpoint: int, now: float) -> None:  # noqa: ARG002
        self.unsent.discard(endpoint)
        self._due.append(endpoint)

    def reply(self, endpoint: int, reply: Reply, now: float) -> None:
        self._note_sent(endpoint, reply, now)
        if not self.awaits(endpoint) or not (reply.id == self.id or reply.error is not None):
            return
        self._due.remove(endpoint)
        if reply.error is not None:
            self._note(endpoint, False, str(reply.error))
        else:
            ready = reply.header.get("ready") is True
            self._note(endpoint, ready, "" if ready else str(reply.header.get("reason", "not ready")))
        if len(self._found) == len(self._endpoints):
            self._finish()

    def time(self, now: float) -> None:
        if not self.over and now >= self._deadline:
            self._finish()

    def _note(self, endpoint: int, ready: bool, reason: str) -> None:
        self._found[endpoint] = Health(self._endpoints.names[endpoint], ready, reason)

    def _finish(self) -> None:
        for endpoint in range(len(self._endpoints)):
            if endpoint not in self._found:
                self._note(endpoint, False, f"no answer within {self.timeout_s:g} s")
        self._value = [self._found[endpoint] for endpoint in range(len(self._endpoints))]
        ready = [endpoint for endpoint in sorted(self._found) if self._found[endpoint].ready]
        if ready:
            self._endpoints.preferred = ready[0]
        self._end()
