"""What happens to a real daemon when parts of it, or of what it needs, go away."""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import psutil
import pytest
from tests.e2e.conftest import MODELD, Daemon, register_truncated
from tests.e2e.test_swap import Stream, check, production
from tests.registry.conftest import Trained
from tests.support import wait_until

from modelreg import Registry


def serving_pid(daemon: Daemon) -> int:
    pid: int = next(w["pid"] for w in daemon.status()["workers"] if w["state"] == "serving")
    return pid


def test_a_killed_worker_is_replaced_and_no_request_is_lost(
    daemon: Daemon, trained: dict[str, Trained], rows: np.ndarray
) -> None:
    """Requests wait the moment that another worker takes; what the dead one had under way is asked again."""
    with Stream(daemon, rows) as stream:
        for _ in range(3):
            pid = serving_pid(daemon)
            os.kill(pid, signal.SIGKILL)
            wait_until(lambda pid=pid: any(w["pid"] != pid for w in daemon.status()["workers"]))
            stream.until("1.0.0")
    check(stream, trained, rows)
    assert daemon.status()["degraded"] == []


def test_a_worker_that_hangs_is_replaced(
    make_daemon: Callable[..., Daemon], registry: Registry, trained: dict[str, Trained], rows: np.ndarray
) -> None:
    """A stopped worker counts as dead after limits.predict_timeout_s."""
    daemon = make_daemon(registry.root, limits={"predict_timeout_s": 2}, plan={"inline_rows": 0}).start()
    with Stream(daemon, rows) as stream:
        os.kill(serving_pid(daemon), signal.SIGSTOP)
        wait_until(lambda: daemon.logged("worker_hung"))
        stream.until("1.0.0")
    check(stream, trained, rows)


def test_death_in_probation_rolls_back(
    daemon: Daemon, registry: Registry, trained: dict[str, Trained], rows: np.ndarray
) -> None:
    """The version before is warm: it answers at once, and the registry's log says why."""
    registry.promote("alpha:1.1.0", reason="next")
    wait_until(lambda: daemon.model()["version"] == "1.1.0")
    os.kill(serving_pid(daemon), signal.SIGKILL)
    wait_until(lambda: daemon.model()["version"] == "1.0.0")
    wait_until(lambda: production(registry) == "1.0.0")
    assert "probation" in (registry.history("alpha")[0].reason or "")
    assert registry.state("alpha").versions["1.1.0"].status == "failed"
    with daemon.client() as client:
        assert (
            client.predict(rows[0]).values[0] == trained["1.0.0"].booster.predict(rows[:1], num_threads=1)[0]
        )


def test_workers_outlive_one_zygote_after_the_other(daemon: Daemon, rows: np.ndarray) -> None:
    """A worker that has lost its zygote serves on when the next one dies too, and its own end is still noticed."""
    for _ in range(3):
        before = daemon.status()["zygote_pid"]
        os.kill(before, signal.SIGKILL)
        wait_until(lambda before=before: daemon.status()["zygote_pid"] not in (0, before))
    (worker,) = daemon.status()["workers"]
    os.kill(worker["pid"], signal.SIGKILL)
    wait_until(
        lambda: daemon.status()["workers"] and daemon.status()["workers"][0]["pid"] != worker["pid"], 60
    )
    with daemon.client() as client:
        assert client.predict(rows[0]).version == "1.0.0"
    assert not daemon.exited


def test_zygote_and_watcher_are_made_anew(daemon: Daemon, registry: Registry, rows: np.ndarray) -> None:
    """Both may be killed; the served version doesn't notice and the next promotion gets in."""
    status = daemon.status()
    os.kill(status["zygote_pid"], signal.SIGKILL)
    os.kill(status["watcher_pid"], signal.SIGKILL)
    with daemon.client() as client:
        assert client.predict(rows[0]).version == "1.0.0"
    registry.promote("alpha:1.1.0", reason="next")
    wait_until(lambda: daemon.model()["version"] == "1.1.0", 15)
    after = daemon.status()
    assert after["zygote_pid"] != status["zygote_pid"]
    assert after["watcher_pid"] != status["watcher_pid"]


def test_a_vanished_registry_leaves_the_version_serving(
    daemon: Daemon, registry: Registry, rows: np.ndarray
) -> None:
    """Degraded, with the reason; and back to normal when the registry is."""
    away = registry.root.with_name("away")
    registry.root.rename(away)
    wait_until(lambda: any("source" in why for why in daemon.status()["degraded"]))
    with daemon.client() as client:
        assert client.predict(rows[0]).version == "1.0.0"
    away.rename(registry.root)
    wait_until(lambda: daemon.status()["degraded"] == [])
    registry.promote("alpha:1.1.0", reason="next")
    wait_until(lambda: daemon.model()["version"] == "1.1.0")


def test_a_record_that_was_changed_makes_the_model_read_only(daemon: Daemon, registry: Registry) -> None:
    """A broken log is reported, never reset, and the version goes on serving."""
    newest = sorted((registry.root / "alpha/log").glob("*.json"))[-1]
    registry.promote("alpha:1.1.0", reason="next")
    wait_until(lambda: daemon.model()["version"] == "1.1.0")
    newest.chmod(0o644)
    newest.write_bytes(newest.read_bytes().replace(b"first", b"FIRST"))
    daemon.signal(signal.SIGHUP)
    assert daemon.model()["version"] == "1.1.0"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_it_cleanly(
    make_daemon: Callable[..., Daemon], registry: Registry, number: signal.Signals
) -> None:
    """Exit status 0, no process and no socket file left."""
    daemon = make_daemon(registry.root).start()
    below = daemon.children()
    assert len(below) >= 3
    daemon.signal(number)
    assert daemon.wait() == 0
    assert not psutil.wait_procs(below, 3)[1]
    assert not list(daemon.run.rglob("*.sock"))


def test_sigkill_leaves_no_process_and_the_next_daemon_starts(
    make_daemon: Callable[..., Daemon], registry: Registry, rows: np.ndarray
) -> None:
    """Children see the end of their channel; the stale socket files are replaced."""
    daemon = make_daemon(registry.root).start()
    below = daemon.children()
    daemon.signal(signal.SIGKILL)
    daemon.wait()
    assert not psutil.wait_procs(below, 5)[1]
    assert list(daemon.run.rglob("*.sock"))
    daemon.start()
    with daemon.client() as client:
        assert client.predict(rows[0]).version == "1.0.0"


def serve_fails(daemon: Daemon, *options: str) -> tuple[int, str]:
    done = subprocess.run(
        [MODELD, "--config", daemon.config, *options, "serve"],
        capture_output=True,
        text=True,
        timeout=30,
        stdin=subprocess.DEVNULL,
        check=False,
    )
    return done.returncode, done.stderr.splitlines()[-1]


def test_a_missing_registry_is_one_clear_line(make_daemon: Callable[..., Daemon], tmp_path: Path) -> None:
    """Exit status 3 and the path, where nothing can be served."""
    status, line = serve_fails(make_daemon(tmp_path / "nowhere"))
    assert status == 3
    assert "nowhere" in line


def test_a_production_version_that_fails_its_trial_at_start(
    make_daemon: Callable[..., Daemon], registry: Registry, trained: dict[str, Trained], tmp_path: Path
) -> None:
    """Exit status 3 and the reason."""
    register_truncated(registry, trained["1.1.0"], tmp_path, "2.0.0")
    registry.promote("alpha:2.0.0", reason="bad")
    status, line = serve_fails(make_daemon(registry.root))
    assert status == 3
    assert "2.0.0 was rejected" in line


def test_an_endpoint_of_a_live_daemon_is_not_stolen(
    make_daemon: Callable[..., Daemon], daemon: Daemon, registry: Registry, rows: np.ndarray
) -> None:
    """Exit status 4 and the endpoint; the first daemon goes on."""
    second = make_daemon(registry.root)
    status, line = serve_fails(second, "--set", f"runtime_dir={daemon.run}")
    assert status == 4
    assert "predict.sock" in line
    with daemon.client() as client:
        assert client.predict(rows[0]).version == "1.0.0"


def test_a_state_directory_has_one_daemon(
    make_daemon: Callable[..., Daemon], daemon: Daemon, registry: Registry, rows: np.ndarray
) -> None:
    """Exit status 4 and the other one's pid; a daemon that was killed leaves the way free at once."""
    second = make_daemon(registry.root, state_dir=str(daemon.directory / "state"))
    status, line = serve_fails(second)
    assert status == 4
    assert f"pid {daemon.pid}" in line
    with daemon.client() as client:
        assert client.predict(rows[0]).version == "1.0.0"
    daemon.signal(signal.SIGKILL)
    daemon.wait()
    second.start()


def test_a_state_directory_that_cannot_be_made_costs_no_start(
    make_daemon: Callable[..., Daemon], registry: Registry, tmp_path: Path, rows: np.ndarray
) -> None:
    """It serves, degraded: nothing can be kept there, and no lock can be had."""
    (tmp_path / "file").write_text("in the way")
    daemon = make_daemon(registry.root, state_dir=str(tmp_path / "file/state")).start()
    with daemon.client() as client:
        assert client.predict(rows[0]).version == "1.0.0"
    assert daemon.logged("state_dir_unlocked")
    wait_until(lambda: any("no copy is kept" in why for why in daemon.status()["degraded"]))


def test_memory_is_locked_where_that_is_asked_for(
    make_daemon: Callable[..., Daemon], registry: Registry
) -> None:
    """loop.lock_memory keeps the front out of swap, its children not; without the right to, one clear line."""
    daemon = make_daemon(registry.root, loop={"lock_memory": True})
    if os.getuid() != 0:
        status, line = serve_fails(daemon)
        assert status == 1
        assert "LimitMEMLOCK" in line
        return
    daemon.start()

    def locked_kb(pid: int) -> int:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
        return int(next(line for line in lines if line.startswith("VmLck")).split()[1])

    assert locked_kb(daemon.pid) > 10_000
    status = daemon.status()
    children = [status["zygote_pid"], status["watcher_pid"], *(one["pid"] for one in status["workers"])]
    assert [locked_kb(pid) for pid in children] == [0, 0, 0]


def test_an_unreadable_configuration_is_one_clear_line(make_daemon: Callable[..., Daemon]) -> None:
    """Exit status 2, with the file, the line and the key."""
    daemon = make_daemon()
    daemon.config.write_text("watch: {poll_interval_s: soon}\n")
    status, line = serve_fails(daemon)
    assert status == 2
    assert f"{daemon.config}:1: watch.poll_interval_s" in line


def test_it_waits_for_a_model_where_none_is_required(
    make_daemon: Callable[..., Daemon], tmp_path: Path, trained: dict[str, Trained]
) -> None:
    """require_model: false starts not ready, says so, and serves the first promotion."""
    registry = Registry.init(tmp_path / "models", actor="tester")
    daemon = make_daemon(registry.root, source={"require_model": False}).start(ready=False)
    with daemon.client(timeout_s=20) as client:
        assert client.ready() is False
        registry.register("alpha", trained["1.0.0"].path, version="1.0.0", golden=False)
        registry.promote("alpha:1.0.0", reason="first")
        wait_until(client.ready, 10)


def test_it_notifies_the_service_manager(make_daemon: Callable[..., Daemon], registry: Registry) -> None:
    """READY after the first validated version, WATCHDOG from the loop, RELOADING on SIGHUP, STOPPING at the end."""
    daemon = make_daemon(registry.root)
    path = daemon.directory / "notify.sock"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(path))
        manager.settimeout(10)
        daemon.start(env={"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "200000"})
        seen = ""

        def saw(word: str) -> bool:
            nonlocal seen
            while word not in seen:
                seen += manager.recv(4096).decode() + "\n"
            return True

        assert saw("READY=1")
        assert "STATUS=serving alpha 1.0.0" in seen
        assert saw("WATCHDOG=1")
        seen = ""
        daemon.signal(signal.SIGHUP)
        assert saw("RELOADING=1")
        assert saw("READY=1")
        daemon.signal(signal.SIGTERM)
        assert saw("STOPPING=1")
        assert daemon.wait() == 0


def test_a_full_state_of_the_disk_does_not_stop_it(
    daemon: Daemon, registry: Registry, rows: np.ndarray
) -> None:
    """The registry deleted under it: the version that serves is in memory."""
    shutil.rmtree(registry.root)
    with daemon.client() as client:
        assert client.predict(rows[0]).version == "1.0.0"


def test_a_registry_that_was_emptied_in_place_is_lost(daemon: Daemon, registry: Registry) -> None:
    """The directory is there and has nothing in it: degraded, not a registry that names no version."""
    kept = registry.root.with_name("kept")
    kept.mkdir()
    names = sorted(path.name for path in registry.root.iterdir())  # .registry goes first, and comes back last
    for name in names:
        (registry.root / name).rename(kept / name)
    wait_until(lambda: any("no registry" in why for why in daemon.status()["degraded"]), 10)
    for name in reversed(names):
        (kept / name).rename(registry.root / name)
    wait_until(lambda: daemon.status()["degraded"] == [], 10)
    assert daemon.model()["version"] == "1.0.0"


def test_a_restart_without_the_registry_serves_the_last_known_good(
    make_daemon: Callable[..., Daemon], registry: Registry, trained: dict[str, Trained], rows: np.ndarray
) -> None:
    """From the verified copy in the state directory, under the same generation, degraded until the registry is back."""
    daemon = make_daemon(registry.root).start()
    kept = daemon.directory / "state/good/alpha.json"
    wait_until(kept.exists)
    generation = daemon.model()["generation"]
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 0
    away = registry.root.with_name("away")
    registry.root.rename(away)
    daemon.start()
    with daemon.client() as client:
        reply = client.predict(rows[0])
        assert (reply.version, reply.generation) == ("1.0.0", generation)
        assert reply.values[0] == trained["1.0.0"].booster.predict(rows[:1], num_threads=1)[0]
    assert any("source" in why for why in daemon.status()["degraded"])
    away.rename(registry.root)
    registry.promote("alpha:1.1.0", reason="next")
    wait_until(lambda: daemon.model()["version"] == "1.1.0", 10)
    wait_until(lambda: daemon.status()["degraded"] == [])
    # Killed in probation: the version before is served again, and never under a generation that another one had.
    generation = daemon.model()["generation"]
    numbers = daemon.directory / "state/generations.json"
    wait_until(lambda: json.loads(numbers.read_text())["alpha"][0] == generation)
    daemon.signal(signal.SIGKILL)
    daemon.wait()
    registry.root.rename(away)
    daemon.start()
    line = daemon.model()
    assert (line["version"], line["generation"]) == ("1.0.0", generation + 1)
    away.rename(registry.root)
    wait_until(lambda: daemon.model()["version"] == "1.1.0", 10)
    assert daemon.model()["generation"] == generation + 2


def test_a_worker_killed_without_the_registry_is_replaced_from_the_copy(
    daemon: Daemon, registry: Registry, trained: dict[str, Trained], rows: np.ndarray
) -> None:
    """Nothing warm, no registry, no worker: the verified copy makes another."""
    wait_until((daemon.directory / "state/good/alpha.json").exists)
    registry.root.rename(registry.root.with_name("away"))
    with Stream(daemon, rows) as stream:
        os.kill(serving_pid(daemon), signal.SIGKILL)
        stream.until("1.0.0")
    check(stream, trained, rows)


def test_a_promotion_whose_files_cannot_be_had_is_no_failure(daemon: Daemon, registry: Registry) -> None:
    """A version whose directory is away for a moment is tried again, not marked failed."""
    versions = registry.root / "alpha/versions"
    (versions / "1.1.0").rename(registry.root / "elsewhere")
    seq = registry.state("alpha").seq
    # Promote checks the bytes itself: point the channel there as another machine's promote would have.
    (registry.root / "elsewhere").rename(versions / "1.1.0")
    registry.promote("alpha:1.1.0", reason="next")
    (versions / "1.1.0").rename(registry.root / "elsewhere")
    daemon.signal(signal.SIGHUP)
    if daemon.model()["version"] != "1.1.0":  # else the trial was quicker than the rename
        wait_until(lambda: any("can't be tried" in why for why in daemon.status()["degraded"]))
        assert registry.state("alpha").seq == seq + 1
        (registry.root / "elsewhere").rename(versions / "1.1.0")
    wait_until(lambda: daemon.model()["version"] == "1.1.0", 15)
    assert registry.state("alpha").versions["1.1.0"].status == "registered"


def test_a_zygote_killed_in_the_middle_of_a_promotion_condemns_nobody(
    daemon: Daemon, registry: Registry
) -> None:
    """The trial that it should have forked is held by the next one."""
    os.kill(daemon.status()["zygote_pid"], signal.SIGKILL)
    registry.promote("alpha:1.1.0", reason="next")
    wait_until(lambda: daemon.model()["version"] == "1.1.0", 15)
    assert registry.state("alpha").versions["1.1.0"].status == "registered"


def test_a_stopped_zygote_or_watcher_is_replaced(daemon: Daemon, registry: Registry) -> None:
    """What neither forks nor answers is killed, and another takes its place."""
    status = daemon.status()
    os.kill(status["zygote_pid"], signal.SIGSTOP)
    os.kill(status["watcher_pid"], signal.SIGSTOP)
    registry.promote("alpha:1.1.0", reason="next")
    wait_until(lambda: daemon.model()["version"] == "1.1.0", 40)
    assert registry.state("alpha").versions["1.1.0"].status == "registered"


def test_a_log_that_nobody_reads_stops_nothing(
    make_daemon: Callable[..., Daemon], registry: Registry, rows: np.ndarray
) -> None:
    """A closed stderr costs lines, not the daemon."""
    daemon = make_daemon(registry.root)
    reader, writer = os.pipe()
    daemon.process = subprocess.Popen(
        [MODELD, "--config", daemon.config, "serve"], stdin=subprocess.DEVNULL, stderr=writer
    )
    os.close(writer)
    with daemon.client(timeout_s=20) as client:
        wait_until(client.ready, 20)
        os.close(reader)
        registry.promote("alpha:1.1.0", reason="next")
        wait_until(lambda: daemon.model()["version"] == "1.1.0")
        assert client.predict(rows[0]).version == "1.1.0"


def test_an_operator_rolls_back_while_the_registry_is_away(
    daemon: Daemon, registry: Registry, trained: dict[str, Trained], rows: np.ndarray
) -> None:
    """The warm version answers at once, degraded; the record is written when the registry is back."""
    away = registry.root.with_name("away")
    registry.promote("alpha:1.1.0", reason="next")
    with daemon.operator() as operator, daemon.client() as client:
        operator.reload("alpha")
        os.rename(registry.root, away)
        wait_until(lambda: daemon.status()["degraded"], 15)
        reply = operator.rollback("alpha", reason="spread widened")
        assert (reply["from"], reply["to"], reply["written"]) == ("1.1.0", "1.0.0", False)
        answer = client.predict(rows[3])
        assert (answer.version, answer.generation) == ("1.0.0", reply["generation"])
        assert answer.values[0] == trained["1.0.0"].booster.predict(rows[3:4], num_threads=1)[0]
        assert any("rollback from 1.1.0 isn't written" in why for why in daemon.status()["degraded"])
        os.rename(away, registry.root)
        wait_until(lambda: not daemon.status()["degraded"], 15)
        assert client.predict(rows[3]).version == "1.0.0"
    newest = registry.history("alpha")[0]
    assert (newest.reason, newest.actor.startswith("uid:")) == ("spread widened", True)
    assert registry.state("alpha").channels["production"].version == "1.0.0"
    assert registry.state("alpha").versions["1.1.0"].status == "failed"
    wait_until(lambda: daemon.model()["generation"] == newest.seq, 15)


def test_a_rollback_made_while_the_registry_was_away_gives_way_to_what_came_since(
    daemon: Daemon, registry: Registry
) -> None:
    """Somebody promoted another version where the daemon couldn't see it: that one serves, and nothing is marked."""
    away = registry.root.with_name("away")
    registry.promote("alpha:1.1.0", reason="next")
    with daemon.operator() as operator:
        operator.reload("alpha")
        os.rename(registry.root, away)
        wait_until(lambda: daemon.status()["degraded"], 15)
        operator.rollback("alpha", reason="spread widened")
        Registry(away, actor="tester").promote("alpha:1.2.0", reason="the fix")
        os.rename(away, registry.root)
        wait_until(lambda: daemon.model()["version"] == "1.2.0" and not daemon.status()["degraded"], 15)
    assert registry.state("alpha").versions["1.1.0"].status != "failed"


def test_a_failure_in_probation_while_the_registry_is_away(
    daemon: Daemon, registry: Registry, rows: np.ndarray
) -> None:
    """The warm version takes over without the registry, which is told when it is back."""
    away = registry.root.with_name("away")
    registry.promote("alpha:1.1.0", reason="next")
    with daemon.operator() as operator, daemon.client() as client:
        operator.reload("alpha")
        os.rename(registry.root, away)
        wait_until(lambda: daemon.status()["degraded"], 15)
        (worker,) = (one for one in daemon.status()["workers"] if one["state"] == "serving")
        os.kill(worker["pid"], signal.SIGKILL)
        wait_until(lambda: client.predict(rows[0]).version == "1.0.0", 15)
        wait_until(
            lambda: any("rejection of 1.1.0 isn't written" in why for why in daemon.status()["degraded"]), 15
        )
        os.rename(away, registry.root)
        wait_until(lambda: not daemon.status()["degraded"], 15)
    assert registry.state("alpha").channels["production"].version == "1.0.0"
    assert registry.state("alpha").versions["1.1.0"].status == "failed"
    assert (registry.history("alpha")[0].reason or "").startswith("probation: ")


def test_a_restart_after_a_rollback_without_the_registry_serves_what_was_rolled_back_to(
    registry: Registry, make_daemon: Callable[..., Daemon], rows: np.ndarray
) -> None:
    """The copy of the version before is still there, and the record waits until the registry is back."""
    daemon = make_daemon(registry.root, probation={"seconds": 0}).start()
    away = registry.root.with_name("away")
    record = daemon.directory / "state/good/alpha.json"

    def kept() -> str:
        version: str = json.loads(record.read_text())["pointer"]["version"]
        return version

    registry.promote("alpha:1.1.0", reason="next")
    with daemon.operator() as operator:
        operator.reload("alpha")
        wait_until(lambda: kept() == "1.1.0", 15)
        os.rename(registry.root, away)
        wait_until(lambda: daemon.status()["degraded"], 15)
        operator.rollback("alpha", reason="spread widened")
        wait_until(lambda: kept() == "1.0.0", 15)
    daemon.signal(signal.SIGTERM)
    assert daemon.wait() == 0
    daemon.start()
    with daemon.client() as client:
        assert client.predict(rows[0]).version == "1.0.0"
    os.rename(away, registry.root)
    wait_until(lambda: production(registry) == "1.0.0", 15)
    assert registry.history("alpha")[0].reason == "spread widened"


def test_a_hold_outlives_a_restart(daemon: Daemon, registry: Registry) -> None:
    """What was frozen stays so after a crash, though another version is in production by then; release lets it in."""
    wait_until((daemon.directory / "state/good/alpha.json").exists)
    with daemon.operator() as operator:
        operator.call("hold", model_name="alpha", reason="the open")
    wait_until((daemon.directory / "state/holds.json").exists)
    registry.promote("alpha:1.1.0", reason="too early")
    daemon.signal(signal.SIGKILL)
    daemon.wait()
    daemon.start()
    line = daemon.model()
    assert (line["version"], line["waiting"]) == ("1.0.0", "1.1.0")
    assert "the open" in line["held"]
    with daemon.operator() as operator:
        operator.call("release", model_name="alpha", reason="it is over")
    wait_until(lambda: daemon.model()["version"] == "1.1.0")
