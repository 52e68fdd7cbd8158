"""Schedules by their seeds: `python -m tests.simulation.run FIRST [LAST]` runs them, a failure prints its trace.

It is how a seed that failed is replayed, and how a campaign is run on several cores.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from unittest import mock

from tests.simulation.front import NoCollector
from tests.simulation.workers import plans_of
from tests.simulation.world import World

from modeld.front import daemon as daemon_module
from modeld.front import proofs

#: What an operator, a disk or a machine does in one schedule, a thing a step.
STEPS = 14
#: The daemon's ticks: fewer than in life, for a schedule is a minute long. Seconds.
_TICK_S = 0.5


@contextlib.contextmanager
def simulated() -> Iterator[None]:
    """Thousands of daemons share this interpreter: none may freeze its objects; and their plans are only functions."""
    with (
        mock.patch.multiple(daemon_module, gc=NoCollector(), _TICK_S=_TICK_S),
        mock.patch.multiple(proofs, checked=plans_of, inline_rows=lambda *_: (32, "")),
    ):
        yield


def run(seed: int, world: type[World] = World) -> World:
    """Raises AssertionError with the schedule in its notes where a promise is broken."""
    made = world(seed)
    try:
        made.run(STEPS)
    except Exception as e:
        e.add_note(f"seed {seed}\n" + "\n".join(made.trace))
        raise
    finally:
        made.front.crash()
    return made


def main() -> None:
    first = int(sys.argv[1])
    last = int(sys.argv[2]) if len(sys.argv) > 2 else first
    began = time.monotonic()
    with simulated():
        for seed in range(first, last + 1):
            run(seed)
    print(
        f"seeds {first} to {last}: {last - first + 1} schedules, none broke a promise, {time.monotonic() - began:.0f} s"
    )


if __name__ == "__main__":
    main()
