"""Training: in its own process, walk-forward, the same bytes each time; and the scores by hand."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from modeld.demo.scores import daily_ic, score

SMALL = ("--days", "160", "--held-out-days", "30", "--folds", "2")


def in_a_process(module: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", module, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("trained")
    in_a_process("modeld.demo.train", str(out), *SMALL)
    return out


def test_training_leaves_models_metrics_and_held_out_rows(trained: Path) -> None:
    """Two different models, each with held-out metrics and folds, and the rows that neither has seen."""
    texts = [(trained / f"{version}.txt").read_bytes() for version in ("1.0.0", "1.1.0")]
    assert texts[0] != texts[1]
    assert all(text.startswith(b"tree") for text in texts)
    metrics = json.loads((trained / "1.1.0.metrics.json").read_text())
    assert set(metrics) == {"ic", "directional_accuracy", "sharpe", "rmse", "walk_forward"}
    assert set(metrics["walk_forward"]) == {"fold_1", "fold_2"}
    with np.load(trained / "held_out.npz") as held_out:
        assert held_out["features"].shape == (30 * 20, 24)
        assert len(np.unique(held_out["dates"])) == 30


def test_training_again_gives_the_same_bytes(trained: Path, tmp_path: Path) -> None:
    """Seeds and threads leave nothing to chance, so a model can be made again."""
    in_a_process("modeld.demo.train", str(tmp_path), *SMALL)
    assert (tmp_path / "1.1.0.txt").read_bytes() == (trained / "1.1.0.txt").read_bytes()


def test_metrics_are_what_the_model_predicts_on_the_held_out_rows(trained: Path, tmp_path: Path) -> None:
    """The metrics are those of the model file beside them, computed again from its predictions."""
    out = tmp_path / "offline.npz"
    model = f"1.1.0={trained / '1.1.0.txt'}"
    in_a_process("modeld.demo.offline", str(trained / "held_out.npz"), str(out), model)
    with np.load(out) as offline, np.load(trained / "held_out.npz") as held_out:
        again = score(offline["values"][0], held_out["target"], 20)
        assert offline["versions"].tolist() == ["1.1.0"]
    metrics = json.loads((trained / "1.1.0.metrics.json").read_text())
    assert again == pytest.approx({name: metrics[name] for name in again})


def test_no_training_target_reaches_into_a_test_block() -> None:
    """Folds expand, blocks follow each other, the gap is kept, and no fold sees the last block."""
    code = (
        "from modeld.demo.train import walk_forward\n"
        "splits, final = walk_forward(1000, folds=3, held_out=200, gap=5)\n"
        "assert [(s.train_end, s.test_start, s.test_end) for s in splits] == "
        "[(195, 200, 400), (395, 400, 600), (595, 600, 800)], splits\n"
        "assert (final.train_end, final.test_start, final.test_end) == (795, 800, 1000), final\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


@pytest.mark.parametrize(
    ("predicted", "realised", "expected"),
    [
        ([1.0, 2.0, 3.0], [10.0, 20.0, 15.0], 0.5),
        ([1.0, 2.0, 3.0], [30.0, 20.0, 10.0], -1.0),
        ([1.0, 1.0, 2.0], [1.0, 2.0, 3.0], np.sqrt(0.75)),
        ([5.0, 5.0, 5.0], [1.0, 2.0, 3.0], 0.0),
    ],
    ids=["one-swap", "reversed", "tie", "no-opinion"],
)
def test_the_information_coefficient_is_spearmans(
    predicted: list[float], realised: list[float], expected: float
) -> None:
    """Rank correlation with mean ranks for ties, as in the textbook; a day without an opinion counts 0."""
    assert daily_ic(np.array([predicted]), np.array([realised]))[0] == pytest.approx(expected)


def test_scores_by_hand() -> None:
    """Two days of two shares: one day right, one day wrong."""
    predicted = np.array([0.01, -0.01, 0.01, -0.01])
    realised = np.array([0.02, -0.02, -0.02, 0.02])
    scores = score(predicted, realised, 2)
    assert scores["ic"] == 0
    assert scores["directional_accuracy"] == 0.5
    assert scores["sharpe"] == 0
    assert scores["rmse"] == pytest.approx(np.sqrt((0.01**2 * 2 + 0.03**2 * 2) / 4))


def test_the_demos_main_process_stays_free_of_ml_libraries() -> None:
    """Importing the scenario, the client and the account brings neither lightgbm nor matplotlib."""
    code = (
        "import sys, modeld.demo.run, modeld.demo.stream, modeld.client\n"
        "bad = {'lightgbm', 'sklearn', 'joblib', 'scipy', 'matplotlib', 'pandas'} & set(sys.modules)\n"
        "assert not bad, bad\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)
