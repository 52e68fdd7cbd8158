"""The account as text: short, aligned, for people."""

from __future__ import annotations

import math
from collections.abc import Iterable

from modeld.demo.account import Account, Change


def render(account: Account) -> str:
    """The printed account, without the verdict."""
    return "\n".join(
        [
            "",
            f"{'what changed while the client streamed':<40}{'from command':>14}{'from commit':>14}",
            *(_change(change) for change in account.changes),
            *(
                f"  {change.step.version}: {change.step.note}"
                for change in account.changes
                if change.step.kind == "rejection" and change.step.note
            ),
            "",
            *_facts(
                ("requests sent", f"{account.sent:,}"),
                ("replies", f"{account.replies:,}"),
                ("errors", f"{account.errors:,}"),
                ("lost", f"{account.lost:,}"),
                (
                    "replies by version",
                    "   ".join(f"{v} {n:,}" for v, n in account.by_version.items()) or "none",
                ),
                ("bit-equal to offline Booster.predict", f"{account.bit_equal:,} of {account.replies:,}"),
            ),
            "",
            f"{'one-row latency':<40}{'requests':>10}{'p50 µs':>10}{'p99 µs':>10}{'max µs':>10}",
            *(
                f"  {w.title:<38}{w.requests:>10,}{_us(w.p50_us)}{_us(w.p99_us)}{_us(w.max_us)}"
                for w in account.windows
            ),
            "",
        ]
    )


def verdict(account: Account) -> str:
    """One line when every promise was kept, else one for each that wasn't."""
    if not account.broken:
        return "every promise was kept"
    return "\n".join(["BROKEN PROMISES", *(f"  - {promise}" for promise in account.broken)])


def _change(change: Change) -> str:
    step = change.step
    end: int | None
    if step.kind == "rejection":
        title, end = f"{step.version} rejected, {step.serves} never stopped", step.settled_ns
    else:
        title, end = f"{step.title}, first reply", change.first_reply_ns
    if end is None:
        return f"  {title:<38}{'never':>14}{'never':>14}"
    return f"  {title:<38}{_ms(step.started_ns, end):>14}{_ms(step.committed_ns, end):>14}"


def _ms(start_ns: int | None, end_ns: int) -> str:
    return "–" if start_ns is None else f"{(end_ns - start_ns) / 1e6:,.0f} ms"


def _us(value: float) -> str:
    return f"{'–':>10}" if math.isnan(value) else f"{value:>10,.0f}"


def _facts(*pairs: tuple[str, str]) -> Iterable[str]:
    return [f"{name:<40}{value}" for name, value in pairs]
