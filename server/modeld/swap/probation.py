"""The time after a swap in which a failure rolls back."""

from __future__ import annotations

from collections.abc import Callable


class Probation:
    """Runs from `begin` until a number of seconds is over or a number of replies is out, whichever is first."""

    def __init__(self, seconds: float, requests: int, clock_ns: Callable[[], int]) -> None:
        self._ns = int(seconds * 1e9)
        self._requests = requests
        self._clock_ns = clock_ns
        self._left = 0
        self._until_ns = 0

    @property
    def on(self) -> bool:
        return self._left > 0 and self._clock_ns() < self._until_ns

    def begin(self) -> None:
        self._left = self._requests
        self._until_ns = self._clock_ns() + self._ns

    def end(self) -> None:
        """The version on probation doesn't serve any more."""
        self._left = 0

    def replied(self) -> None:
        """A reply by the serving version."""
        if self._left > 1:
            self._left -= 1
        elif self._left:
            self._until_ns = 0

    def passed(self) -> bool:
        """Whether it is over, without a failure; True once."""
        if self._left and not self.on:
            self._left = 0
            return True
        return False
