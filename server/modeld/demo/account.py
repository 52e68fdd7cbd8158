"""From what was seen to an account and a verdict: pure functions, so that each promise can be tested broken.

The promises: each request gets one reply; each reply is bit-equal to what the version that it names predicts
offline; versions change in the order in which they were promoted and never back and forth; a generation is of
one version; the rejected version never answers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from modeld.demo.stream_log import ERROR, LOST, REPLY, StreamLog

#: Nanoseconds after a step that still count as "during" it.
AFTERMATH_NS = 250_000_000


@dataclass(frozen=True, slots=True)
class Step:
    """Something that was done while the stream ran. Times are monotonic ns.

    Attributes:
        kind: a swap by promotion, a candidate that is rejected, or an operator's rollback.
        version: the version that the step is about.
        serves: the version that has to answer once the step is over.
        started_ns: just before the command was started, or the message sent.
        committed_ns: when the registry's record was written; None where that isn't known.
        settled_ns: when the daemon and the registry both said that it is over.
        note: what to add in the account, a rejection's reason for example.
    """

    kind: Literal["swap", "rejection", "rollback"]
    version: str
    serves: str
    started_ns: int
    committed_ns: int | None
    settled_ns: int
    note: str = ""

    @property
    def title(self) -> str:
        """As the account and the picture call it."""
        return {
            "swap": f"swap to {self.version}",
            "rejection": f"rejection of {self.version}",
            "rollback": f"rollback to {self.version}",
        }[self.kind]


@dataclass(frozen=True, slots=True)
class Fact:
    """Something that the run looked at directly, as a promise, and whether it held."""

    promise: str
    held: bool


@dataclass(frozen=True, slots=True)
class Change:
    """A step and the first reply by the version that it serves; None for none, or for a rejection."""

    step: Step
    first_reply_ns: int | None


@dataclass(frozen=True, slots=True)
class Window:
    """A stretch of time and the latencies of the requests sent in it, in µs; NaN without a reply."""

    title: str
    start_ns: int
    end_ns: int
    requests: int
    p50_us: float
    p99_us: float
    max_us: float


@dataclass(frozen=True, slots=True)
class Account:
    """What happened. `broken` names each promise that wasn't kept; empty is success."""

    sent: int
    replies: int
    errors: int
    lost: int
    by_version: Mapping[str, int]
    bit_equal: int
    changes: Sequence[Change]
    windows: Sequence[Window]
    broken: Sequence[str]


def make_account(
    log: StreamLog,
    offline: Mapping[str, NDArray[np.float64]],
    first_version: str,
    steps: Sequence[Step],
    facts: Sequence[Fact] = (),
) -> Account:
    """Judge a stream.

    Args:
        log: what the client saw.
        offline: each good version's predictions of all held-out rows, float64 `[rows]`.
        first_version: what served before the first step.
        steps: what was done, in order.
        facts: what the run saw for itself; those that didn't hold join `broken`.
    """
    broken: list[str] = []
    counts = {outcome: int((log.outcome == outcome).sum()) for outcome in (REPLY, ERROR, LOST)}
    texts = f": {'; '.join(log.errors[:3])}" if log.errors else ""
    if counts[ERROR]:
        broken.append(f"no errors, but {counts[ERROR]} of {len(log.row)} requests got one{texts}")
    if counts[LOST]:
        broken.append(f"no lost requests, but {counts[LOST]} of {len(log.row)} got no reply{texts}")
    by_version = {name: int((log.version == index).sum()) for index, name in enumerate(log.versions)}
    equal = _bit_equal(log, offline)
    broken += _wrong_bits(log, equal, offline)
    broken += _wrong_order(log, first_version, steps)
    changes = [Change(step, _first_reply(log, step)) for step in steps]
    broken += [
        f"{change.step.title}, but {change.step.serves} never replied after it"
        for change in changes
        if change.first_reply_ns is None and change.step.kind != "rejection"
    ]
    windows = _windows(log, first_version, changes)
    broken += [
        f"requests all the time, but none was replied in: {w.title}" for w in windows if np.isnan(w.p50_us)
    ]
    broken += [f"{fact.promise}: it isn't so" for fact in facts if not fact.held]
    return Account(
        sent=len(log.row),
        replies=counts[REPLY],
        errors=counts[ERROR],
        lost=counts[LOST],
        by_version=by_version,
        bit_equal=int(equal.sum()),
        changes=changes,
        windows=windows,
        broken=broken,
    )


def _bit_equal(log: StreamLog, offline: Mapping[str, NDArray[np.float64]]) -> NDArray[np.bool_]:
    """For each request: was there a reply with exactly the bits that its own version predicts offline?"""
    equal = np.zeros(len(log.row), dtype=np.bool_)
    for index, name in enumerate(log.versions):
        if name in offline:
            mine = log.version == index
            equal[mine] = log.bits[mine] == offline[name].view(np.uint64)[log.row[mine]]
    return equal


def _wrong_bits(
    log: StreamLog, equal: NDArray[np.bool_], offline: Mapping[str, NDArray[np.float64]]
) -> list[str]:
    wrong = (log.outcome == REPLY) & ~equal
    broken = []
    for index, name in enumerate(log.versions):
        count = int((wrong & (log.version == index)).sum())
        if count and name in offline:
            broken.append(f"replies are bit-equal to offline, but {count:,} of {name} aren't")
        elif count:
            broken.append(f"{name} must never answer, but gave {count:,} replies")
    return broken


def _wrong_order(log: StreamLog, first_version: str, steps: Sequence[Step]) -> list[str]:
    """Versions answer in the order of the steps; generations only grow, and each is of one version."""
    replied = log.outcome == REPLY
    version, generation = log.version[replied], log.generation[replied]
    broken = []
    expected = [first_version]
    for step in steps:
        if step.serves != expected[-1]:
            expected.append(step.serves)
    order = version[np.flatnonzero(np.diff(version, prepend=-1))]
    seen = [log.versions[index] for index in order]
    if seen != expected:
        broken.append(f"versions answer in the order {' → '.join(expected)}, but it was {_shortened(seen)}")
    if (np.diff(generation) < 0).any():
        broken.append("generations only grow, but a reply came from an older one than the reply before it")
    mixed = [int(g) for g in np.unique(generation) if len(np.unique(version[generation == g])) > 1]
    if mixed:
        broken.append(f"a generation is of one version, but {mixed[:5]} answered with several")
    return broken


def _shortened(names: Sequence[str], limit: int = 8) -> str:
    return (
        " → ".join(names[:limit]) + (f" … ({len(names)} changes)" if len(names) > limit else "") or "nothing"
    )


def _first_reply(log: StreamLog, step: Step) -> int | None:
    if step.kind == "rejection" or step.serves not in log.versions:
        return None
    times = log.replied_ns[
        (log.version == log.versions.index(step.serves)) & (log.replied_ns > step.started_ns)
    ]
    return int(times.min()) if len(times) else None


def _windows(log: StreamLog, first_version: str, changes: Sequence[Change]) -> list[Window]:
    """Steady, during, steady, during, …, steady: "during" ends a moment after the step is over."""
    if not len(log.row):
        return []
    windows = []
    start, version = int(log.sent_ns[0]), first_version
    for change in changes:
        step = change.step
        end = (change.first_reply_ns or step.settled_ns) + AFTERMATH_NS
        windows.append(_window(log, f"steady on {version}", start, step.started_ns))
        windows.append(_window(log, f"during {step.title}", step.started_ns, end))
        start, version = end, step.serves
    windows.append(_window(log, f"steady on {version}", start, int(log.sent_ns[-1]) + 1))
    return windows


def _window(log: StreamLog, title: str, start_ns: int, end_ns: int) -> Window:
    sent = (log.sent_ns >= start_ns) & (log.sent_ns < end_ns)
    replied = sent & (log.outcome == REPLY)
    latency_us = (log.replied_ns[replied] - log.sent_ns[replied]) / 1000
    if not len(latency_us):
        return Window(title, start_ns, end_ns, int(sent.sum()), np.nan, np.nan, np.nan)
    p50, p99 = np.percentile(latency_us, [50, 99])
    return Window(title, start_ns, end_ns, int(sent.sum()), float(p50), float(p99), float(latency_us.max()))
