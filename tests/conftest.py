"""Every test leaves as many threads, child processes and open descriptors as it found; options of the whole run."""

from __future__ import annotations

import gc
import os
import sys
import threading
import time
from collections.abc import Iterator
from multiprocessing import resource_tracker

import psutil
import pytest
import zmq

#: What is still on its way out when a test ends gets this long. Seconds.
_GRACE_S = 2.0


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--campaign", type=int, default=1, help="How many times as long random campaigns run.")
    parser.addoption("--seed", type=int, default=1, help="The seed of tests/campaigns.")
    parser.addoption(
        "--results", help="A file to which tests/campaigns append their figures, one JSON line each."
    )


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """A long campaign takes as long as it takes."""
    if config.getoption("--campaign") > 1:
        for item in items:
            item.add_marker(pytest.mark.timeout(0), append=False)


@pytest.fixture(scope="session")
def campaign(request: pytest.FixtureRequest) -> int:
    """How many times as long random campaigns run."""
    return int(request.config.getoption("--campaign"))


def _open() -> set[str]:
    """Threads, children and descriptors of this process, as words."""
    found = {f"thread {thread.name} {thread.ident}" for thread in threading.enumerate()}
    for child in psutil.Process().children():
        try:
            found.add(f"process {child.pid} {child.name()}")
        except psutil.NoSuchProcess:
            continue
    for fd in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{fd}")
        except OSError:  # the listing's own, closed again
            continue
        if not target.startswith(sys.prefix):  # fonts that a library keeps open, say
            found.add(f"descriptor {fd} {target}")
    return found


@pytest.fixture(autouse=True, scope="session")
def _helpers_of_the_standard_library() -> None:
    """Start what stays until the interpreter ends, so that it isn't the fault of the test that needs it first."""
    resource_tracker.ensure_running()
    zmq.Context.instance().socket(zmq.PAIR).close()


@pytest.fixture(scope="session")
def pool_of_polars() -> None:
    """Start the threads that polars keeps, before a test is blamed for them."""
    import polars

    polars.DataFrame({"a": [1, 2]}).lazy().select(polars.col("a").cast(polars.Float64)).collect()


@pytest.fixture(autouse=True)
def _nothing_is_leaked() -> Iterator[None]:
    """Fail a test that leaves a thread, a child process or a descriptor behind."""
    before = _open()
    yield
    left = _open() - before
    if left:
        gc.collect()
    deadline = time.monotonic() + _GRACE_S
    while (left := _open() - before) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not left, f"left behind: {', '.join(sorted(left))}"
