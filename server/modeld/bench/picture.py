"""Histograms of the latencies: the daemon's beside the echo's, a panel for each case."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from modeld.bench.errors import BenchError
from modeld.bench.measure import CaseResult

#: Told when matplotlib isn't installed.
MISSING = "--picture needs matplotlib, which isn't installed: pip install 'modeld[plots]' brings it"
#: Panels at most: more can't be read.
MAX_PANELS = 12
COLOURS = {"daemon": "#2b6cb0", "echo": "#a0aec0", "offline": "#dd6b20"}


def check() -> None:
    """Raises BenchError where there is no matplotlib: better before the measurement than after it."""
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        raise BenchError(MISSING) from None


def draw(results: list[CaseResult], path: Path) -> None:
    """Write the picture as PNG; the first MAX_PANELS cases."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    shown = results[:MAX_PANELS]
    columns = min(len(shown), 2)
    figure, grid = pyplot.subplots(
        math.ceil(len(shown) / columns),
        columns,
        figsize=(7 * columns, 3 * math.ceil(len(shown) / columns)),
        dpi=110,
        layout="constrained",
        squeeze=False,
    )
    for axes in grid.flat[len(shown) :]:
        axes.set_visible(False)
    for axes, result in zip(grid.flat, shown, strict=False):
        pooled = {
            name: np.concatenate([one.latency_ns for one in rounds]) / 1000
            for name, rounds in result.samples.items()
        }
        low = min(values.min() for values in pooled.values())
        high = max(np.quantile(values, 0.9995) for values in pooled.values())
        bins = np.geomspace(max(low * 0.9, 0.1), max(high * 1.1, low * 1.2), 120)
        for name, values in pooled.items():
            p50, p99 = np.quantile(values, (0.5, 0.99))
            axes.hist(
                values,
                bins=bins,
                weights=np.full(len(values), 1 / len(values)),
                color=COLOURS[name],
                alpha=0.7,
                label=f"{name}: p50 {p50:,.0f} µs, p99 {p99:,.0f} µs",
            )
            axes.axvline(p99, color=COLOURS[name], linewidth=1, linestyle="--")
        axes.set_xscale("log")
        axes.set_title(result.case.label, fontsize=10)
        axes.set_xlabel("latency, µs (log scale); dashed: p99")
        axes.set_ylabel("share of requests")
        axes.legend(fontsize=8)
    try:
        figure.savefig(path)
    except OSError as error:
        raise BenchError(f"can't write the picture: {error}") from error
    finally:
        pyplot.close(figure)
