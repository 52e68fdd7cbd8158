"""The registry over HTTP: a version's whole life, and everything that is refused."""

from __future__ import annotations

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from tests.http.conftest import Gateway, Serve
from tests.support import wait_until

from modelreg import Registry

ALPHA = "/api/v1/models/alpha"


def test_a_version_from_upload_to_rollback(serve: Serve, trained):
    """Uploaded, validated, compared, promoted, served, rolled back; the log names the token's bearer."""
    gateway = serve()
    http, data = gateway.operator, trained["1.2.0"].path.read_bytes()
    made = http.post(
        ALPHA,
        content=data,
        params={"version": "2.0.0", "metrics": '{"ic": 0.06}', "parent": "alpha:1.0.0", "tag": ["a", "b"]},
    )
    assert made.status_code == 201, made.text
    assert made.headers["location"] == f"{ALPHA}/2.0.0"
    assert made.json()["actor"] == "trader"
    assert made.json()["tags"] == ["a", "b"]
    assert "path" not in made.json()
    report = http.post(f"{ALPHA}/2.0.0/validate").json()
    assert report["golden_rows"] > 0
    assert http.get(f"{ALPHA}/2.0.0").json()["status"] == "validated"

    compared = http.get(f"{ALPHA}/compare", params={"version": ["production", "2.0.0"]}).json()["metrics"]
    assert (compared[0]["metric"], compared[0]["values"]["alpha:2.0.0"]) == ("ic", 0.06)
    lineage = http.get(f"{ALPHA}/2.0.0/lineage").json()
    assert [each["ref"] for each in lineage["ancestors"]] == ["alpha:1.0.0"]
    assert http.get(f"{ALPHA}/2.0.0/gates").json() == []

    promoted = http.post(f"{ALPHA}/2.0.0/promote", json={"reason": "more data"})
    assert (promoted.json()["from_version"], promoted.json()["to_version"]) == ("1.0.0", "2.0.0")
    assert promoted.headers["etag"] == f'"{promoted.json()["seq"]}"'
    assert http.get(f"{ALPHA}/current").json()["version"] == "2.0.0"
    wait_until(lambda: gateway.daemon.model()["version"] == "2.0.0", 20)
    assert http.post("/model/reload").json()["version"] == "2.0.0"

    back = http.post(f"{ALPHA}/rollback", json={"reason": "spread widened", "mark_failed": True})
    assert back.json()["to_version"] == "1.0.0"
    wait_until(lambda: gateway.daemon.model()["version"] == "1.0.0", 20)
    failed = http.get(ALPHA, params={"status": "failed"}).json()["versions"]
    assert [each["version"] for each in failed] == ["2.0.0"]
    entries = http.get(f"{ALPHA}/history", params={"limit": 2}).json()
    assert [(entry["actor"], entry["reason"]) for entry in entries["entries"]] == [
        ("trader", "spread widened"),
        ("trader", "more data"),
    ]
    older = http.get(f"{ALPHA}/history", params={"before": entries["next"]}).json()
    assert older["entries"][0]["seq"] == entries["next"] - 1
    held = http.get(f"{ALPHA}/held", params={"at": entries["entries"][1]["at"]}).json()["held"]
    assert [(each["channel"], each["version"]) for each in held] == [("production", "2.0.0")]
    assert http.post(f"{ALPHA}/2.0.0/promote", json={"reason": "again"}).status_code == 409


def test_reload_says_what_happened(serve: Serve, trained):
    """True with the version once it serves; a rejected one is a 409 with the reason, and what serves goes on."""
    gateway = serve(watch={"inotify": False, "poll_interval_s": 600})
    registry = Registry(gateway.daemon.directory / "models", actor="tester")
    registry.promote("alpha:1.1.0", reason="better")
    reply = gateway.operator.post("/model/reload", params={"model": "alpha"}).json()
    assert (reply["reloaded"], reply["version"]) == (True, "1.1.0")
    cut = gateway.daemon.directory / "cut.txt"
    cut.write_bytes(trained["1.2.0"].path.read_bytes()[:9000])
    registry.register("alpha", cut, version="1.3.0", golden=False, features=list("abcd"))
    registry.promote("alpha:1.3.0", reason="broken", allow_schema_change=True)
    refused = gateway.operator.post("/model/reload")
    assert (refused.status_code, refused.json()["code"]) == (409, "REJECTED")
    assert "goes on serving" in refused.json()["detail"]


def test_lists_come_in_pages_and_by_filter(gateway: Gateway):
    """Newest first; `next` leads on; nothing is listed twice."""
    http, seen, after = gateway.operator, [], None
    while True:
        page = http.get(ALPHA, params={"limit": 1, **({"after": after} if after else {})}).json()
        seen += [each["version"] for each in page["versions"]]
        after = page["next"]
        if after is None:
            break
    everything = [each["version"] for each in http.get(ALPHA).json()["versions"]]
    assert seen == everything
    assert {"1.0.0", "1.1.0", "1.2.0"} <= set(seen)
    held = http.get(ALPHA, params={"channel": "production"}).json()["versions"]
    assert [each["version"] for each in held] == ["1.0.0"]
    assert http.get(ALPHA, params={"min": "ic=0.9"}).json()["versions"] == []
    models = http.get("/api/v1/models").json()["models"]
    assert (models[0]["name"], models[0]["channels"]) == ("alpha", {"production": "1.0.0"})


def test_an_answer_that_is_known_isnt_sent_again(gateway: Gateway):
    """ETag is the log's sequence; If-None-Match with it gets 304 without a body."""
    first = gateway.operator.get(f"{ALPHA}/current")
    again = gateway.operator.get(f"{ALPHA}/current", headers={"If-None-Match": first.headers["etag"]})
    assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", first.headers["etag"])


def test_a_form_with_everything(gateway: Gateway, trained):
    """Outputs by name, golden rows, artefacts and options in one multipart upload; file names are only names."""
    header = ",".join(trained["1.0.0"].booster.feature_name())
    made = gateway.operator.post(
        "/api/v1/models/bundle",
        files=[
            ("output.1d", ("../../etc/passwd", trained["1.0.0"].path.read_bytes())),
            ("output.7d", ("/tmp/model.txt", trained["1.1.0"].path.read_bytes())),
            ("golden", ("rows.csv", f"{header}\n0.01,0.02,0.03,0.2\n")),
            ("MODEL_CARD.md", ("card.md", "# A card\n")),
        ],
        data={
            "version": "1.0.0",
            "notes": "two horizons",
            "meta": '{"task_type": "regression"}',
            "tag": ["x", "y"],
        },
    )
    assert made.status_code == 201, made.text
    facts = made.json()["metadata"]
    assert facts["outputs"] == {"1d": "1d.txt", "7d": "7d.txt"} or set(facts["outputs"]) == {"1d", "7d"}
    assert (facts["notes"], facts["task_type"], made.json()["tags"]) == (
        "two horizons",
        "regression",
        ["x", "y"],
    )
    directory = gateway.daemon.directory / "models/bundle/versions/1.0.0"
    assert (directory / "MODEL_CARD.md").read_text() == "# A card\n"
    assert "golden.npz" in facts["files"]


@pytest.mark.parametrize(
    ("request_", "status", "code", "told"),
    [
        ({"content": b"tree\nnonsense"}, 422, "load", "model"),
        ({"content": b""}, 400, "usage", "empty"),
        ({"content": b"x", "params": {"path": "/etc/passwd"}}, 400, "usage", "no option 'path'"),
        ({"content": b"x", "params": {"metrics": "@/etc/passwd"}}, 400, "usage", "not a JSON object"),
        ({"content": b"x", "params": {"metrics": "[1]"}}, 400, "usage", "not a JSON object"),
        ({"content": b"x", "params": {"format": "exe"}}, 400, "usage", "lightgbm"),
        ({"content": b"x", "params": {"version": "new"}}, 400, "usage", "semver"),
        ({"content": b"x", "params": {"version": ["1.0.0", "2.0.0"]}}, 400, "usage", "2 times"),
        ({"content": b"x", "params": {"format": "joblib", "features": "a"}}, 400, "usage", "joblib"),
        ({"content": bytes(2 << 20)}, 413, "TOO_LARGE", "max_upload_mb"),
        ({"content": (bytes(1000) for _ in range(2000))}, 413, "TOO_LARGE", "max_upload_mb"),
        ({"content": b"x", "headers": {"Content-Encoding": "gzip"}}, 415, "usage", "Content-Encoding"),
        ({"files": [("exe", ("x.txt", b"x"))]}, 400, "usage", "part 'exe'"),
        ({"files": [("model", ("a.txt", b"x")), ("model", ("b.txt", b"x"))]}, 400, "usage", "twice"),
        ({"files": [("golden", ("x.csv", b"a\n1\n"))]}, 400, "usage", "no model"),
        ({"files": [("output.../x", ("x.txt", b"x"))]}, 400, "usage", "output"),
        (
            {"content": b"x", "headers": {"Content-Type": "multipart/form-data; boundary=y"}},
            400,
            "usage",
            "form",
        ),
    ],
)
def test_an_upload_that_is_refused_leaves_nothing(
    gateway: Gateway, registry: Registry, request_, status, code, told
):
    """One problem that says what and where; no version, and no file outside the registry is read."""
    before = registry.models()
    reply = gateway.operator.post("/api/v1/models/fresh", **request_)
    assert (reply.status_code, reply.json()["code"]) == (status, code), reply.text
    assert reply.headers["content-type"] == "application/problem+json"
    assert told in reply.json()["detail"]
    assert "modeld-upload" not in reply.text
    assert registry.models() == before


def test_the_same_version_twice_is_a_conflict(gateway: Gateway, trained):
    """409; the first stays as it is."""
    reply = gateway.operator.post(
        ALPHA, content=trained["1.2.0"].path.read_bytes(), params={"version": "1.0.0"}
    )
    assert (reply.status_code, reply.json()["code"]) == (409, "conflict")


def test_a_decision_by_somebody_else_meanwhile_makes_ours_void(gateway: Gateway):
    """If-Match with an older ETag: 412, and nothing is done; with the newest it is done."""
    http = gateway.operator
    etag = http.get(ALPHA).headers["etag"]
    body = {"to": "staging", "reason": "try it"}
    one = http.post(f"{ALPHA}/1.1.0/promote", json=body, headers={"If-Match": etag})
    assert one.status_code == 200
    for path, sent in ((f"{ALPHA}/1.2.0/promote", body), (f"{ALPHA}/rollback", {"reason": "x"})):
        late = http.post(path, json=sent, headers={"If-Match": etag})
        assert (late.status_code, late.json()["code"]) == (412, "stale")
        assert http.post(path, json=sent, headers={"If-Match": "nonsense"}).status_code == 412
    assert http.get(f"{ALPHA}/current", params={"channel": "staging"}).json()["version"] == "1.1.0"
    newest = http.get(ALPHA).headers["etag"]
    assert newest == one.headers["etag"]
    assert http.post(f"{ALPHA}/1.2.0/promote", json=body, headers={"If-Match": newest}).status_code == 200


def test_the_same_key_is_done_once(gateway: Gateway, registry: Registry):
    """Two requests with one Idempotency-Key, at the same time even: one record, one answer."""
    http, seq = gateway.operator, registry.state("alpha").seq
    headers = {"Idempotency-Key": "k-1"}

    def send(version: str = "1.1.0") -> tuple[int, str]:
        reply = http.post(
            f"{ALPHA}/{version}/promote", json={"to": "shadow", "reason": "shadow it"}, headers=headers
        )
        return reply.status_code, reply.text

    with ThreadPoolExecutor(4) as pool:
        answers = set(pool.map(lambda _: send(), range(4)))
    assert {status for status, _ in answers} <= {200, 409}
    assert send() in answers
    assert registry.state("alpha").seq == seq + 1
    assert send("1.2.0")[0] == 422


def test_a_gate_that_isnt_passed_is_named_with_its_value(serve: Serve):
    """422 with every gate, its rule and what the version has to show; an override is logged."""
    gateway = serve(start=False)
    settings = gateway.daemon.directory / "models/.registry/registry.yaml"
    settings.write_text("gates:\n  production:\n    metrics: {ic: {above: 0.02}}\n")
    http = gateway.operator
    reply = http.post(f"{ALPHA}/1.1.0/promote", json={"reason": "hope"})
    assert (reply.status_code, reply.json()["code"]) == (422, "gate"), reply.text
    assert reply.json()["gates"] == [{"gate": "ic", "rule": "> 0.02", "value": None, "passed": False}]
    assert http.get(f"{ALPHA}/1.1.0/gates").json() == reply.json()["gates"]
    forced = http.post(f"{ALPHA}/1.1.0/promote", json={"reason": "known good", "override_gates": True})
    assert forced.json()["overridden"] == ["ic is missing, required > 0.02"]


def test_changed_bytes_are_never_promoted_and_a_lost_registry_is_a_503(serve: Serve):
    """Integrity is a 422 that names the file; without the registry there is a 503, and it is found again."""
    gateway = serve(start=False)
    root = gateway.daemon.directory / "models"
    model = next((root / "alpha/versions/1.2.0").glob("model.*"))
    model.chmod(0o644)
    model.write_bytes(model.read_bytes()[:-1])
    for act, body in (("promote", {"reason": "x"}), ("validate", None)):
        reply = gateway.operator.post(f"{ALPHA}/1.2.0/{act}", json=body)
        assert (reply.status_code, reply.json()["code"]) == (422, "integrity")
        assert "model.txt" in reply.json()["detail"]
    away = shutil.move(root, Path(f"{root}-away"))
    lost = gateway.operator.get("/api/v1/models")
    assert (lost.status_code, lost.headers["retry-after"]) == (503, "1")
    shutil.move(away, root)
    assert gateway.operator.get(f"{ALPHA}/current").json()["version"] == "1.0.0"


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("GET", "/api/v1/models/none/current", None, 404),
        ("GET", f"{ALPHA}/9.9.9", None, 404),
        ("GET", f"{ALPHA}/..%2f..%2fetc", None, 404),
        ("GET", "/api/v1/models/..", None, 404),
        ("GET", "/api/v1/models/%2e%2e/current", None, 422),
        ("GET", "/api/v1/models/A/current", None, 422),
        ("GET", f"{ALPHA}/current?channel=No", None, 422),
        ("GET", f"{ALPHA}?limit=0", None, 422),
        ("GET", f"{ALPHA}?sort=colour", None, 400),
        ("GET", f"{ALPHA}?min=ic", None, 422),
        ("GET", f"{ALPHA}/compare?version=1.0.0", None, 422),
        ("GET", f"{ALPHA}/held?at=yesterday", None, 422),
        ("GET", f"{ALPHA}/held?at=2026-02-30", None, 400),
        ("POST", f"{ALPHA}/1.1.0/promote", {}, 422),
        ("POST", f"{ALPHA}/1.1.0/promote", {"reason": " "}, 422),
        ("POST", f"{ALPHA}/1.1.0/promote", {"reason": "x", "force": True}, 422),
        ("POST", f"{ALPHA}/rollback", {"reason": "x", "to": "9.9.9"}, 404),
        ("POST", "/model/reload?model=none", None, 404),
        ("DELETE", f"{ALPHA}/1.1.0", None, 405),
    ],
)
def test_a_wrong_question_gets_a_problem(gateway: Gateway, method, path, body, status):
    """problem+json with status, title, code and what is wrong where."""
    reply = gateway.operator.request(method, path, json=body)
    assert reply.status_code == status, reply.text
    assert reply.headers["content-type"] == "application/problem+json"
    problem = reply.json()
    assert problem["status"] == status
    assert problem["title"]
    assert problem["detail"]
    assert problem["code"]


@pytest.mark.parametrize(
    ("method", "path", "sent", "told"),
    [
        ("GET", "/api/v1/models/A/current", {}, "path.name: 'A' isn't a model's name: up to 64 of"),
        ("GET", f"{ALPHA}/new", {}, "path.version: 'new' isn't a version: 1.2.3"),
        ("GET", f"{ALPHA}/held?at=soon", {}, "query.at: 'soon' isn't a date or a time: 2026-01-15"),
        (
            "POST",
            f"{ALPHA}/1.1.0/promote",
            {"json": {"reason": "x", "to": "A"}},
            "body.to: 'A' isn't a channel",
        ),
        (
            "POST",
            f"{ALPHA}/1.1.0/promote",
            {"json": {"reason": " "}},
            "body.reason: ' ' isn't a reason: one line",
        ),
        ("POST", f"{ALPHA}/1.1.0/promote", {"content": b"reason"}, "Content-Type: application/json"),
        (
            "POST",
            f"{ALPHA}/1.1.0/promote",
            {"content": b"{reason", "headers": {"Content-Type": "application/json"}},
            "not JSON: Expecting property name",
        ),
        ("DELETE", ALPHA, {}, f"{ALPHA} takes GET, POST"),
        ("GET", "/api/v2", {}, "no path /api/v2"),
    ],
)
def test_a_problem_says_what_and_where_in_words(gateway: Gateway, method, path, sent, told):
    """Not by a regular expression, nor by the framework's vocabulary."""
    assert told in gateway.operator.request(method, path, **sent).json()["detail"]
