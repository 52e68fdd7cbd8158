"""The verdict: each promise, broken once, makes it fail."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from modeld.demo import picture
from modeld.demo.account import Account, Fact, Step, make_account
from modeld.demo.report import render, verdict
from modeld.demo.stream_log import ERROR, LOST, NONE, Recorder, StreamLog

MS = 1_000_000
ROWS = 50
OFFLINE = {"1.0.0": np.linspace(0, 1, ROWS), "1.1.0": np.linspace(5, 6, ROWS)}
#: Promoted after 1 s, first reply by the new version 100 ms later; rejected at 3 s; rolled back at 5 s.
STEPS = (
    Step("swap", "1.1.0", "1.1.0", 1000 * MS, 1060 * MS, 1110 * MS),
    Step("rejection", "1.2.0", "1.1.0", 3000 * MS, 3050 * MS, 3400 * MS, note="died of SIGSEGV"),
    Step("rollback", "1.0.0", "1.0.0", 5000 * MS, 5002 * MS, 5010 * MS),
)


def version_at(ms: int) -> tuple[str, int]:
    if ms < 1100:
        return "1.0.0", 1
    return ("1.1.0", 2 if ms < 3300 else 4) if ms < 5005 else ("1.0.0", 5)


def a_good_run() -> StreamLog:
    recorder = Recorder()
    for number, ms in enumerate(range(0, 7000, 5)):
        row = number % ROWS
        version, generation = version_at(ms)
        recorder.reply(row, ms * MS, ms * MS + 200_000, version, generation, OFFLINE[version][row])
    return recorder.log()


def judged(log: StreamLog, *facts: Fact) -> Account:
    return make_account(log, OFFLINE, "1.0.0", STEPS, facts)


def changed(log: StreamLog, index: int, **values: int) -> StreamLog:
    """The log with single entries of its arrays replaced."""
    arrays = {name: getattr(log, name).copy() for name in values}
    for name, value in values.items():
        arrays[name][index] = value
    return replace(log, **arrays)


def test_a_good_run_keeps_every_promise() -> None:
    """Counts, equality and first replies are those of the log, and nothing is broken."""
    account = judged(a_good_run(), Fact("it exits 0", True))
    assert account.broken == []
    assert (account.sent, account.replies, account.errors, account.lost) == (1400, 1400, 0, 0)
    assert account.by_version == {"1.0.0": 220 + 399, "1.1.0": 781}
    assert account.bit_equal == 1400
    first = [change.first_reply_ns for change in account.changes]
    assert first == [1100 * MS + 200_000, None, 5005 * MS + 200_000]


def lost(log: StreamLog) -> StreamLog:
    return replace(
        changed(log, 700, outcome=LOST, version=NONE, generation=NONE, bits=0),
        errors=("no reply within 5 s",),
    )


def error(log: StreamLog) -> StreamLog:
    return replace(
        changed(log, 700, outcome=ERROR, version=NONE, generation=NONE, bits=0), errors=("BUSY: full",)
    )


def one_bit(log: StreamLog) -> StreamLog:
    return changed(log, 700, bits=int(log.bits[700]) ^ 1)


def wrong_label(log: StreamLog) -> StreamLog:
    return changed(log, 700, version=log.versions.index("1.0.0"))


def back_and_forth(log: StreamLog) -> StreamLog:
    row = int(log.row[222])
    old = int(OFFLINE["1.0.0"][row : row + 1].view(np.uint64)[0])
    return changed(log, 222, version=0, generation=1, bits=old)


def two_versions_of_one_generation(log: StreamLog) -> StreamLog:
    return replace(log, generation=np.maximum(log.generation, 2))


def a_rejected_version_answered(log: StreamLog) -> StreamLog:
    return replace(changed(log, 640, version=2), versions=(*log.versions, "1.2.0"))


def never_swapped(log: StreamLog) -> StreamLog:
    early = log.sent_ns < 1100 * MS
    arrays = {
        name: getattr(log, name)[early]
        for name in ("row", "sent_ns", "replied_ns", "outcome", "version", "generation", "bits")
    }
    return replace(log, **arrays)


def nothing_at_all(_log: StreamLog) -> StreamLog:
    return Recorder().log()


@pytest.mark.parametrize(
    ("breakage", "named"),
    [
        (lost, "1 of 1400 got no reply: no reply within 5 s"),
        (error, "1 of 1400 requests got one: BUSY: full"),
        (one_bit, "bit-equal to offline, but 1 of 1.1.0"),
        (wrong_label, "bit-equal to offline, but 1 of 1.0.0"),
        (back_and_forth, "versions answer in the order"),
        (back_and_forth, "from an older one"),
        (two_versions_of_one_generation, "a generation is of one version"),
        (a_rejected_version_answered, "1.2.0 must never answer, but gave 1 replies"),
        (never_swapped, "none was replied in: steady on 1.1.0"),
        (never_swapped, "rollback to 1.0.0, but 1.0.0 never replied after it"),
        (nothing_at_all, "swap to 1.1.0, but 1.1.0 never replied"),
    ],
)
def test_a_broken_promise_is_named(breakage: Callable[[StreamLog], StreamLog], named: str) -> None:
    """One lost reply, one error, one wrong bit, one reply of another version: each fails the whole run."""
    account = judged(breakage(a_good_run()))
    assert any(named in promise for promise in account.broken), account.broken
    assert verdict(account).startswith("BROKEN PROMISES")
    assert named in verdict(account)


def test_a_fact_that_does_not_hold_is_named() -> None:
    """What the run saw for itself counts as much as what the stream shows."""
    account = judged(a_good_run(), Fact("the daemon exits 0", False))
    assert account.broken == ["the daemon exits 0: it isn't so"]


def test_nan_is_equal_to_the_same_nan_only() -> None:
    """Equality is of bits, so that a NaN or a minus zero can't hide a difference."""
    recorder = Recorder()
    recorder.reply(0, 0, 1, "1.0.0", 1, 0.0)
    account = make_account(recorder.log(), {"1.0.0": np.array([-0.0])}, "1.0.0", ())
    assert account.bit_equal == 0


def test_windows_cover_every_request_once() -> None:
    """Before, during and after follow one another without a gap or an overlap."""
    account = judged(a_good_run())
    assert sum(window.requests for window in account.windows) == account.sent
    assert [window.title for window in account.windows] == [
        "steady on 1.0.0",
        "during swap to 1.1.0",
        "steady on 1.1.0",
        "during rejection of 1.2.0",
        "steady on 1.1.0",
        "during rollback to 1.0.0",
        "steady on 1.0.0",
    ]
    assert account.windows[0].p50_us == 200


def test_the_printed_account() -> None:
    """It says times from the command and from the commit, counts, versions, equality and latencies."""
    account = judged(a_good_run())
    text = render(account)
    for part in (
        "100 ms",
        "40 ms",
        "1,400",
        "1,400 of 1,400",
        "1.1.0 781",
        "died of SIGSEGV",
        "during rollback",
    ):
        assert part in text
    assert max(len(line) for line in text.splitlines()) <= 100
    assert verdict(account) == "every promise was kept"


def test_the_log_survives_its_file(tmp_path: Path) -> None:
    """What the client's process writes is what the judging process reads, a failure's text included."""
    log = error(a_good_run())
    log.save(tmp_path / "log.npz")
    again = StreamLog.load(tmp_path / "log.npz")
    assert (again.versions, again.errors) == (log.versions, log.errors)
    assert again.bits.tobytes() == log.bits.tobytes()
    assert judged(again) == judged(log)


def test_the_picture_is_a_png_where_matplotlib_is_there(tmp_path: Path) -> None:
    """With the plots extra a PNG is written; without it the demo says how to get it and goes on."""
    log = error(a_good_run())
    path = tmp_path / "latency.png"
    if picture.draw(log, judged(log), path):
        assert path.read_bytes().startswith(b"\x89PNG")
    else:
        assert not path.exists()
    assert "pip install 'modeld[plots]'" in picture.MISSING
