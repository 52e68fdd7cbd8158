"""When things happen: the order of subjects within a run, and an open loop's due times. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from modeld.bench.errors import BenchError
from modeld.bench.figures import Sample

Measure = Callable[[], Sample]


def turns(subjects: Mapping[str, Measure], rounds: int) -> Iterator[tuple[int, str, Measure]]:
    """A B A B …: every subject once per round, in the order given.

    The machine's mood (other processes, clock frequency, temperature) then falls on all subjects alike.
    """
    for number in range(rounds):
        for name, measure in subjects.items():
            yield number, name, measure


def interleave(subjects: Mapping[str, Measure], rounds: int) -> dict[str, list[Sample]]:
    """Measure every subject once per round; each subject's samples, by round.

    Raises:
        BenchError: a subject gave no reply in a round.
    """
    samples: dict[str, list[Sample]] = {name: [] for name in subjects}
    for number, name, measure in turns(subjects, rounds):
        sample = measure()
        if not len(sample.latency_ns):
            raise BenchError(f"{name} gave no reply in round {number + 1}: lengthen --seconds")
        samples[name].append(sample)
    return samples


def due_times_ns(per_second: float, seconds: float) -> NDArray[np.int64]:
    """An open loop's due times, ns from its start: `per_second * seconds` of them, at least one."""
    count = max(int(per_second * seconds + 1e-9), 1)
    return (np.arange(count) * (1e9 / per_second)).astype(np.int64)


def open_loop_latencies_ns(
    due_ns: NDArray[np.int64], replied_ns: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Latencies counted from the due times, which corrects for coordinated omission.

    A generator that was held up by a slow server sends late; counted from when a request was *sent*, all that
    waiting would be omitted. Counted from when it was *due*, it is in the figure, as it is for somebody who
    can't choose when the market moves (Gil Tene, "How NOT to Measure Latency").

    Args:
        due_ns: when each request was due.
        replied_ns: when its reply came; 0 where none did.

    Returns:
        The due times and latencies of the requests that had a reply.
    """
    there = replied_ns > 0
    return due_ns[there], replied_ns[there] - due_ns[there]
