"""The Python clients against real daemons."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
import polars as pl
import pytest
from tests.e2e.conftest import Daemon
from tests.registry.conftest import FEATURES, Trained
from tests.support import wait_until

from modeld.client import AsyncClient, Client, Event
from modeld.client.errors import MissingFeature, UnknownFeature
from modelreg import Registry


@pytest.mark.usefixtures("pool_of_polars")
@pytest.mark.parametrize("make", [pd.DataFrame, pl.DataFrame], ids=["pandas", "polars"])
def test_frames_are_matched_by_name(
    daemon: Daemon, trained: dict[str, Trained], rows: np.ndarray, make: Any
) -> None:
    """Columns in any order give the bits of the matrix in the model's order; a wrong column is named."""
    reverse = {name: rows[:, at] for at, name in reversed(list(enumerate(FEATURES)))}
    offline = trained["1.0.0"].booster.predict(rows, num_threads=1)
    with daemon.client() as client:
        assert client.predict(make(reverse)).values.tobytes() == offline.tobytes()
        with pytest.raises(MissingFeature, match=FEATURES[-1]):
            client.predict(make({name: reverse[name] for name in FEATURES[:-1]}))
        with pytest.raises(UnknownFeature, match="moon"):
            client.predict(make({**reverse, "moon": rows[:, 0]}))


def test_an_asyncio_client_keeps_many_requests_under_way(
    daemon: Daemon, trained: dict[str, Trained], rows: np.ndarray
) -> None:
    """200 rows at once over one client; each task gets its own row's prediction."""

    async def ask() -> list[float]:
        async with AsyncClient(daemon.data, timeout_s=10) as client:
            got = await asyncio.gather(*(client.predict(row) for row in rows))
        assert {one.version for one in got} == {"1.0.0"}
        return [float(one.values[0]) for one in got]

    assert asyncio.run(ask()) == trained["1.0.0"].booster.predict(rows, num_threads=1).tolist()


def test_a_killed_daemon_is_survived_by_asking_the_other(
    make_daemon: Callable[..., Daemon], registry: Registry, rows: np.ndarray
) -> None:
    """Two daemons on one registry; the first dies and comes back; no request fails, and health goes back to it."""
    first, second = make_daemon(registry.root).start(), make_daemon(registry.root).start()
    with Client([first.data, second.data], timeout_s=10, try_timeout_s=0.3) as client:
        assert client.predict(rows[0]).endpoint == first.data
        first.signal(signal.SIGKILL)
        assert [client.predict(row).endpoint for row in rows[:20]] == [second.data] * 20
        first.wait()
        first.start()
        assert client.predict(rows[0]).endpoint == second.data
        assert [line.ready for line in client.health()] == [True, True]
        assert client.predict(rows[0]).endpoint == first.data


def test_on_swap_is_called_for_a_promotion_and_a_rollback(daemon: Daemon, registry: Registry) -> None:
    """The thread of the blocking client and the task of the asyncio one are told the same."""
    threaded: list[Event] = []
    tasked: list[Event] = []

    async def listen() -> None:
        async with AsyncClient(daemon.data, timeout_s=10, events=daemon.events, on_swap=tasked.append):
            await asyncio.to_thread(promote_until_seen)

    def promote_until_seen() -> None:
        with daemon.client(events=daemon.events, on_swap=threaded.append), daemon.operator() as operator:
            # A subscription takes a moment to arrive: swaps are made until both have heard one.
            for _ in range(20):
                registry.promote("alpha:1.1.0", reason="next", actor="ann")
                operator.reload("alpha")
                operator.rollback("alpha", reason="back", mark_failed=False)
                if threaded and tasked:
                    break
            wait_until(lambda: threaded and tasked and threaded[-1] == tasked[-1])
            wait_until(lambda: threaded[-1].generation == daemon.model()["generation"])

    asyncio.run(listen())
    last = tasked[-1]
    assert (last.kind, last.from_version, last.to_version) == ("rollback", "1.1.0", "1.0.0")
    assert last.reason == "back"
