"""The benchmark of scoring alone."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.forest.models import data, train

from modeld.bench import forest


def test_it_sets_each_layout_against_lightgbm(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A table for one row and one for many, LightGBM first with a ratio of 1."""
    file = tmp_path / "model.txt"
    train(data(90)).save_model(file)
    assert forest.main(["--model", str(file)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("12 trees × 15 leaves × 6 features")
    for name in ("LightGBM, SingleRowFast", "LightGBM, Booster.predict"):
        (line,) = (line for line in lines if line.startswith(name))
        assert line.split()[-1] == "1.000"
    for layout in ("lanes, plain", "walk, plain"):
        assert sum(line.startswith(layout) for line in lines) == 2
