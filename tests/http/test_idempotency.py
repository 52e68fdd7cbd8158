"""Idempotency-Key: what is remembered, and for how long."""

from __future__ import annotations

import asyncio

import pytest
from starlette.responses import Response

from modeld.http import idempotency
from modeld.http.idempotency import Remembered
from modeld.http.problems import ApiError


def test_a_request_that_takes_long_keeps_no_other_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest answers go beside one under way; that one is refused a second time, and answered in the end."""
    monkeypatch.setattr(idempotency, "_MOST", 5)
    remembered = Remembered()
    done = 0

    async def quick() -> Response:
        nonlocal done
        done += 1
        return Response(str(done))

    async def run() -> None:
        go_on = asyncio.Event()

        async def long() -> Response:
            await go_on.wait()
            return Response("long")

        first = asyncio.create_task(remembered.once("a", "long", "f", long))
        await asyncio.sleep(0)
        for number in range(20):
            await remembered.once("a", str(number), "f", quick)
        assert len(remembered._answers) == 5
        with pytest.raises(ApiError, match="under way"):
            await remembered.once("a", "long", "f", quick)
        with pytest.raises(ApiError, match="another request"):
            await remembered.once("a", "long", "g", quick)
        go_on.set()
        assert (await first).body == b"long"
        assert (await remembered.once("a", "long", "f", quick)).body == b"long"
        assert (await remembered.once("a", "19", "f", quick)).body == b"20"
        assert (await remembered.once("a", "0", "f", quick)).body == b"21"

    asyncio.run(run())


def test_a_request_that_fails_may_be_tried_again() -> None:
    """A failure isn't remembered, a cancelled request neither."""
    remembered = Remembered()

    async def fails() -> Response:
        raise ValueError

    async def run() -> None:
        with pytest.raises(ValueError):  # noqa: PT011 (ours)
            await remembered.once("a", "k", "f", fails)
        task = asyncio.create_task(remembered.once("a", "k", "f", lambda: asyncio.sleep(60, Response())))
        await asyncio.sleep(0)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert remembered._under_way == {}

    asyncio.run(run())
