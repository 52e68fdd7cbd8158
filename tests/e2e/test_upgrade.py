"""One daemon takes over from another while clients ask: nothing is lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

import numpy as np
from tests.e2e.conftest import Daemon
from tests.registry.conftest import Trained
from tests.support import wait_until

from modeld.client import Client
from modelreg import Registry


def test_an_upgrade_by_two_instances_loses_nothing(
    make_daemon: Callable[..., Daemon], registry: Registry, trained: dict[str, Trained], rows: np.ndarray
) -> None:
    """Drain the first, start it anew, drain the second: the client's failover answers every request, all bit-equal."""
    first, second = make_daemon(registry.root).start(), make_daemon(registry.root)
    offline = trained["1.0.0"].booster.predict(rows, num_threads=1)
    values: list[float] = []
    errors: list[Exception] = []
    slowest_s = 0.0
    stop = threading.Event()

    def ask() -> None:
        nonlocal slowest_s
        with Client([first.data, second.data], timeout_s=20, try_timeout_s=2) as client:
            while not stop.is_set():
                began = time.monotonic()
                try:
                    values.append(float(client.predict(rows[len(values) % len(rows)]).values[0]))
                except Exception as e:  # noqa: BLE001 (whatever it is, the test fails on it)
                    errors.append(e)
                    return
                slowest_s = max(slowest_s, time.monotonic() - began)

    def more() -> None:
        seen = len(values)
        wait_until(lambda: errors or len(values) > seen + 100, 20)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        more()
        second.start()
        for old, new in ((first, first), (second, None)):
            with old.operator() as operator:
                operator.call("drain")
            assert old.wait() == 0
            more()
            if new is not None:
                new.start()
        more()
    finally:
        stop.set()
        thread.join()
    assert not errors
    assert all(value == offline[at % len(rows)] for at, value in enumerate(values))
    print(f"{len(values)} requests, 0 lost, slowest {slowest_s * 1000:.0f} ms")
