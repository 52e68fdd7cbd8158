"""The time after a swap: how long it takes, and what it doesn't forgive."""

from __future__ import annotations

from modeld.swap.probation import Probation, Terms


class Clock:
    def __init__(self) -> None:
        self.ns = 0

    def __call__(self) -> int:
        return self.ns

    def advance(self, seconds: float) -> None:
        self.ns += int(seconds * 1e9)


def begun(**terms: float) -> tuple[Probation, Clock]:
    clock = Clock()
    probation = Probation(Terms(**{"seconds": 30.0, "requests": 1000, **terms}), clock)  # type: ignore[arg-type]
    probation.begin()
    return probation, clock


def test_it_is_passed_once_with_the_first_of_its_two_limits() -> None:
    """Seconds or replies; nothing before it began, and nothing after."""
    assert not Probation(Terms(), Clock()).passed()
    probation, clock = begun(requests=3)
    for _ in range(3):
        assert not probation.passed()
        assert probation.replied(10) is None
    assert (probation.on, probation.passed(), probation.passed()) == (False, True, False)
    probation, clock = begun()
    clock.advance(30)
    assert (probation.on, probation.passed(), probation.passed()) == (False, True, False)
    probation, _ = begun()
    probation.end()
    assert (probation.on, probation.passed(), probation.replied(10**9), probation.erred()) == (
        False,
        False,
        None,
        None,
    )


def test_errors_over_the_rate_fail_it_within_a_second() -> None:
    """Few requests: the next look after a second finds the share too high."""
    probation, clock = begun(max_error_rate=0.01)
    for _ in range(20):
        assert probation.replied(10) is None
    assert probation.erred() is None
    assert probation.tick() is None
    clock.advance(1)
    assert probation.tick() == "1 of 21 requests failed, probation.max_error_rate is 0.01"


def test_errors_over_the_rate_fail_it_within_a_hundred_replies() -> None:
    """Many requests: as soon as no reply that is still to come could make up for the errors."""
    probation, _ = begun(max_error_rate=0.05)
    for _ in range(5):
        assert probation.erred() is None
        assert probation.replied(10) is None
    assert probation.erred() == "6 of 11 requests failed, probation.max_error_rate is 0.05"


def test_errors_within_the_rate_do_not_fail_it() -> None:
    """One in a hundred is what the default allows; the next hundred count anew."""
    probation, clock = begun(max_error_rate=0.01)
    for _ in range(5):
        assert probation.erred() is None
        assert [probation.replied(10) for _ in range(99)] == [None] * 99
    clock.advance(1)
    assert probation.tick() is None


def test_a_rate_of_one_is_no_limit() -> None:
    """Whatever fails."""
    probation, clock = begun(max_error_rate=1.0)
    assert [probation.erred() for _ in range(500)] == [None] * 500
    clock.advance(1)
    assert probation.tick() is None


def test_latency_over_the_budget_fails_it() -> None:
    """The p99 of a hundred replies, or after a second of those there are, from twenty on."""
    probation, _ = begun(max_p99_us=500)
    assert [probation.replied(100) for _ in range(98)] == [None] * 98
    assert probation.replied(900) is None
    assert probation.replied(900) == "p99 of 100 replies is 900 µs, probation.max_p99_us is 500"
    probation, clock = begun(max_p99_us=500)
    assert [probation.replied(900) for _ in range(19)] == [None] * 19
    clock.advance(1)
    assert probation.tick() is None
    assert probation.replied(900) is None
    clock.advance(1)
    assert "p99 of 20 replies is 900 µs" in (probation.tick() or "")


def test_one_slow_reply_in_a_hundred_is_within_the_budget() -> None:
    """That is what a p99 says."""
    probation, _ = begun(max_p99_us=500)
    assert [probation.replied(900 if at == 50 else 100) for at in range(100)] == [None] * 100
