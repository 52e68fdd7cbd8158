"""Idempotency-Key: the same request sent twice is done once, and both get the same answer.

Remembered in memory, for this process and a day at most: a gateway that was restarted forgets. `If-Match` holds across
restarts, for it is compared with the registry's log.
"""

from __future__ import annotations

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
        #: The fingerprints of requests under way, and what was answered, oldest first.
        self._under_way: dict[tuple[str, str], str] = {}
        self._answers: OrderedDict[tuple[str, str], tuple[float, str, Response]] = OrderedDict()

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
        before = known[1] if known else self._under_way.get(at, fingerprint)
        if before != fingerprint:
            raise ApiError(422, "idempotency", f"Idempotency-Key {key!r} was used for another request")
        if known:
            return known[2]
        if at in self._under_way:
            raise ApiError(409, "idempotency", "the first request with this Idempotency-Key is under way")
        self._under_way[at] = fingerprint
        try:
            answer = await do()
        finally:
            del self._under_way[at]
        self._answers[at] = (self._clock(), fingerprint, answer)
        return answer

    def _forget_old(self) -> None:
        while self._answers:
            at, (since, _, _) = next(iter(self._answers.items()))
            if len(self._answers) < _MOST and self._clock() - since < _LIFETIME_S:
                return
            del self._answers[at]
