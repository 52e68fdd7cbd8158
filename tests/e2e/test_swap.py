"""Promotions, rejections and rollbacks under a real daemon."""

from __future__ import annotations

import json
import signal
import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import zmq
from tests.e2e.conftest import Daemon, register_killer, register_truncated
from tests.registry.conftest import Trained
from tests.support import wait_until

from modeld.client.errors import Conflict, Rejected
from modelreg import Registry


def production(registry: Registry) -> str | None:
    return registry.state("alpha").channels["production"].version


class Stream:
    """A client in a thread of its own that never stops asking; every reply is kept."""

    def __init__(self, daemon: Daemon, rows: np.ndarray) -> None:
        self.replies: list[tuple[int, str, int, float]] = []
        self.errors: list[BaseException] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(daemon, rows))

    def _run(self, daemon: Daemon, rows: np.ndarray) -> None:
        with daemon.client(timeout_s=30) as client:
            at = 0
            while not self._stop.is_set():
                try:
                    reply = client.predict(rows[at % len(rows)])
                    self.replies.append((at, reply.version, reply.generation, float(reply.values[0])))
                except Exception as e:  # noqa: BLE001 (whatever it is, the test fails on it)
                    self.errors.append(e)
                at += 1

    def __enter__(self) -> Stream:
        self._thread.start()
        wait_until(lambda: len(self.replies) > 20 or self.errors)
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def until(self, version: str) -> None:
        """Wait until replies come from `version`."""
        start = len(self.replies)
        wait_until(lambda: any(reply[1] == version for reply in self.replies[start:]) or self.errors, 30)


def check(stream: Stream, trained: dict[str, Trained], rows: np.ndarray) -> None:
    """No error; every reply is what the version that it names predicts offline; generations never go back."""
    assert not stream.errors
    offline = {v: trained[v].booster.predict(rows, num_threads=1) for v in ("1.0.0", "1.1.0", "1.2.0")}
    for at, version, _, value in stream.replies:
        assert value == offline[version][at % len(rows)]
    generations = [reply[2] for reply in stream.replies]
    assert generations == sorted(generations)


def test_a_promotion_is_swapped_in_under_load(
    daemon: Daemon, registry: Registry, trained: dict[str, Trained], rows: np.ndarray
) -> None:
    """Nothing is lost or mixed while production moves back and forth."""
    with Stream(daemon, rows) as stream:
        for version in ("1.1.0", "1.2.0", "1.0.0"):
            registry.promote(f"alpha:{version}", reason="next")
            stream.until(version)
    check(stream, trained, rows)


@pytest.mark.parametrize("register", [register_truncated, register_killer])
def test_a_version_that_cannot_be_loaded_is_rejected_and_production_points_back(
    daemon: Daemon,
    registry: Registry,
    trained: dict[str, Trained],
    rows: np.ndarray,
    tmp_path: Path,
    register: Callable[[Registry, Trained, Path, str], None],
) -> None:
    """The old version answers throughout; the registry's log says why and marks the version failed."""
    register(registry, trained["1.1.0"], tmp_path, "2.0.0")
    with Stream(daemon, rows) as stream:
        registry.promote("alpha:2.0.0", reason="looks fine")
        wait_until(lambda: production(registry) == "1.0.0", 10)
        stream.until("1.0.0")
    check(stream, trained, rows)
    state = registry.state("alpha")
    assert state.versions["2.0.0"].status == "failed"
    newest = registry.history("alpha")[0]
    assert newest.actor.startswith("modeld:uid:")
    assert (newest.reason or "").startswith(("loading: ", "validating: "))
    rejection = daemon.model()["last_rejection"]
    assert rejection["version"] == "2.0.0"
    assert rejection["reason"]
    wait_until(lambda: daemon.model()["generation"] == newest.seq)


def test_a_rejected_version_is_not_tried_again(
    make_daemon: Callable[..., Daemon], registry: Registry, trained: dict[str, Trained], tmp_path: Path
) -> None:
    """With on_reject: hold the pointer stays, and the daemon remembers the digest instead of looping."""
    register_truncated(registry, trained["1.1.0"], tmp_path, "2.0.0")
    daemon = make_daemon(registry.root, on_reject="hold").start()
    registry.promote("alpha:2.0.0", reason="looks fine")
    wait_until(lambda: daemon.model()["last_rejection"])
    with daemon.operator() as operator:
        for _ in range(3):
            with pytest.raises(Rejected):
                operator.reload("alpha")
    assert len(daemon.logged("trial_started")) == 2
    assert production(registry) == "2.0.0"
    assert daemon.model()["version"] == "1.0.0"


def test_reload_answers_with_the_outcome(
    daemon: Daemon, registry: Registry, trained: dict[str, Trained], tmp_path: Path
) -> None:
    """Reloaded with the new version; nothing new; rejected with the reason: whoever was first, event or operator."""
    with daemon.operator() as operator:
        assert operator.reload("alpha")["reloaded"] is False
        registry.promote("alpha:1.1.0", reason="next")
        reply = operator.reload("alpha")
        assert (reply["reloaded"], reply["version"]) == (True, "1.1.0")
        assert reply["generation"] == registry.state("alpha").channels["production"].seq
        register_truncated(registry, trained["1.1.0"], tmp_path, "2.0.0")
        registry.promote("alpha:2.0.0", reason="bad")
        with pytest.raises(Rejected, match=r"1\.1\.0 goes on serving"):
            operator.reload("alpha")
        assert production(registry) == "1.1.0"
        assert operator.reload("alpha")["reloaded"] is False


def test_an_operator_rolls_back_by_compare_and_set(
    daemon: Daemon, registry: Registry, rows: np.ndarray
) -> None:
    """The registry gets a record by the caller's uid; a replayed message is a conflict and does nothing."""
    registry.promote("alpha:1.1.0", reason="next")
    with daemon.operator() as operator, daemon.client() as client:
        operator.reload("alpha")
        before = daemon.model()["generation"]
        reply = operator.rollback("alpha", reason="spread widened", expect_generation=before)
        assert (reply["rolled_back"], reply["from"], reply["to"]) == (True, "1.1.0", "1.0.0")
        assert reply["generation"] > before
        assert client.predict(rows[0]).version == "1.0.0"
        with pytest.raises(Conflict):
            operator.rollback("alpha", reason="again", expect_generation=before)
    newest = registry.history("alpha")[0]
    assert newest.reason == "spread widened"
    assert newest.actor.startswith("uid:")
    assert registry.state("alpha").versions["1.1.0"].status == "failed"


def test_a_changed_feature_list_is_rejected(
    daemon: Daemon, registry: Registry, trained: dict[str, Trained], tmp_path: Path
) -> None:
    """Clients send the features of the version that serves: another list doesn't get in by itself."""
    other = tmp_path / "renamed.txt"
    other.write_text(trained["1.1.0"].path.read_text().replace("ret_1d", "ret_2d"))
    registry.register("alpha", other, version="2.0.0")
    registry.promote("alpha:2.0.0", reason="new features")
    with daemon.operator() as operator:
        with pytest.raises(
            Rejected, match=r"ret_2d.*promote it again with: modelreg promote --allow-schema-change"
        ):
            operator.reload("alpha")
        assert daemon.model()["version"] == "1.0.0"
        wait_until(lambda: production(registry) == "1.0.0")
        assert registry.state("alpha").versions["2.0.0"].status == "registered"
        # The hint works: the same bytes, promoted anew.
        registry.promote("alpha:2.0.0", reason="clients know", allow_schema_change=True)
        assert operator.reload("alpha")["version"] == "2.0.0"


def test_a_changed_feature_list_waits_for_a_promotion_that_allows_it(
    make_daemon: Callable[..., Daemon], registry: Registry, trained: dict[str, Trained], tmp_path: Path
) -> None:
    """With on_reject: hold, where production goes on naming the version; and a restart doesn't let it in either."""
    other = tmp_path / "renamed.txt"
    other.write_text(trained["1.1.0"].path.read_text().replace("ret_1d", "ret_2d"))
    registry.register("alpha", other, version="2.0.0")
    daemon = make_daemon(registry.root, on_reject="hold").start()
    wait_until((daemon.directory / "state/good/alpha.json").exists)
    registry.promote("alpha:2.0.0", reason="new features")
    wait_until(lambda: daemon.model()["last_rejection"])
    daemon.signal(signal.SIGKILL)
    daemon.wait()
    daemon.start()
    wait_until(lambda: daemon.model()["last_rejection"])
    assert daemon.model()["version"] == "1.0.0"
    registry.promote("alpha:2.0.0", reason="clients know", allow_schema_change=True)
    wait_until(lambda: daemon.model()["version"] == "2.0.0")


def test_the_warm_version_answers_when_it_is_named(
    daemon: Daemon, registry: Registry, trained: dict[str, Trained], rows: np.ndarray
) -> None:
    """After a swap the version before is resident: model_version gets it, under its own label."""
    registry.promote("alpha:1.1.0", reason="next")
    with daemon.operator() as operator:
        operator.reload("alpha")
    with daemon.client() as client:
        reply = client.predict(rows[3], version="1.0.0")
    assert reply.version == "1.0.0"
    assert reply.values[0] == trained["1.0.0"].booster.predict(rows[3:4], num_threads=1)[0]


def test_events_are_published(daemon: Daemon, registry: Registry) -> None:
    """A subscriber learns of a swap: kind, from, to, generation, reason, actor."""
    with zmq.Context() as context, context.socket(zmq.SUB) as sock:
        sock.set(zmq.RCVTIMEO, 5000)
        sock.connect(daemon.events)
        sock.subscribe("")
        # A subscription takes a moment to arrive: hold events are sent until one is seen.
        with daemon.operator() as operator:
            wait_until(lambda: operator.call("release", reason="hello") and sock.poll(20))
        registry.promote("alpha:1.1.0", reason="next", actor="ann")
        while True:
            topic, body = sock.recv_multipart()
            if topic == b"swap.alpha":
                break
    event = json.loads(body)
    assert (event["kind"], event["from"], event["to"], event["actor"]) == ("swap", "1.0.0", "1.1.0", "ann")
    assert event["generation"] == registry.state("alpha").seq


def test_hold_freezes_and_release_resumes(daemon: Daemon, registry: Registry) -> None:
    """While held a promotion waits; status shows why; release lets it in."""
    with daemon.operator() as operator:
        operator.call("hold", model_name="alpha", reason="the open")
        registry.promote("alpha:1.1.0", reason="next")
        reply = operator.reload("alpha")
        assert reply["reloaded"] is False
        assert "the open" in reply["reason"]
        assert daemon.model()["version"] == "1.0.0"
        operator.call("release", model_name="alpha")
        wait_until(lambda: daemon.model()["version"] == "1.1.0")


def test_an_operator_rolls_back_under_a_hold(daemon: Daemon, registry: Registry, rows: np.ndarray) -> None:
    """A hold keeps promotions out, not the way back: to the warm version or a cold one; and it stays in force."""
    registry.promote("alpha:1.1.0", reason="next")
    with daemon.operator() as operator, daemon.client() as client:
        operator.reload("alpha")
        operator.call("hold", model_name="alpha", reason="the open")
        assert operator.rollback("alpha", reason="spread widened", mark_failed=False)["to"] == "1.0.0"
        assert client.predict(rows[0]).version == "1.0.0"
        operator.rollback("alpha", reason="this one", to="1.2.0", mark_failed=False)
        assert client.predict(rows[0]).version == "1.2.0"
        registry.promote("alpha:1.1.0", reason="too early")
        assert "the open" in operator.reload("alpha")["reason"]
        assert client.predict(rows[0]).version == "1.2.0"
        operator.call("release", model_name="alpha")
        wait_until(lambda: daemon.model()["version"] == "1.1.0")


def test_sighup_looks_at_the_source(make_daemon: Callable[..., Daemon], registry: Registry) -> None:
    """SIGHUP reloads even where neither events nor a short poll would have shown the promotion."""
    daemon = make_daemon(registry.root, watch={"inotify": False, "poll_interval_s": 3600}).start()
    registry.promote("alpha:1.1.0", reason="next")
    daemon.signal(signal.SIGHUP)
    wait_until(lambda: daemon.model()["version"] == "1.1.0", 10)


def test_polling_alone_finds_a_promotion(make_daemon: Callable[..., Daemon], registry: Registry) -> None:
    """Without file events the poll is the truth."""
    daemon = make_daemon(registry.root, watch={"inotify": False, "poll_interval_s": 0.05}).start()
    assert daemon.status()["watching"].startswith("poll only")
    registry.promote("alpha:1.1.0", reason="next")
    wait_until(lambda: daemon.model()["version"] == "1.1.0", 10)


def test_two_models_swap_independently(
    make_daemon: Callable[..., Daemon], registry: Registry, trained: dict[str, Trained], rows: np.ndarray
) -> None:
    """A request names its model; a model that joins later is served without a restart."""
    daemon = make_daemon(registry.root).start()
    registry.register("classes", trained["classes"].path, version="1.0.0", golden=False)
    registry.promote("classes:1.0.0", reason="first")
    with daemon.operator() as operator, daemon.client() as client:
        assert operator.reload("classes")["version"] == "1.0.0"
        reply = client.predict(rows[:5], model="classes")
        assert reply.values.shape == (5, 3)
        offline = trained["classes"].booster.predict(rows[:5], num_threads=1)
        assert reply.values.tobytes() == np.ascontiguousarray(offline).tobytes()
        registry.promote("alpha:1.1.0", reason="next")
        operator.reload("alpha")
        assert client.predict(rows[0], model="alpha").version == "1.1.0"
        assert client.predict(rows[0], model="classes").version == "1.0.0"


def test_more_workers_serve_one_version(
    make_daemon: Callable[..., Daemon], registry: Registry, trained: dict[str, Trained], rows: np.ndarray
) -> None:
    """Each is proved by itself; a new version gets as many, and the answers don't tell them apart."""
    daemon = make_daemon(registry.root, workers=3).start()

    def serving(version: str) -> int:
        return sum(
            worker["version"] == version and worker["state"] == "serving"
            for worker in daemon.status()["workers"]
        )

    wait_until(lambda: serving("1.0.0") == 3)
    with Stream(daemon, rows) as one, Stream(daemon, rows) as two:
        registry.promote("alpha:1.1.0", reason="next")
        one.until("1.1.0")
        two.until("1.1.0")
        wait_until(lambda: serving("1.1.0") == 3)
    check(one, trained, rows)
    check(two, trained, rows)


def test_a_candidate_is_compared_on_live_rows(
    daemon: Daemon, registry: Registry, trained: dict[str, Trained], rows: np.ndarray
) -> None:
    """Status, log and event say how its answers differ from those that the serving version gave to the last rows."""
    with daemon.client() as client, daemon.operator() as operator:
        for row in rows[:50]:
            client.predict(row)
        client.predict(rows[50:60])
        registry.promote("alpha:1.1.0", reason="next")
        operator.reload("alpha")
        event = operator.call("history", model_name="alpha", limit=1)["history"][0]
    asked = rows[:51]
    old, new = (trained[v].booster.predict(asked, num_threads=1) for v in ("1.0.0", "1.1.0"))
    (told,) = daemon.model()["live"]
    assert (told["output"], told["rows"]) == ("predictions", 51)
    assert told["mean_abs_diff"] == pytest.approx(np.abs(new - old).mean(), rel=1e-9)
    assert -1 <= told["rank_correlation"] <= 1
    assert event["live"] == [told] == daemon.logged("swapped")[-1]["live"]


def test_a_candidate_that_differs_too_much_on_live_rows_is_rejected(
    make_daemon: Callable[..., Daemon], registry: Registry, rows: np.ndarray
) -> None:
    """Only where enough rows were asked for; the reason names the limit."""
    daemon = make_daemon(registry.root, trial={"max_mean_abs_diff": 1e-12}).start()
    with daemon.client() as client, daemon.operator() as operator:
        for row in rows[:31]:
            client.predict(row)
        registry.promote("alpha:1.1.0", reason="too few rows to tell")
        assert operator.reload("alpha")["version"] == "1.1.0"
        for row in rows[:32]:
            client.predict(row)
        registry.promote("alpha:1.2.0", reason="another")
        with pytest.raises(Rejected, match=r"trial\.max_mean_abs_diff is 1e-12"):
            operator.reload("alpha")
    assert production(registry) == "1.1.0"


def test_a_version_that_takes_too_long_for_a_row_is_rejected(
    make_daemon: Callable[..., Daemon], registry: Registry
) -> None:
    """The time budget is the first version's too: nothing can be served, and the reason names the setting."""
    daemon = make_daemon(registry.root, trial={"max_row_us": 0.001}).start(ready=False)
    assert daemon.wait(60) == 3
    assert "trial.max_row_us is 0.001" in daemon.log.read_text()
