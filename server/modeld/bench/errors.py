"""What ends a benchmark early."""

from __future__ import annotations


class BenchError(Exception):
    """The benchmark couldn't go on, or would measure something else than it says; the message says why."""
