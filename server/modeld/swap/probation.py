"""The time after a swap in which a failure rolls back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

#: Errors and times are looked at after so many replies, and after this time in any case. Seconds.
WINDOW_REPLIES, WINDOW_S = 100, 1.0
#: Fewer replies than this have no p99.
_LEAST_REPLIES = 20


@dataclass(frozen=True, slots=True)
class Terms:
    """How long a probation takes, and what fails it besides a death or an output that isn't finite.

    `max_error_rate`: share of requests that ended in an error of ours. `max_p99_us`: of the time from admission to
    reply; 0: no limit.
    """

    seconds: float = 30.0
    requests: int = 1000
    max_error_rate: float = 1.0
    max_p99_us: int = 0


class Probation:
    """Runs from `begin` until its seconds are over or its replies are out, whichever is first."""

    def __init__(self, terms: Terms, clock_ns: Callable[[], int]) -> None:
        self._terms = terms
        self._clock_ns = clock_ns
        self._left = 0
        self._until_ns = 0
        self._errors = 0
        self._times_us: list[int] = []
        self._looked_ns = 0

    @property
    def on(self) -> bool:
        return self._left > 0 and self._clock_ns() < self._until_ns

    def begin(self) -> None:
        now = self._clock_ns()
        self._left = self._terms.requests
        self._until_ns = now + int(self._terms.seconds * 1e9)
        self._new_window(now)

    def end(self) -> None:
        """The version on probation doesn't serve any more."""
        self._left = 0

    def replied(self, took_us: int) -> str | None:
        """A reply by the serving version; why that fails the probation, if it does."""
        if not self._left:
            return None
        self._times_us.append(took_us)
        why = self._look() if len(self._times_us) + self._errors >= WINDOW_REPLIES else None
        if self._left > 1:
            self._left -= 1
        else:
            self._until_ns = 0
        return why

    def erred(self) -> str | None:
        """An error of ours in place of a reply; why that fails the probation, if it does."""
        if not self._left:
            return None
        self._errors += 1
        # More than a whole window may have: no reply that is still to come makes up for it.
        if self._errors > self._terms.max_error_rate * max(
            WINDOW_REPLIES, len(self._times_us) + self._errors
        ):
            return self._error_rate()
        return None

    def tick(self) -> str | None:
        """Now and then: why the probation has failed, if it has."""
        now = self._clock_ns()
        if not self.on or now - self._looked_ns < WINDOW_S * 1e9:
            return None
        self._looked_ns = now
        return self._judge()

    def passed(self) -> bool:
        """Whether it is over, without a failure; True once."""
        if self._left and not self.on:
            self._left = 0
            return True
        return False

    def _look(self) -> str | None:
        why = self._judge()
        self._new_window(self._clock_ns())
        return why

    def _new_window(self, now_ns: int) -> None:
        self._errors, self._times_us, self._looked_ns = 0, [], now_ns

    def _judge(self) -> str | None:
        replies, terms = len(self._times_us), self._terms
        if self._errors > terms.max_error_rate * (replies + self._errors):
            return self._error_rate()
        if terms.max_p99_us and replies >= _LEAST_REPLIES:
            p99 = sorted(self._times_us)[max(0, -(-replies * 99 // 100) - 1)]
            if p99 > terms.max_p99_us:
                return f"p99 of {replies} replies is {p99} µs, probation.max_p99_us is {terms.max_p99_us}"
        return None

    def _error_rate(self) -> str:
        total = len(self._times_us) + self._errors
        return f"{self._errors} of {total} requests failed, probation.max_error_rate is {self._terms.max_error_rate:g}"
