"""What tests wait with: a condition and a limit, never a bare sleep."""

from __future__ import annotations

import time
from collections.abc import Callable


def wait_until(predicate: Callable[[], object], timeout_s: float = 20.0, poll_s: float = 0.005) -> None:
    """Return as soon as the predicate holds; AssertionError when it doesn't within `timeout_s` seconds."""
    deadline = time.monotonic() + timeout_s
    while not predicate():
        if time.monotonic() > deadline:
            raise AssertionError(f"not true within {timeout_s} s: {predicate}")
        time.sleep(poll_s)
