"""`/metrics` for Prometheus: the daemon's counters, asked for at scrape time, the registry's state, and the gateway's
own requests. A daemon or a registry that doesn't answer is a metric too, not a failed scrape.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from modeld import __version__
from modeld.client.errors import ModeldError
from modeld.front.stats import lower_bound_us
from modeld.http.gateway import Gateway
from modelreg.errors import RegistryError

#: Upper bounds of the histograms' buckets, µs. The daemon's own are finer.
_BOUNDS_US = (
    10, 20, 30, 50, 75, 100, 150, 200, 300, 500, 750, 1000, 2000, 5000, 10_000, 20_000, 50_000, 100_000,
    500_000, 1_000_000,
)  # fmt: skip
#: Upper bounds for the gateway's own requests. Seconds.
_HTTP_BOUNDS_S = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 30)
#: A scrape doesn't wait longer for the daemon. Seconds.
_TIMEOUT_S = 2.0

#: The daemon's events as counters: kind → name and meaning.
_EVENTS = {
    "swap": ("modeld_swaps", "Versions swapped in."),
    "rejected": ("modeld_rejections", "Candidates rejected by their trial."),
    "rollback": ("modeld_rollbacks", "Rollbacks, the daemon's own and operators'."),
}


class Metrics:
    """The gateway's own counters, and the handler of a scrape. For one event loop."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway
        self._own = CollectorRegistry()
        self._requests = Counter(
            "modeld_http_requests",
            "Requests to the gateway.",
            ["handler", "method", "status"],
            registry=self._own,
        )
        self._seconds = Histogram(
            "modeld_http_request_duration_seconds", "From the request's head to the last byte of the answer.",
            ["handler"], registry=self._own, buckets=_HTTP_BOUNDS_S,
        )  # fmt: skip
        self._children: dict[tuple[str, str, int], tuple[Counter, Histogram]] = {}

    def count(self, handler: str, method: str, status: int, seconds: float) -> None:
        """One answer. Handlers are ours and few; what matched none is `none`."""
        key = (handler, method, status)
        found = self._children.get(key)
        if found is None:
            found = self._requests.labels(handler, method, str(status)), self._seconds.labels(handler)
            self._children[key] = found
        found[0].inc()
        found[1].observe(seconds)

    async def scrape(self, request: Request) -> Response:
        gateway = self._gateway
        gateway.keeper.open_to_all(request.headers.get("authorization"))
        status = stats = None
        try:
            status = (await gateway.admin.call("status", timeout_s=_TIMEOUT_S)).header
            stats = (await gateway.admin.call("stats", timeout_s=_TIMEOUT_S)).header
        except ModeldError:
            pass  # modeld_up says so
        families = [*_daemon(status, stats), *await run_in_threadpool(_registry, gateway)]
        once = CollectorRegistry()
        once.register(_Given(families))
        return Response(generate_latest(once) + generate_latest(self._own), media_type=CONTENT_TYPE_LATEST)


class _Given(Collector):
    """Families that are there already, for the exposition."""

    def __init__(self, families: Iterable[Metric]) -> None:
        self._families = list(families)

    def collect(self) -> Iterator[Metric]:
        return iter(self._families)


def _daemon(status: Mapping[str, Any] | None, stats: Mapping[str, Any] | None) -> Iterator[Metric]:
    yield GaugeMetricFamily("modeld_up", "Whether the daemon answers.", value=float(stats is not None))
    build = InfoMetricFamily("modeld_build", "The gateway's version.")
    build.add_metric([], {"version": __version__})
    yield build
    if status is None or stats is None:
        return
    yield GaugeMetricFamily("modeld_ready", "Whether every model is served.", value=float(status["ready"]))
    yield GaugeMetricFamily("modeld_uptime_seconds", "Since the daemon's start.", value=stats["uptime_s"])
    degraded = GaugeMetricFamily(
        "modeld_degraded",
        "What isn't whole: a part of the daemon, or a model; modeld status says why.",
        labels=["reason"],
    )
    # What follows the colon is free text: each would be a time series of its own.
    for reason in sorted({told.partition(":")[0] for told in status["degraded"]}):
        degraded.add_metric([reason], 1)
    yield degraded
    yield from _served(status["models"])
    yield from _counted(stats)


def _served(models: list[Mapping[str, Any]]) -> Iterator[Metric]:
    info = InfoMetricFamily("modeld_model", "The version that serves.", labels=["model"])
    generation = GaugeMetricFamily("modeld_model_generation", "Grows with every decision.", labels=["model"])
    serving = GaugeMetricFamily("modeld_model_serving", "Whether a version serves.", labels=["model"])
    held = GaugeMetricFamily("modeld_model_held", "Whether swaps are frozen.", labels=["model"])
    for each in models:
        name = [each["model_name"]]
        serving.add_metric(name, float(each["version"] is not None))
        held.add_metric(name, float(each["held"] is not None))
        if each["version"] is not None:
            generation.add_metric(name, each["generation"])
            told = {key: str(each[key]) for key in ("version", "digest", "channel", "path")}
            info.add_metric(name, told)
    yield from (info, generation, serving, held)


def _counted(stats: Mapping[str, Any]) -> Iterator[Metric]:
    requests = CounterMetricFamily("modeld_requests", "Predictions asked for.", labels=["model"])
    errors = CounterMetricFamily(
        "modeld_errors", "Error replies; no model: refused before it was computed.", labels=["model", "code"]
    )
    pending = GaugeMetricFamily("modeld_queue_requests", "Admitted and not yet answered.", labels=["model"])
    histograms = {
        key: HistogramMetricFamily(name, told, labels=["model"])
        for key, name, told in (
            ("latency_us", "modeld_latency_seconds", "From admission to reply."),
            ("predict_us", "modeld_predict_seconds", "Computing alone."),
        )
    }
    events = {kind: CounterMetricFamily(*named, labels=["model"]) for kind, named in _EVENTS.items()}
    for model, each in stats["models"].items():
        requests.add_metric([model], each["requests"])
        pending.add_metric([model], each.get("pending", 0))
        for code, count in sorted(each["errors"].items()):
            errors.add_metric([model, code], count)
        for key, family in histograms.items():
            family.add_metric([model], *_buckets(each[key]))
        for kind, counter in events.items():
            counter.add_metric([model], each.get("events", {}).get(kind, 0))
    # What was refused before a model was known.
    for code, count in sorted(stats["errors"].items()):
        errors.add_metric(["", code], count)
    yield from (requests, errors, pending, *histograms.values(), *events.values())
    for key, told in (
        ("dropped_replies", "Replies that no client took."),
        ("dropped_messages", "Messages without a body."),
        ("zygote_restarts", "Restarts of the process that makes workers."),
    ):
        yield CounterMetricFamily(f"modeld_{key}", told, value=stats[key])


def _buckets(counts: Mapping[str, int]) -> tuple[list[tuple[str, float]], float]:
    """Cumulative counts by upper bound in seconds, and the sum, as exact as the daemon's buckets."""
    found = [0] * (len(_BOUNDS_US) + 1)
    total_us = 0
    for at, count in counts.items():
        us = lower_bound_us(int(at))
        found[bisect_left(_BOUNDS_US, us)] += count
        total_us += us * count
    cumulative, buckets = 0, []
    for bound, count in zip((*_BOUNDS_US, None), found, strict=True):
        cumulative += count
        buckets.append(("+Inf" if bound is None else repr(bound / 1e6), float(cumulative)))
    return buckets, total_us / 1e6


def _registry(gateway: Gateway) -> list[Metric]:
    up = GaugeMetricFamily("modelreg_up", "Whether the registry can be read.")
    versions = GaugeMetricFamily("modelreg_versions", "Versions by status.", labels=["model", "status"])
    records = GaugeMetricFamily("modelreg_records", "Records of the model's log.", labels=["model"])
    broken = GaugeMetricFamily("modelreg_read_only", "Whether the model's log is damaged.", labels=["model"])
    if gateway.config.source.kind != "registry":
        return []
    try:
        registry = gateway.registry()
        states = [registry.state(name) for name in registry.models()]
    except RegistryError:
        up.add_metric([], 0)
        return [up]
    up.add_metric([], 1)
    for state in states:
        for status, count in sorted(Tally(version.status for version in state.versions.values()).items()):
            versions.add_metric([state.name, status], count)
        records.add_metric([state.name], state.seq)
        broken.add_metric([state.name], float(state.broken is not None))
    return [up, versions, records, broken]
