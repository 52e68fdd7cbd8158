"""/metrics: what Prometheus reads, and that the dashboard and the alerts speak of what there is."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families
from tests.http.conftest import Gateway, Serve
from tests.support import wait_until

from modeld.http.metrics import _daemon
from modelreg import Registry

MONITORING = Path(__file__).parents[2] / "config/monitoring"
ROW = {"inputs": [{"name": "f", "shape": [1, 4], "datatype": "FP64", "data": [0.1, 0.1, 0.1, 0.1]}]}


def scraped(gateway: Gateway) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample by name and labels."""
    text = gateway.client.get("/metrics").text
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_the_daemons_counters_the_registrys_state_and_our_own_requests(serve: Serve):
    """Each grows by what was done; histograms are cumulative and add up."""
    gateway = serve()
    model = (("model", "alpha"),)
    for _ in range(3):
        gateway.client.post("/v2/models/alpha/infer", json=ROW)
    gateway.client.post("/v2/models/alpha/infer", json={"inputs": [{**ROW["inputs"][0], "shape": [4, 1]}]})
    Registry(gateway.daemon.directory / "models", actor="tester").promote("alpha:1.1.0", reason="better")
    wait_until(lambda: gateway.daemon.model()["version"] == "1.1.0", 20)
    found = scraped(gateway)
    assert found["modeld_up", ()] == found["modeld_ready", ()] == found["modelreg_up", ()] == 1
    assert found["modeld_requests_total", model] == 3
    assert found["modeld_errors_total", (("code", "SHAPE_MISMATCH"), ("model", ""))] == 1
    assert found["modeld_swaps_total", model] == 2
    assert found["modeld_rejections_total", model] == found["modeld_rollbacks_total", model] == 0
    assert found["modeld_latency_seconds_count", model] == 3
    assert found["modeld_latency_seconds_bucket", (("le", "+Inf"), *model)] == 3
    assert 0 < found["modeld_predict_seconds_sum", model] <= found["modeld_latency_seconds_sum", model]
    assert found["modeld_queue_requests", model] == 0
    assert found["modelreg_versions", (*model, ("status", "registered"))] == 3
    infers = (("handler", "infer"), ("method", "POST"))
    assert found["modeld_http_requests_total", (*infers, ("status", "200"))] == 3
    assert found["modeld_http_requests_total", (*infers, ("status", "400"))] == 1
    info = next(dict(labels) for name, labels in found if name == "modeld_model_info")
    assert (info["version"], info["channel"]) == ("1.1.0", "production")


def test_the_dashboard_and_the_alerts_ask_for_metrics_that_there_are(gateway: Gateway):
    """Every name in their expressions is one that a scrape has."""
    gateway.client.post("/v2/models/alpha/infer", json=ROW)
    gateway.client.post("/v2/models/none/infer", json=ROW)
    gateway.client.post("/v2/models/alpha/infer", json={"inputs": [{**ROW["inputs"][0], "shape": [4, 1]}]})
    text = gateway.client.get("/metrics").text
    there = set(re.findall(r"^(\w+)", text, re.M)) | set(re.findall(r"^# TYPE (\w+)", text, re.M))
    dashboard = json.loads((MONITORING / "grafana-dashboard.json").read_text())
    asked = [target["expr"] for panel in dashboard["panels"] for target in panel.get("targets", ())]
    rules = yaml.safe_load((MONITORING / "alerts.yaml").read_text())
    asked += [rule["expr"] for group in rules["groups"] for rule in group["rules"]]
    assert len(asked) > 15
    for name in {name for text in asked for name in re.findall(r"\bmodel(?:d|reg)_\w+", text)}:
        assert name in there, name
    for group in rules["groups"]:
        for rule in group["rules"]:
            assert rule["annotations"]["summary"]
            assert rule["annotations"]["description"]


def test_what_is_degraded_is_a_label_of_few_values():
    """The part or the model that is named, once; never the free text behind it."""
    stats = {"uptime_s": 1, "models": {}, "errors": {}}
    stats |= dict.fromkeys(("dropped_replies", "dropped_messages", "zygote_restarts"), 0)
    told = ["source: /a: gone", "alpha: no copy is kept: x", "alpha: condemned"]
    families = _daemon({"ready": True, "degraded": told, "models": []}, stats)
    found = next(family for family in families if family.name == "modeld_degraded")
    assert [sample.labels["reason"] for sample in found.samples] == ["alpha", "source"]


@pytest.mark.system
def test_promtool_accepts_the_rules_and_they_fire():
    """Debian's promtool: syntax, and the rules' own tests."""
    promtool = shutil.which("promtool")
    assert promtool
    for arguments in (["check", "rules", "alerts.yaml"], ["test", "rules", "alerts_test.yaml"]):
        subprocess.run([promtool, *arguments], cwd=MONITORING, check=True, timeout=60)


@pytest.mark.system
def test_promtool_accepts_the_configuration_of_the_page(tmp_path: Path):
    """docs/http.md's block for Prometheus, with the rules where they are here."""
    page = (MONITORING.parents[1] / "docs" / "http.md").read_text()
    (shown,) = re.findall(r"^```yaml\n(scrape_configs:.*?)^```", page, re.M | re.S)
    config = tmp_path / "prometheus.yml"
    config.write_text(re.sub(r"/opt/\S+/config/monitoring", str(MONITORING), shown))
    (tmp_path / "token").touch()
    config.write_text(config.read_text().replace("/etc/prometheus/modeld.token", str(tmp_path / "token")))
    done = subprocess.run(
        ["promtool", "check", "config", config], text=True, capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rules found" in done.stdout


@pytest.mark.system
def test_promtool_accepts_a_scrape(gateway: Gateway):
    """`promtool check metrics`: names, types and help as Prometheus wants them."""
    text = gateway.client.get("/metrics").text
    done = subprocess.run(
        ["promtool", "check", "metrics"], input=text, text=True, capture_output=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
