"""Questions: compare, diff, lineage, what ran when, cards, the best version."""

from __future__ import annotations

import datetime as dt

import pytest

from modelreg import NotFoundError, Registry, UsageError
from modelreg.clock import parse_moment


@pytest.fixture
def desk(root, models):
    """Two models, four versions in a line across them, nested metrics, and a clock."""
    times = iter(dt.datetime(2024, 1, 1, hour, tzinfo=dt.UTC) for hour in range(24))
    now = [next(times)]
    registry = Registry.init(root, actor="tester", clock=lambda: now[0])
    registry.now = now

    def register(name, version, parent=None, **metrics):
        registry.register(
            name, models["a"].path, version=version, golden=False, parent=parent, metrics=metrics,
            meta={"config": {"v": version}, "parameters": {"leaves": len(version)}},
        )  # fmt: skip

    register("m", "1.0.0", ic=0.04, sharpe=1.0, max_drawdown=-0.12, **{"1d": {"rmse": 0.2}}, mystery=1)
    register(
        "m",
        "1.1.0",
        "m:1.0.0",
        ic=0.05,
        sharpe_ratio=1.0,
        max_drawdown=0.10,
        **{"1d": {"rmse": 0.3}},
        mystery=2,
    )
    register("n", "2.0.0", "m:1.1.0")
    register("n", "2.1.0", "n:2.0.0")
    return registry


def test_compare_tells_winner_and_difference(desk):
    """Higher, lower and by magnitude; nested ones flattened; a tie and an unknown metric have no winner."""
    rows = {row.metric: row for row in desk.compare(["m:1.0.0", "m:1.1.0"])}
    assert {name: row.winner for name, row in rows.items()} == {
        "ic": "m:1.1.0", "sharpe": None, "max_drawdown": "m:1.1.0", "1d.rmse": "m:1.0.0", "mystery": None,
    }  # fmt: skip
    assert rows["ic"].difference == pytest.approx(0.01)
    assert rows["max_drawdown"].difference == pytest.approx(-0.02)
    assert rows["1d.rmse"].worse
    assert not rows["max_drawdown"].worse
    assert [row.metric for row in desk.compare(["m:1.0.0", "m:1.1.0"], metrics=["sharpe_ratio"])] == [
        "sharpe_ratio"
    ]
    with pytest.raises(NotFoundError, match="f1_score"):
        desk.compare(["m:1.0.0", "m:1.1.0"], metrics=["f1_score"])
    with pytest.raises(UsageError):
        desk.compare(["m:1.0.0", "m:1.0.0"])


@pytest.mark.usefixtures("desk")
def test_own_metrics_have_a_direction_by_configuration(run, tmp_path):
    """`metrics` in the settings makes an unknown metric comparable and sortable."""
    settings = tmp_path / "registry.yaml"
    settings.write_text("metrics: {lower_is_better: [mystery]}\n")
    pair = ("m:1.0.0", "m:1.1.0")
    compared = run("compare", *pair, "--metric", "mystery", "--json", "--config", settings).json
    assert compared[0]["winner"] == "m:1.0.0"
    assert run("list", "m", "-q", "--sort", "mystery", "--config", settings).out.split()[0] == "m:1.0.0"
    assert run("list", "m", "--sort", "mystery").status == 2


@pytest.mark.usefixtures("desk")
def test_compare_check_is_8_where_the_last_is_worse(run):
    """--check makes a gate of its own out of a comparison; the table is printed all the same."""
    worse = run("compare", "m:1.0.0", "m:1.1.0", "--check")
    assert (worse.status, "1d.rmse" in worse.err, "max_drawdown" in worse.out) == (8, True, True)
    assert run("compare", "m:1.0.0", "m:1.1.0", "--check", "--metric", "ic").status == 0
    assert run("compare", "m:1.0.0", "n:2.0.0", "--check", "--metric", "ic").status == 8


def test_lineage_goes_both_ways_across_models(desk, run):
    """Ancestors and descendants with their distance."""
    found = desk.lineage("m:1.1.0")
    assert [(r.ref, r.distance) for r in found.ancestors] == [("m:1.0.0", -1)]
    assert [(r.ref, r.distance) for r in found.descendants] == [("n:2.0.0", 1), ("n:2.1.0", 2)]
    assert run("lineage", "m:1.0.0", "-q").out.split() == ["m:1.0.0", "m:1.1.0", "n:2.0.0", "n:2.1.0"]
    assert run("lineage", "n:2.1.0", "--json").json["ancestors"][2]["ref"] == "m:1.0.0"


@pytest.mark.usefixtures("desk")
def test_diff_names_fields_and_files(run):
    """Facts that differ by their dotted names; circumstances such as created_at are left out."""
    fields = {
        row["field"]: (row["left"], row["right"]) for row in run("diff", "m:1.0.0", "m:1.1.0", "--json").json
    }
    assert fields["metrics.ic"] == (0.04, 0.05)
    assert fields["config.v"] == ("1.0.0", "1.1.0")
    assert fields["parent"] == (None, "m:1.0.0")
    assert "created_at" not in fields
    assert "files.model.txt" not in fields


def test_what_ran_on_15_january(desk, run):
    """A date means its end, a moment itself, and before the first promotion there is nothing."""
    for day, version in ((14, "1.0.0"), (16, "1.1.0")):
        desk.now[0] = dt.datetime(2024, 1, day, 9, tzinfo=dt.UTC)
        desk.promote(f"m:{version}", reason="go")
    assert [held.version for held in desk.at(parse_moment("2024-01-15"))] == ["1.0.0"]
    assert [held.version for held in desk.at(parse_moment("2024-01-16"))] == ["1.1.0"]
    assert [held.version for held in desk.at(parse_moment("2024-01-16T09:30:00+01:00"))] == ["1.0.0"]
    assert desk.at(parse_moment("2024-01-13")) == []
    held = run("history", "m", "--at", "2024-01-15", "--json").json
    assert (held[0]["version"], held[0]["channel"], held[0]["actor"]) == ("1.0.0", "production", "tester")
    assert run("history", "--at", "yesterday").status == 2
    assert run("history", "m", "--at", "2024-01-15", "-q").out == "m:1.0.0\n"


@pytest.mark.usefixtures("desk")
def test_a_model_card_is_sealed_at_registration(run, root):
    """MODEL_CARD.md has use, data, metrics, gates, features and lineage; a trainer's own card is kept."""
    card = run("card", "m:1.1.0").out
    assert card == (root / "m/versions/1.1.0/MODEL_CARD.md").read_text()
    for told in (
        "# m 1.1.0",
        "## Use and limits",
        "| 1d.rmse | 0.3 | lower |",
        "`ret_5d`",
        "Derived from m:1.0.0",
    ):
        assert told in card
    assert "card" in run("card", "m:1.1.0", "--json").json


def test_a_trainers_own_card_is_kept(registry, models, tmp_path):
    """No card is made where one is brought."""
    mine = tmp_path / "MODEL_CARD.md"
    mine.write_text("mine\n")
    registry.register("m", models["a"].path, version="1.0.0", golden=False, artefacts=[mine])
    assert registry.card("m:1.0.0") == "mine\n"


def test_find_by_configuration_and_best_by_metric(desk, run):
    """config_hash may be shortened; best obeys the metric's direction."""
    digest = desk.metadata("m", "1.1.0").config_hash
    assert run("list", "-q", "--config-hash", digest).out == "m:1.1.0\n"
    assert run("list", "-q", "--config-hash", digest[:12]).out == "m:1.1.0\n"
    assert desk.best("m", "ic")["version"] == "1.1.0"
    assert desk.best("m", "1d.rmse")["version"] == "1.0.0"
    with pytest.raises(NotFoundError):
        desk.best("n", "ic")
