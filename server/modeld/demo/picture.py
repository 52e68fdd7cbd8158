"""One picture of the run: each request's latency over time, coloured by the version that replied."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from modeld.demo.account import Account
from modeld.demo.stream_log import REPLY, StreamLog

#: Told when matplotlib isn't installed.
MISSING = "no picture: matplotlib isn't installed; pip install 'modeld[plots]' brings it"

VERSION_COLOURS = ("#2b6cb0", "#dd6b20", "#2f855a", "#805ad5")
MARK_COLOURS = {"swap": "#1a202c", "rejection": "#c53030", "rollback": "#1a202c"}


def draw(log: StreamLog, account: Account, path: Path) -> bool:
    """Write the picture as PNG; False, and nothing written, when matplotlib isn't installed."""
    try:
        import matplotlib
    except ImportError:
        return False
    matplotlib.use("Agg")
    from matplotlib import pyplot

    start_ns = int(log.sent_ns[0]) if len(log.sent_ns) else 0
    seconds = (log.sent_ns - start_ns) / 1e9
    latency_us = np.maximum((log.replied_ns - log.sent_ns) / 1000, 1)
    figure, axes = pyplot.subplots(figsize=(12, 5.5), dpi=110, layout="constrained")
    for index, name in enumerate(log.versions):
        mine = log.version == index
        colour = VERSION_COLOURS[index % len(VERSION_COLOURS)]
        label = f"{name} ({int(mine.sum()):,} replies)"
        axes.scatter(
            seconds[mine], latency_us[mine], s=3, alpha=0.45, linewidths=0, color=colour, label=label
        )
    failed = log.outcome != REPLY
    if failed.any():
        label = f"error or lost ({int(failed.sum()):,})"
        axes.scatter(seconds[failed], latency_us[failed], s=30, marker="x", color="#c53030", label=label)
    for change in account.changes:
        step = change.step
        colour = MARK_COLOURS[step.kind]
        begin = (step.started_ns - start_ns) / 1e9
        end = ((change.first_reply_ns or step.settled_ns) - start_ns) / 1e9
        axes.axvspan(begin, end, color=colour, alpha=0.08, linewidth=0)
        axes.axvline(end, color=colour, linewidth=1.2, linestyle="--" if step.kind == "rejection" else "-")
        axes.annotate(
            f"{step.title}\n{(end - begin) * 1000:,.0f} ms",
            (end, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(4, -4),
            textcoords="offset points",
            va="top",
            fontsize=9,
            color=colour,
        )
    axes.set_yscale("log")
    if len(latency_us):
        # Room above for the labels of the steps, and below for the legend.
        axes.set_ylim(latency_us.min() * 0.4, latency_us.max() * 6)
    axes.set_xlabel("seconds since the first request")
    axes.set_ylabel("one-row latency, µs (log scale)")
    axes.set_title(
        f"{account.sent:,} requests while models were swapped, rejected and rolled back: "
        f"{account.errors} errors, {account.lost} lost"
    )
    axes.grid(True, which="major", alpha=0.3)
    axes.legend(loc="lower right", ncols=4, markerscale=4, framealpha=0.9)
    figure.savefig(path)
    pyplot.close(figure)
    return True
