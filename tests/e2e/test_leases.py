"""Leases: what the daemon serves, keeps warm or tries isn't cleaned up, and is free again when it ends."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

import pytest
from tests.e2e.conftest import Daemon
from tests.support import wait_until

from modelreg import ConflictError, Registry


def leased(registry: Registry) -> list[str]:
    return sorted(f"{lease.name}:{lease.version}" for lease in registry.leases())


@pytest.fixture
def staging(make_daemon: Callable[..., Daemon], registry: Registry) -> Daemon:
    """A daemon of the channel `staging`, of which gc spares no former holder by itself."""
    registry.promote("alpha:1.2.0", reason="1.1.0 isn't spared for having been in production")
    registry.promote("alpha:1.1.0", to="staging", reason="first")
    return make_daemon(registry.root, source={"channel": "staging"}).start()


def test_gc_spares_what_is_served_and_warm_until_the_daemon_ends(staging: Daemon, registry: Registry) -> None:
    """The serving version and the warm one are leased; after a clean end nothing is."""
    wait_until(lambda: leased(registry) == ["alpha:1.1.0"])
    registry.promote("alpha:1.2.0", to="staging", reason="next")
    wait_until(lambda: staging.model()["warm"] == "1.1.0", 15)
    wait_until(lambda: leased(registry) == ["alpha:1.1.0", "alpha:1.2.0"])
    assert registry.gc(keep=0).deleted == ()
    with pytest.raises(ConflictError, match=f"modeld .*:{staging.pid} is using it"):
        registry.delete("alpha:1.1.0")
    staging.signal(signal.SIGTERM)
    assert staging.wait() == 0
    wait_until(lambda: leased(registry) == [])
    assert registry.gc(keep=0).deleted == ("alpha:1.1.0",)


def test_a_new_watcher_leases_again_and_a_killed_daemon_gives_all_back(
    staging: Daemon, registry: Registry
) -> None:
    """A watcher's death leaves its leases to end by themselves; the daemon's death lets the watcher release them."""
    wait_until(lambda: leased(registry) == ["alpha:1.1.0"])
    os.kill(staging.status()["watcher_pid"], signal.SIGKILL)
    wait_until(lambda: leased(registry) == ["alpha:1.1.0", "alpha:1.1.0"])
    left = min((registry.root / ".registry/leases").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    left.unlink()  # as if its time were over
    staging.signal(signal.SIGKILL)
    staging.wait()
    wait_until(lambda: leased(registry) == [])


def test_without_a_place_for_leases_it_serves_and_says_so_once(
    make_daemon: Callable[..., Daemon], registry: Registry
) -> None:
    """A registry that can only be read is no error: one line in the log, and status is healthy."""
    leases = registry.root / ".registry/leases"
    leases.rmdir()
    leases.symlink_to("/proc/self/nothing")
    daemon = make_daemon(registry.root).start()
    wait_until(lambda: daemon.logged("lease_failed"))
    seen = daemon.status()
    assert seen["degraded"] == []
    registry.promote("alpha:1.1.0", reason="next")
    wait_until(lambda: daemon.model()["version"] == "1.1.0", 15)
    assert len(daemon.logged("lease_failed")) == 1
