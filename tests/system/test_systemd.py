"""docs/operations.md, followed under a real systemd: PID 1 of a throw-away container over this machine's root."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

HERE = Path(__file__).parent
SOURCES = HERE.parents[1]
BLOCKS = dict(
    re.findall(r"^```sh (\S+)\n(.*?)^```", (SOURCES / "docs/operations.md").read_text(), re.M | re.S)
)

pytestmark = [pytest.mark.system, pytest.mark.timeout(720)]


@pytest.fixture
def payload(tmp_path: Path) -> Path:
    """The sources, wheels of all that they need for the system's Python, the page's blocks and the script."""
    pay = tmp_path / "pay"
    shutil.copytree(HERE / "payload", pay)
    (pay / "src").mkdir()
    ours = ("Makefile", "LICENSE", "README.md", "pyproject.toml", "constraints.txt", "hatch_build.py")
    for name in (*ours, "config", "docs", "registry", "server", "systemd"):
        source = SOURCES / name
        if source.is_dir():
            shutil.copytree(source, pay / "src" / name, ignore=shutil.ignore_patterns("__pycache__", "*.so"))
        else:
            shutil.copy(source, pay / "src")
    (pay / "blocks").mkdir()
    for name, text in BLOCKS.items():
        (pay / "blocks" / f"{name}.sh").write_text(text)
    project = tomllib.loads((SOURCES / "pyproject.toml").read_text())
    needed = [*project["project"]["dependencies"], *project["build-system"]["requires"]]
    python = subprocess.check_output(
        ["/usr/bin/python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"], text=True
    )
    subprocess.run(
        [
            *(sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet", "download"),
            *("--constraint", SOURCES / "constraints.txt", "--dest", pay / "wheels"),
            *("--only-binary", ":all:", "--python-version", python.strip(), *needed),
        ],
        check=True,
    )
    return pay


def test_the_operators_page_holds_under_a_real_systemd(payload: Path, tmp_path: Path) -> None:
    """From an empty machine to a prediction, a rejection and every procedure; kills, hangs and full disks."""
    out = tmp_path / "out"
    out.mkdir()
    done = subprocess.run(
        [HERE / "real-systemd.sh", payload, out], capture_output=True, text=True, timeout=600, check=False
    )
    log = (out / "log").read_text() if (out / "log").exists() else done.stdout + done.stderr
    print(log)
    assert done.returncode == 0, log
    assert log.splitlines()[-1] == "all-good"


def test_every_block_of_the_page_is_run() -> None:
    """A procedure that the page shows is one that the script follows."""
    run = re.findall(r"^\s*block ([\w-]+)", (HERE / "payload/test.sh").read_text(), re.M)
    assert set(run) == set(BLOCKS)
