"""The admin socket and the events to the letter: what an operator can't have, and a day of one."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import zmq
from tests.e2e.conftest import register_truncated
from tests.e2e.protocol import (
    ALPHA,
    BUNDLE,
    ENCODINGS,
    WHOLE,
    WIDE,
    Encode,
    Header,
    Served,
    check_refusal,
    decoded,
)
from tests.registry.conftest import Trained
from tests.support import wait_until

#: The first test of the file waits for a daemon with three models, on a machine that may be busy.
pytestmark = pytest.mark.timeout(300)

ADMIN_REFUSALS: dict[str, tuple[Header, str, list[str]]] = {
    "no operation": ({}, "MALFORMED", ["op"]),
    "no such operation": ({"op": "restart"}, "UNKNOWN_OP", ["restart", "reload"]),
    "a data operation": ({"op": "predict"}, "UNKNOWN_OP", ["predict"]),
    "reload of no model": ({"op": "reload", "model_name": "beta"}, "MODEL_NOT_FOUND", ["beta", "alpha"]),
    "rollback of which model": ({"op": "rollback", "reason": "x"}, "MODEL_NOT_FOUND", ["alpha"]),
    "rollback of no model": ({"op": "rollback", "model_name": "beta", "reason": "x"}, "MODEL_NOT_FOUND", ["beta"]),
    "rollback without a reason": ({"op": "rollback", **ALPHA}, "MALFORMED", ["reason"]),
    "rollback with an empty reason": ({"op": "rollback", **ALPHA, "reason": " "}, "MALFORMED", ["reason"]),
    "rollback of another generation": (
        {"op": "rollback", **ALPHA, "reason": "x", "expect_generation": 1}, "CONFLICT", ["alpha", "nothing was done"],
    ),
    "rollback to no version": (
        {"op": "rollback", **ALPHA, "reason": "x", "to": "9.9.9"}, "VERSION_NOT_AVAILABLE", ["9.9.9"],
    ),
    "hold without a reason": ({"op": "hold", **ALPHA}, "MALFORMED", ["reason"]),
    "hold of no model": ({"op": "hold", "model_name": "beta", "reason": "x"}, "MODEL_NOT_FOUND", ["beta"]),
    "release of no model": ({"op": "release", "model_name": "beta"}, "MODEL_NOT_FOUND", ["beta"]),
    "history of no model": ({"op": "history", "model_name": "beta"}, "MODEL_NOT_FOUND", ["beta"]),
    "history of no length": ({"op": "history", "limit": "all"}, "MALFORMED", ["limit"]),
}  # fmt: skip


@pytest.mark.parametrize("case", ADMIN_REFUSALS)
@pytest.mark.parametrize("encode", ENCODINGS)
def test_what_an_operator_cannot_have(served: Served, case: str, encode: Encode) -> None:
    """An error with a code, and nothing done."""
    header, code, words = ADMIN_REFUSALS[case]
    reply = served.operate({"id": 5, **header}, encode=encode)
    check_refusal({"id": 5, **reply}, 5, code, words)
    assert served.daemon.model()["generation"] == served.generation["alpha"]


@pytest.mark.parametrize("encode", ENCODINGS)
def test_the_status(served: Served, encode: Encode) -> None:
    """Every field of the table, for every model."""
    status = served.operate({"op": "status"}, encode=encode)
    assert [model["model_name"] for model in status["models"]] == ["alpha", BUNDLE, WIDE]
    alpha = status["models"][0]
    assert (alpha["version"], alpha["generation"], alpha["state"], alpha["channel"], alpha["last_rejection"]) == (
        "1.1.0", served.generation["alpha"], "serving", "production", None,
    )  # fmt: skip
    assert alpha["digest"].startswith("sha256:")
    assert datetime.fromisoformat(alpha["since"]).utcoffset() is not None
    assert alpha["requests"] >= 0
    assert alpha["errors"] >= 0
    assert {"p50_us", "p99_us"} <= alpha.keys()
    assert "poll" in status["watching"]
    assert {"alpha", BUNDLE, WIDE} == {worker["model_name"] for worker in status["workers"]}
    assert all(worker.keys() == {"model_name", "version", "pid", "state"} for worker in status["workers"])
    assert status["degraded"] == []


class Events:
    """What the events socket published, in order."""

    def __init__(self, sock: zmq.Socket[bytes]) -> None:
        self._sock = sock

    def until(self, kind: str, model: str = "alpha", **fields: Any) -> Header:
        """The next event of that kind; every one on the way is checked."""
        while True:
            topic, body = self._sock.recv_multipart()
            event = decoded(body)
            assert topic == f"{event['kind']}.{event['model_name']}".encode()
            assert event["kind"] in ("swap", "rollback", "rejected", "hold", "state")
            assert {
                "kind",
                "model_name",
                "from",
                "to",
                "generation",
                "digest",
                "reason",
                "actor",
                "at",
            } <= event.keys()
            at = datetime.fromisoformat(event["at"])
            assert at.utcoffset() is not None
            assert not at.utcoffset()
            if (event["kind"], event["model_name"]) == (kind, model):
                assert {name: event[name] for name in fields} == fields
                return event


@pytest.fixture
def events(served: Served) -> Iterator[Events]:
    with zmq.Context() as context, context.socket(zmq.SUB) as sock:
        sock.set(zmq.RCVTIMEO, 20_000)
        sock.set(zmq.LINGER, 0)
        sock.subscribe(b"")
        sock.connect(served.daemon.events)

        def subscribed() -> bool:
            served.operate({"op": "release", "model_name": WIDE})
            return bool(sock.poll(50))

        wait_until(subscribed)
        yield Events(sock)


def test_an_operators_day(
    served: Served, events: Events, trained: dict[str, Trained], tmp_path: Path
) -> None:
    """Reload, hold, release, roll back, reject, look back, drain: each answer, and the event that tells the others."""
    operate, registry = served.operate, served.registry

    def production() -> tuple[str | None, int]:
        entry = registry.state("alpha").channels["production"]
        return entry.version, entry.seq

    # Nothing new, for one and for all; of the swap before, which nobody asked for, the first reload tells.
    now = served.generation["alpha"]
    assert operate({"op": "reload", **ALPHA, "wait": False}) == {"reloaded": False, "reason": "nothing new"}
    operate({"op": "reload"})
    nothing = operate({"op": "reload", **ALPHA})
    assert nothing == {
        "reloaded": False, "model_name": "alpha", "version": "1.1.0", "generation": now, "reason": "nothing new",
    }  # fmt: skip
    assert operate({"op": "reload", **ALPHA, "wait": False}) == {"reloaded": False, "reason": "nothing new"}
    all_of_them = operate({"op": "reload"})
    assert (all_of_them["reloaded"], all_of_them["reason"]) == (False, "nothing new")
    assert {line["model_name"] for line in all_of_them["models"]} == {"alpha", BUNDLE, WIDE}

    # Held over the open: a promotion waits, and an operator may go back all the same.
    assert operate({"op": "hold", **ALPHA, "reason": "the open"}) == {"held": True, "models": ["alpha"]}
    held = events.until("hold", held=True, reason="the open", generation=now)
    assert held["actor"].startswith("uid:")
    assert "the open" in served.daemon.model()["held"]
    registry.promote("alpha:1.2.0", reason="next")
    waiting = operate({"op": "reload", **ALPHA})
    assert (waiting["reloaded"], waiting["version"]) == (False, "1.1.0")
    assert "the open" in waiting["reason"]
    back = {"op": "rollback", **ALPHA, "reason": "x"}
    check_refusal({"id": None, **operate(back)}, None, "CONFLICT", ["1.2.0", "behind the hold", "--to 1.1.0"])
    rolled = operate({**back, "to": "1.1.0"})
    assert (rolled["from"], rolled["to"]) == ("1.2.0", "1.1.0")
    assert registry.state("alpha").versions["1.2.0"].status != "failed"
    registry.promote("alpha:1.2.0", reason="next")
    assert operate({"op": "reload", **ALPHA})["version"] == "1.1.0"
    assert operate({"op": "release", **ALPHA}) == {"held": False, "models": ["alpha"]}
    events.until("hold", held=False)

    # Something new, whoever was first to see it.
    reloaded = operate({"op": "reload", **ALPHA})
    version, now = production()
    assert reloaded == {"reloaded": True, "model_name": "alpha", "version": "1.2.0", "generation": now}
    assert version == "1.2.0"
    swap = events.until("swap", to="1.2.0", generation=now)
    assert swap["from"] == "1.1.0"
    assert swap["digest"] == served.daemon.model()["digest"]

    # Back, once: the same message again does nothing.
    back = {"op": "rollback", **ALPHA, "reason": "spread", "expect_generation": now, "mark_failed": False}
    rolled = operate(back)
    version, later = production()
    assert {**rolled, "written": None} == {
        "rolled_back": True, "model_name": "alpha", "from": "1.2.0", "to": "1.1.0", "generation": later,
        "written": None,
    }  # fmt: skip
    events.until("rollback", to="1.1.0", generation=later, reason="spread", **{"from": "1.2.0"})
    check_refusal({"id": None, **operate(back)}, None, "CONFLICT", [str(now), str(later)])
    assert production() == ("1.1.0", later)
    assert registry.state("alpha").versions["1.2.0"].status != "failed"
    assert registry.history("alpha")[0].actor.startswith("uid:")

    # To a version by name, marking the one that is left.
    rolled = operate({"op": "rollback", **ALPHA, "reason": "older", "to": "1.0.0"})
    assert (rolled["from"], rolled["to"]) == ("1.1.0", "1.0.0")
    assert registry.state("alpha").versions["1.1.0"].status == "failed"
    events.until("rollback", to="1.0.0")

    # Rejected: what served goes on.
    register_truncated(registry, trained["1.1.0"], tmp_path, "2.0.0")
    registry.promote("alpha:2.0.0", reason="bad")
    refusal = operate({"op": "reload", **ALPHA})
    check_refusal({"id": None, **refusal}, None, "REJECTED", ["alpha 2.0.0", "1.0.0 goes on serving"])
    assert refusal["parameters"]["version"] == "2.0.0"
    rejected = events.until("rejected")
    assert rejected["reason"]
    last = served.daemon.model()["last_rejection"]
    assert last.keys() == {"version", "reason", "at"}
    assert last["version"] == "2.0.0"

    # Looking back, newest first; counters.
    decisions = operate({"op": "history", **ALPHA, "limit": 3})["history"]
    assert len(decisions) == 3
    assert [one["at"] for one in decisions] == sorted((one["at"] for one in decisions), reverse=True)
    assert {one["model_name"] for one in operate({"op": "history", "limit": 1000})["history"]} >= {
        "alpha",
        WIDE,
    }
    served.ask({"op": "predict"})
    served.ask({**ALPHA, "features": WHOLE})
    stats = operate({"op": "stats"})
    assert {"dropped_replies", "dropped_messages", "errors", "models"} <= stats.keys()
    assert sum(stats["errors"].values()) > 0
    assert stats["models"]["alpha"].keys() >= {"requests", "errors", "latency_us", "predict_us"}
    assert sum(stats["models"]["alpha"]["latency_us"].values()) > 0

    # The end: exit status 0.
    assert operate({"op": "drain", "id": "end"}) == {"draining": True}
    assert served.daemon.wait() == 0
