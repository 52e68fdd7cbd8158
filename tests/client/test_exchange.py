"""The tries of a request, decided without a socket or a clock."""

from __future__ import annotations

from typing import Any

import pytest

from modeld.client.codec import Reply
from modeld.client.errors import Busy, ProtocolError, RequestTimeout, ShapeMismatch
from modeld.client.exchange import CONNECT_S, PAUSE_S, Endpoints, Exchange, Survey

ID = 7


def exchange(servers: int = 2, **options: Any) -> Exchange[str]:
    made = Exchange(
        ID,
        [b"{}"],
        lambda reply, name: f"{name}:{reply.header['value']}",
        Endpoints([f"s{at}" for at in range(servers)]),
        **{"timeout_s": 3.0, "try_timeout_s": 1.0, "tries": servers, **options},
    )
    made.start(0.0)
    return made


def good(value: str = "v", request_id: int = ID) -> Reply:
    return Reply(request_id, {"value": value}, (), None)


def busy(request_id: int | None = ID) -> Reply:
    return Reply(request_id, {}, (), Busy("BUSY", "full", {"retryable": True}))


def test_the_first_server_is_asked_and_answers() -> None:
    """One try, one reply, nothing else is sent."""
    one = exchange()
    assert one.unsent == {0}
    one.sent(0, 0.0)
    assert one.wake_at == 1.0
    one.reply(0, good(), 0.1)
    assert one.over
    assert one.result() == "s0:v"


def test_silence_moves_on_and_the_late_reply_still_counts() -> None:
    """After try_timeout_s the next server is asked; the first one's reply is taken if it comes first."""
    one = exchange()
    one.sent(0, 0.0)
    one.time(1.0)
    assert one.unsent == {1}
    one.sent(1, 1.0)
    assert one.waiting_on == {0, 1}
    one.reply(0, good("late"), 1.5)
    assert one.result() == "s0:late"


def test_the_one_that_answered_is_asked_first_next_time() -> None:
    """Endpoints remember, across requests."""
    endpoints = Endpoints(["a", "b"])
    one = Exchange(ID, [], lambda _r, name: name, endpoints, timeout_s=2, try_timeout_s=1, tries=2)
    one.start(0.0)
    one.sent(0, 0.0)
    one.time(1.0)
    one.sent(1, 1.0)
    one.reply(1, good(), 1.1)
    again = Exchange(ID, [], lambda _r, name: name, endpoints, timeout_s=2, try_timeout_s=1, tries=2)
    again.start(2.0)
    assert again.unsent == {1}


def test_a_retryable_error_moves_on_at_once() -> None:
    """BUSY costs no timeout where there is another server."""
    one = exchange()
    one.sent(0, 0.0)
    one.reply(0, busy(), 0.1)
    assert one.unsent == {1}


def test_when_all_refuse_the_error_is_raised() -> None:
    """Tries are bounded: the last refusal is the outcome."""
    one = exchange()
    for at in (0, 1):
        one.sent(at, 0.0)
        one.reply(at, busy(), 0.1)
    with pytest.raises(Busy):
        one.result()


def test_a_refusal_with_an_older_try_open_waits_for_that() -> None:
    """The last try was refused, the first is still out: its reply, or at the end the refusal."""
    one, other = exchange(), exchange()
    for made in (one, other):
        made.sent(0, 0.0)
        made.time(1.0)
        made.sent(1, 1.0)
        made.reply(1, busy(), 1.1)
        assert not made.over
    one.reply(0, good(), 2.0)
    assert one.result() == "s0:v"
    other.time(3.0)
    with pytest.raises(Busy):
        other.result()


def test_after_a_round_of_refusals_there_is_a_pause() -> None:
    """Servers that are all busy aren't asked again in a loop."""
    one = exchange(1, tries=3)
    one.sent(0, 0.0)
    one.reply(0, busy(), 0.5)
    assert one.unsent == set()
    assert one.wake_at == pytest.approx(0.5 + PAUSE_S)
    one.time(one.wake_at)
    assert one.unsent == {0}
    one.sent(0, 0.6)
    one.reply(0, busy(), 0.7)
    assert one.wake_at == pytest.approx(0.7 + 2 * PAUSE_S)


def test_a_server_that_takes_nothing_is_passed_over_soon() -> None:
    """Without a connection the try isn't spent; the servers are offered the message in turn until the end."""
    one = exchange()
    now = 0.0
    for at in (0, 1, 0, 1, 0):
        assert one.unsent == {at}
        assert one.wake_at == pytest.approx(now + CONNECT_S)
        now = one.wake_at
        one.time(now)
    one.time(3.0)
    with pytest.raises(RequestTimeout, match="is modeld running there") as caught:
        one.result()
    assert not caught.value.sent


def test_the_last_try_waits_to_the_end() -> None:
    """No more tries than asked for; then the rest of timeout_s, and RequestTimeout."""
    one = exchange(2, tries=2)
    one.sent(0, 0.0)
    one.time(1.0)
    one.sent(1, 1.0)
    assert one.wake_at == 3.0
    one.time(2.9)
    assert not one.over
    one.time(3.0)
    with pytest.raises(RequestTimeout) as caught:
        one.result()
    assert caught.value.sent


def test_a_final_error_ends_it() -> None:
    """What another server would say too isn't asked twice."""
    one = exchange()
    one.sent(0, 0.0)
    one.reply(0, Reply(ID, {}, (), ShapeMismatch("SHAPE_MISMATCH", "24")), 0.1)
    with pytest.raises(ShapeMismatch):
        one.result()


def test_other_replies_change_nothing() -> None:
    """Another id; an answer without one; a reply from a server that wasn't asked."""
    one = exchange()
    one.sent(0, 0.0)
    one.reply(0, good(request_id=6), 0.1)
    one.reply(0, Reply(None, {}, (), None), 0.1)
    one.reply(1, good(), 0.1)
    assert not one.over


def test_a_reply_may_come_before_the_news_that_the_request_went_out() -> None:
    """With asyncio the two are told by different tasks."""
    one = exchange()
    one.reply(0, good(), 0.1)
    assert one.result() == "s0:v"


def test_an_unreadable_reply_is_raised() -> None:
    """Better said than waited out."""
    one = exchange()
    one.sent(0, 0.0)
    one.reply(0, Reply(None, {}, (), ProtocolError("garbage")), 0.1)
    with pytest.raises(ProtocolError):
        one.result()


def test_a_survey_asks_everybody_and_prefers_the_first_that_is_ready() -> None:
    """Not ready, silent, ready: each has its line, and the ready one is asked from then on."""
    endpoints = Endpoints(["a", "b", "c"])
    survey = Survey(ID, [], endpoints, timeout_s=1.0)
    survey.start(0.0)
    assert survey.unsent == {0, 1, 2}
    for at in (0, 1, 2):
        survey.sent(at, 0.0)
    survey.reply(0, Reply(ID, {"ready": False, "reason": "draining"}, (), None), 0.1)
    survey.reply(2, Reply(ID, {"ready": True}, (), None), 0.1)
    assert not survey.over
    survey.time(1.0)
    lines = [(line.endpoint, line.ready, line.reason) for line in survey.result()]
    assert lines == [("a", False, "draining"), ("b", False, "no answer within 1 s"), ("c", True, "")]
    assert endpoints.preferred == 2
