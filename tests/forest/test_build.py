"""The build of the kernel: with a compiler, without one, and without its extras."""

from __future__ import annotations

import importlib.util
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.forest.models import data, train

from modeld.forest import kernel
from modeld.forest.compile import compile_text
from modeld.forest.format import check

_ROOT = Path(__file__).parents[2]
_SOURCE = Path(kernel.__file__).with_name("kernel.c")


@pytest.fixture
def hook(monkeypatch: pytest.MonkeyPatch) -> Any:
    """hatch_build.py, with a stand-in for hatchling: the build has that, this environment needn't."""
    import sys
    import types

    for name in (
        "hatchling", "hatchling.builders", "hatchling.builders.hooks", "hatchling.builders.hooks.plugin",
        "hatchling.builders.hooks.plugin.interface",
    ):  # fmt: skip
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["hatchling.builders.hooks.plugin.interface"].BuildHookInterface = object  # type: ignore[attr-defined]
    spec = importlib.util.spec_from_file_location("hatch_build", _ROOT / "hatch_build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_without_a_compiler(hook: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A missing compiler is a reason, not a failure."""
    monkeypatch.setenv("CC", "/nonexistent/cc -m64")
    assert hook.build(_SOURCE, tmp_path / "_kernel.so") == "there is no C compiler (/nonexistent/cc)"
    assert not list(tmp_path.iterdir())


def test_a_compiler_that_fails(hook: Any, tmp_path: Path) -> None:
    """Sources that don't compile leave what the compiler said, and no file."""
    wrong = tmp_path / "wrong.c"
    wrong.write_text("int main( {")
    assert "failed" in hook.build(wrong, tmp_path / "_kernel.so")
    assert list(tmp_path.iterdir()) == [wrong]


def test_a_kernel_without_processor_versions(tmp_path: Path) -> None:
    """The plain C99 build, as another architecture gets it, gives the same bits in both layouts."""
    built = tmp_path / "_plain.so"
    subprocess.run(
        ["cc", "-std=c99", "-DMODELD_PLAIN", "-O2", "-ffp-contract=off", "-fPIC", "-shared", "-Wall", "-Wextra",
         "-Werror", "-fvisibility=hidden", str(_SOURCE), "-o", str(built), "-lm"],
        check=True,
    )  # fmt: skip
    plain = kernel.Kernel(built)
    assert plain.version == 0
    assert_lightgbms_bits(plain)


@pytest.mark.system
def test_clang(hook: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Built by clang without a warning, every version of the kernel that this processor runs gives the same bits."""
    monkeypatch.setenv("CC", "clang -Wall -Wextra -Werror")
    assert hook.build(_SOURCE, tmp_path / "_kernel.so") is None
    built = kernel.Kernel(tmp_path / "_kernel.so")
    assert built.version == kernel.load().version
    assert_lightgbms_bits(built)


def assert_lightgbms_bits(built: kernel.Kernel) -> None:
    """A small model with missing values, categories and classes; both layouts, each version, few rows and many."""
    booster = train(
        data(50, missing=0.1, categories=1), "class", categories=1, objective="multiclass", num_class=3
    )
    rows = data(51, categories=1)
    wanted = booster.predict(rows, num_threads=1)
    for layout in ("lanes", "walk"):
        plan = compile_text(booster.model_to_string(), layout=layout)
        for version in range(built.version + 1):
            for n in (7, len(rows)):
                out = wanted[:n] * 0
                built.predict(check(memoryview(plan)), rows.ctypes.data, n, out.ctypes.data, version)
                assert out.tobytes() == wanted[:n].tobytes()


def test_a_library_of_other_sources(tmp_path: Path) -> None:
    """A library that lays out plans otherwise is never called."""
    source = tmp_path / "other.c"
    source.write_text("unsigned long modeld_plan_size(void) { return 8; }")
    built = tmp_path / "other.so"
    subprocess.run(["cc", "-shared", "-fPIC", str(source), "-o", str(built)], check=True)
    with pytest.raises(kernel.KernelMissing, match="other sources"):
        kernel.Kernel(built)
