"""docs/registry.md, followed from its first block to its last in one directory, as a trainer would."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.registry.conftest import FEATURES, Trained, features_and_returns

from modelreg.settings import load_settings

HERE = Path(__file__).parents[2]
PAGE = (HERE / "docs/registry.md").read_text()
BLOCKS = re.findall(r"^```(console|python|yaml)\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)

#: Ends each command's output; no command prints it.
MARK = "\x1e"


def in_a_shell(block: str, directory: Path) -> None:
    """Run what stands after each ``$``, in one shell; what is shown below a command is what it has to print."""
    parts = re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]
    commands = [part.partition("\n")[0] for part in parts]
    shown = [part.partition("\n")[2] for part in parts]
    script = "".join(
        f"{command}\nstatus=$?; printf '{MARK}%s{MARK}' $status; (exit $status)\n" for command in commands
    )
    environ = {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    environ.pop("MODELREG_ROOT", None)
    done = subprocess.run(
        ["bash", "-c", f"exec 2>&1\n{script}"],
        cwd=directory,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    told = done.stdout.split(MARK)
    for at, command in enumerate(commands):
        output, status = told[2 * at], int(told[2 * at + 1])
        expected = shown[at]
        assert not expected or output == expected, command
        asked = commands[at + 1 : at + 2] == ["echo $?"]
        assert asked or status == 0, f"{command}: {output}"


@pytest.mark.timeout(600)
def test_the_page_does_what_it_shows(
    models: dict[str, Trained], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every command prints what the page says, every Python block runs, every setting is one; gates are exit 5."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MODELREG_ACTOR", "trainer")
    for name, model in (("model", "a"), ("newer", "b"), ("newest", "c")):
        (tmp_path / f"{name}.txt").write_bytes(models[model].path.read_bytes())
    (tmp_path / "config").symlink_to(HERE / "config")
    matrix, returns = features_and_returns("AAPL")
    # What a trainer has at hand at that point of the page.
    names: dict[str, Any] = {
        "booster": models["a"].booster, "booster_1d": models["a"].booster, "booster_7d": models["b"].booster,
        "matrix": matrix, "rows": matrix[:3], "names": FEATURES, "config": {"leaves": 15},
        "dates": ["2024-01-30", "2024-01-31"], "y": returns[:2], "p": np.zeros(2),
    }  # fmt: skip

    def compute() -> Any:
        import pyarrow

        return pyarrow.table({"momentum_20d": matrix[:, 2]})

    names["compute"] = compute
    kinds = [kind for kind, _ in BLOCKS]
    assert (kinds.count("console"), kinds.count("python"), kinds.count("yaml")) == (3, 4, 1)
    for kind, block in BLOCKS:
        if kind == "console":
            in_a_shell(block, tmp_path)
        elif kind == "python":
            exec(compile(block, "docs/registry.md", "exec"), names)
        else:
            (tmp_path / "gates.yaml").write_text(block)
            assert "production" in load_settings(tmp_path / "gates.yaml").gates
    assert "\n5\n" in "".join(block for kind, block in BLOCKS if kind == "console")
    assert names["version"].ref in {"momentum:" + v for v in names["registry"].state("momentum").versions}
    assert names["answer"][0].shape[0] == 3
    assert names["was_cached"] is False
