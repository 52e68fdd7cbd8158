"""Promotion gates: what is refused, what is logged, and how time and approvals count."""

from __future__ import annotations

import datetime as dt

import pytest

from modelreg import ConflictError, PromotionGateError, Registry
from modelreg.settings import ChannelGates, MetricGate, Settings, load_settings

CONFIG = "config/registry.yaml"


@pytest.fixture
def clock():
    class Clock:
        now = dt.datetime(2024, 1, 15, tzinfo=dt.UTC)

        def __call__(self) -> dt.datetime:
            return self.now

    return Clock()


@pytest.fixture
def gated(root, models, clock, request):
    """A registry with the gates of config/registry.yaml and one version that has the metrics."""
    settings = load_settings(request.config.rootpath / CONFIG)
    registry = Registry.init(root, actor="trainer", settings=settings, clock=clock)
    registry.register(
        "m", models["a"].path, version="1.0.0", golden=False, metrics={"ic": 0.04, "sharpe_ratio": 1.2}
    )
    return registry


def test_the_default_gates_need_metrics_and_a_day_in_staging(gated, clock):
    """ic, sharpe (by its other name too) and 24 h in staging by the log's clock, in several stays."""
    with pytest.raises(PromotionGateError, match=r"hours_in\.staging is 0") as caught:
        gated.promote("m:1.0.0", reason="go")
    assert [(g.gate, g.value, g.passed) for g in caught.value.gates] == [
        ("ic", 0.04, True), ("sharpe", 1.2, True), ("hours_in.staging", 0.0, False),
    ]  # fmt: skip
    gated.promote("m:1.0.0", to="staging", reason="paper trading")
    clock.now += dt.timedelta(hours=20)
    gated.promote("m:1.0.0", to="staging", reason="again")
    clock.now += dt.timedelta(hours=3, minutes=59)
    with pytest.raises(PromotionGateError, match=r"hours_in\.staging"):
        gated.promote("m:1.0.0", reason="go")
    clock.now += dt.timedelta(minutes=1)
    assert all(gate.passed for gate in gated.gates("m:1.0.0"))
    assert gated.promote("m:1.0.0", reason="go").overridden == ()


def test_a_missing_metric_fails_its_gate_and_an_override_is_logged(gated, models):
    """The record names each gate that was overridden; a rollback is never held up by gates."""
    gated.register("m", models["b"].path, version="1.1.0", golden=False, metrics={"ic": 0.02})
    with pytest.raises(PromotionGateError) as caught:
        gated.promote("m:1.1.0", reason="go")
    assert [g.value for g in caught.value.gates] == [0.02, None, 0.0]
    assert "sharpe is missing, required > 0.5" in str(caught.value)
    commit = gated.promote("m:1.1.0", reason="emergency", override_gates=True)
    assert len(commit.overridden) == 3
    assert gated.history("m")[0].ops[0]["overridden"][0] == "ic is 0.02, required > 0.02"
    gated.promote("m:1.0.0", reason="emergency", override_gates=True)
    assert gated.rollback("m", reason="back").to_version == "1.1.0"


def test_integrity_comes_before_gates(gated, flip):
    """Bytes that differ are told first, and no override helps."""
    from modelreg import IntegrityError

    flip(gated.version_dir("m", "1.0.0") / "model.txt")
    with pytest.raises(IntegrityError):
        gated.promote("m:1.0.0", reason="go", override_gates=True)


def test_custom_gates_with_limits_and_approvals(root, models):
    """Any metric, nested ones too, with limits on both sides; approvals by others than the registrant."""
    limits = {"1d.rmse": MetricGate(max=0.1), "volatility": MetricGate(min=0.1, below=0.3)}
    settings = Settings(
        gates={"canary": ChannelGates(metrics=limits, approvals=2, approvers=["ann", "bob", "me"])}
    )
    registry = Registry.init(root, actor="me", settings=settings)
    metrics = {"1d": {"rmse": 0.1}, "volatility": 0.1}
    registry.register("m", models["a"].path, version="1.0.0", golden=False, metrics=metrics)
    registry.promote("m:1.0.0", reason="production has no gates")
    with pytest.raises(ConflictError, match="another actor"):
        registry.approve("m:1.0.0")
    for actor in ("ann", "ann", "eve"):
        registry.approve("m:1.0.0", actor=actor)
    with pytest.raises(PromotionGateError, match="approvals is 1, required >= 2 of ann, bob, me"):
        registry.promote("m:1.0.0", to="canary", reason="go")
    registry.approve("m:1.0.0", actor="bob")
    assert registry.promote("m:1.0.0", to="canary", reason="go").to_version == "1.0.0"


def test_a_registry_brings_its_own_gates(run, root, models):
    """Without --config those in .registry/registry.yaml hold; init writes it with all gates commented out."""
    run("init")
    own = root / ".registry/registry.yaml"
    assert run("register", "m", models["a"].path, "--version", "1.0.0", "--no-golden").status == 0
    assert run("promote", "m:1.0.0", "--to", "staging", "--reason", "x").status == 0
    template = own.read_text()
    active = "\n".join(
        line.removeprefix("# ") for line in template.splitlines() if "gates" in line or ":" in line
    )
    own.write_text(active[active.index("gates:") :])
    refused = run("promote", "m:1.0.0", "--reason", "go")
    assert (refused.status, refused.out) == (5, "")
    assert "ic is missing, required > 0.02" in refused.err
    done = run("promote", "m:1.0.0", "--reason", "go", "--override-gates", "--json")
    assert done.status == 0
    assert len(done.json["overridden"]) == 3
    assert "overridden: ic" in run("history", "m").out
    own.write_text("gates: {production: {metric: {}}}")
    assert run("list").status == 2


def test_a_schema_change_is_noted_for_the_daemon(two):
    """`allow_schema_change` is on the record and in the channel's state until the next promotion."""
    two.promote("momentum:1.0.0", reason="go")
    two.promote("momentum:1.1.0", reason="other features", allow_schema_change=True)
    assert two.history("momentum")[0].ops[0]["allow_schema_change"] is True
    assert two.state("momentum").channels["production"].allow_schema_change
    two.promote("momentum:1.0.0", reason="back")
    assert not two.state("momentum").channels["production"].allow_schema_change
