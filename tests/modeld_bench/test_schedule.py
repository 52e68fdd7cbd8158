"""Subjects take turns, and an open loop counts from when a request was due."""

from __future__ import annotations

import numpy as np
import pytest

from modeld.bench.errors import BenchError
from modeld.bench.figures import Sample
from modeld.bench.schedule import due_times_ns, interleave, open_loop_latencies_ns

NOTHING = np.empty(0, np.int64)


def test_subjects_take_turns_in_every_round() -> None:
    """A B A B A B, and each subject's samples come back in the order they were taken."""
    order: list[str] = []

    def measure(name: str) -> Sample:
        order.append(name)
        return Sample(NOTHING, np.array([len(order)]), 1.0, 0, 0, NOTHING)

    samples = interleave({"a": lambda: measure("a"), "b": lambda: measure("b")}, 3)
    assert order == ["a", "b", "a", "b", "a", "b"]
    assert [int(one.latency_ns[0]) for one in samples["b"]] == [2, 4, 6]


def test_a_subject_without_replies_ends_the_run_by_its_name() -> None:
    """A round without replies isn't left out silently."""
    empty = Sample(NOTHING, NOTHING, 1.0, 0, 0, NOTHING)
    with pytest.raises(BenchError, match="echo gave no reply in round 1"):
        interleave({"echo": lambda: empty}, 2)


def test_due_times_are_evenly_spaced_from_zero() -> None:
    """Four a second for a second: every quarter."""
    assert due_times_ns(4, 1.0).tolist() == [0, 250_000_000, 500_000_000, 750_000_000]


def test_a_short_open_loop_sends_at_least_once() -> None:
    """A rate too low for the time still sends one request."""
    assert due_times_ns(0.1, 1.0).tolist() == [0]


def test_due_times_do_not_drift() -> None:
    """The last of a million at an odd rate is where it belongs, to the nanosecond."""
    assert int(due_times_ns(333_333.3, 3.0)[-1]) == int(999_998 * (1e9 / 333_333.3))


def test_a_stall_counts_for_every_request_that_was_due_during_it() -> None:
    """The server stalls from 2 to 6 and then answers at once: whoever was due at 3 waited 3, at 4 waited 2, …"""
    due = np.arange(8)
    replied = np.array([1, 2, 6, 6, 6, 6, 7, 8]) + 0
    _, latency = open_loop_latencies_ns(due, replied)
    assert latency.tolist() == [1, 1, 4, 3, 2, 1, 1, 1]


def test_requests_without_a_reply_have_no_latency() -> None:
    """Lost requests are counted elsewhere, not as very fast ones."""
    due, latency = open_loop_latencies_ns(np.array([10, 20, 30]), np.array([15, 0, 31]))
    assert (due.tolist(), latency.tolist()) == ([10, 30], [5, 1])
