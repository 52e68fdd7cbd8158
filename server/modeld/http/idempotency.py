"""Idempotency-Key: the same request sent twice is done once, and both get the same answer.

Remembered in memory, for this process and a day at most: a gateway that was restarted forgets. `If-Match` holds across
restarts, for it is compared with the registry's log.
"""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Awaitable, Callable

from starlette.responses import Response

from modeld.http.problems import ApiError

#: Answers that are remembered at most, and for how long. Seconds.
_MOST, _LIFETIME_S = 10_000, 86_400.0
#: The longest key. Characters.
MAX_KEY_CHARACTERS = 255


class Remembered:
    """Answers by (caller, key). For one event loop."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._answers: OrderedDict[tuple[str, str], tuple[float, str, Response | None]] = OrderedDict()

    async def once(
        self, subject: str, key: str | None, fingerprint: str, do: Callable[[], Awaitable[Response]]
    ) -> Response:
        """The answer of `do`, which runs unless this key has an answer. A failure isn't remembered: it may be retried.

        Raises:
            ApiError: 409, the first request is under way; 422, the key was used for another request.
        """
        if key is None:
            return await do()
        if not 0 < len(key) <= MAX_KEY_CHARACTERS:
            raise ApiError(400, "usage", f"Idempotency-Key: 1 to {MAX_KEY_CHARACTERS} characters")
        self._forget_old()
        at = (subject, key)
        known = self._answers.get(at)
        if known is not None:
            _, before, answer = known
            if before != fingerprint:
                raise ApiError(422, "idempotency", f"Idempotency-Key {key!r} was used for another request")
            if answer is None:
                raise ApiError(409, "idempotency", "the first request with this Idempotency-Key is under way")
            return answer
        self._answers[at] = (self._clock(), fingerprint, None)
        try:
            answer = await do()
        except (Exception, asyncio.CancelledError):
            del self._answers[at]
            raise
        self._answers[at] = (self._clock(), fingerprint, answer)
        return answer

    def _forget_old(self) -> None:
        while self._answers:
            at, (since, _, answer) = next(iter(self._answers.items()))
            if answer is None or (len(self._answers) < _MOST and self._clock() - since < _LIFETIME_S):
                return
            del self._answers[at]
