"""What operators see of a daemon: `status` and `stats`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any

from modeld.front.data import Served
from modeld.swap.policy import State

if TYPE_CHECKING:
    from modeld.front.daemon import Daemon


def status(daemon: Daemon) -> dict[str, Any]:
    """The admin socket's `status`."""
    degraded = [f"source: {daemon.source.error}"] if daemon.source.error else []
    if daemon.source.watching in ("restarting", "not answering"):
        degraded.append(f"watcher: {daemon.source.watching}")
    if short := daemon.descriptors.short:
        degraded.append(
            f"descriptors: connections took too many; none are accepted for now at {', '.join(short)}"
        )
    if daemon.guard.stale:
        degraded.append(f"allow_list: {daemon.guard.stale}")
    degraded += [f"{name}: read-only: {why}" for name, why in sorted(daemon.source.broken.items())]
    lines = []
    workers = []
    for name, served in sorted(daemon.models.items()):
        slot = served.slot
        degraded += [f"{name}: {why}" for why in slot.degraded.values()]
        if slot.service.condemned is not None:
            degraded.append(f"{name}: probation: {slot.service.condemned}, and nothing warm to fall back to")
        lines.append(_model_status(daemon, name, served))
        workers += [
            {
                "model_name": name,
                "version": one.contract.version,
                "pid": lane.channel.pid,
                "state": str(one.state),
            }
            for one in slot.residents()
            for lane in one.lanes
        ]
    return {
        "models": lines,
        "ready": daemon.ready
        and bool(daemon.models)
        and all(served.slot.serving is not None for served in daemon.models.values()),
        "watching": daemon.source.watching,
        "workers": workers,
        "degraded": degraded,
        "pid": os.getpid(),
        "started_at": daemon.started_at,
        "zygote_pid": daemon.spawner.zygote_pid,
        "watcher_pid": daemon.source.link.pid,
    }


def _model_status(daemon: Daemon, name: str, served: Served) -> dict[str, Any]:
    slot, stats = served.slot, served.stats
    binding = slot.serving
    p50, p99 = stats.latency_us.quantiles(0.5, 0.99)
    rejection = slot.last_rejection
    trial = slot.trial
    return {
        "model_name": name,
        "version": binding.contract.version if binding is not None else None,
        "generation": binding.generation if binding is not None else None,
        "digest": binding.digest if binding is not None else None,
        "state": str(binding.served.state) if binding is not None else str(State.ABSENT),
        "channel": daemon.config.source.channel,
        "since": binding.since if binding is not None else None,
        "warm": slot.warm[0].contract.version if slot.warm else None,
        "warm_versions": [one.contract.version for one in slot.warm],
        "trial": {"version": trial.pointer.version, "state": str(trial.state)} if trial is not None else None,
        "last_rejection": {
            "version": rejection.version,
            "reason": f"{rejection.stage}: {rejection.reason}",
            "at": rejection.at,
        }
        if rejection is not None
        else None,
        "warnings": list(binding.served.warnings) if binding is not None else [],
        "held": slot.held,
        "waiting": slot.waiting,
        "live": slot.compared,
        "swap_pause_us": slot.swap_pause_us,
        "path": binding.served.path if binding is not None else None,
        "path_reason": (binding.served.unplanned_why or None) if binding is not None else None,
        "requests": stats.requests,
        "errors": sum(stats.errors.values()),
        "pending": served.pending,
        "p50_us": p50,
        "p99_us": p99,
    }


def stats(daemon: Daemon) -> dict[str, Any]:
    """The admin socket's `stats`: counters and histograms (bucket counts; see modeld.front.stats)."""
    return {
        "uptime_s": (daemon.clock_ns() - daemon.started_ns) / 1e9,
        "dropped_replies": daemon.data.dropped_replies + daemon.admin.dropped_replies,
        "dropped_messages": daemon.data.dropped_messages + daemon.admin.dropped_messages,
        "errors": daemon.data.errors,
        "handshakes_denied": daemon.guard.denied.total,
        "handshakes_failed": daemon.guard.failed.total,
        "unauthorized": daemon.guard.unauthorized.total,
        "zygote_restarts": daemon.spawner.zygote_restarts,
        "models": {
            name: {
                "requests": served.stats.requests,
                "errors": served.stats.errors,
                "events": served.stats.events,
                "pending": served.pending,
                "latency_us": _sparse(served.stats.latency_us.counts),
                "predict_us": _sparse(served.stats.predict_us.counts),
            }
            for name, served in sorted(daemon.models.items())
        },
    }


def _sparse(counts: list[int]) -> dict[str, int]:
    return {str(at): count for at, count in enumerate(counts) if count}
