"""Corrupted plans under AddressSanitizer, and the sanitizer itself: it has to see a read that the check would miss."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.forest.models import data, train

from modeld.forest import Scaling, kernel
from modeld.forest.compile import compile_text

_SOURCE = Path(kernel.__file__).with_name("kernel.c")
_FUZZ = Path(__file__).with_name("fuzz.py")
#: Corrupted plans; --campaign N makes N times as many.
_SHORT = 1500


@pytest.fixture(scope="module")
def sanitized(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The kernel with AddressSanitizer and UndefinedBehaviorSanitizer."""
    built = tmp_path_factory.mktemp("asan") / "_kernel.so"
    subprocess.run(
        ["cc", "-std=gnu11", "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all",
         "-ffp-contract=off", "-fPIC", "-shared", "-fvisibility=hidden", str(_SOURCE), "-o", str(built), "-lm"],
        check=True,
    )  # fmt: skip
    return built


def under_asan(*arguments: str) -> subprocess.CompletedProcess[str]:
    preload = [
        subprocess.run(
            ["cc", f"-print-file-name={name}"], capture_output=True, text=True, check=True
        ).stdout.strip()
        for name in ("libasan.so", "libubsan.so")
    ]
    environment = os.environ | {
        "LD_PRELOAD": ":".join(preload),
        "ASAN_OPTIONS": "detect_leaks=0",
        "PYTHONMALLOC": "malloc",
        "OPENBLAS_NUM_THREADS": "1",
    }
    return subprocess.run(
        [sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False
    )


@pytest.fixture(scope="module")
def plans(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Plans of both layouts, small, with everything that a plan may have."""
    folder = tmp_path_factory.mktemp("plans")
    numbers = train(data(60, missing=0.1), trees=5, num_leaves=6)
    sets = train(
        data(61, categories=2, zeros=0.2), categories=2, trees=70, num_leaves=8, zero_as_missing=True
    )
    classes = train(data(62, missing=0.1), "class", objective="multiclass", num_class=3, trees=4, boosting="rf",
                    bagging_freq=1, bagging_fraction=0.6, min_gain_to_split=2.0)  # fmt: skip
    files = []
    for name, booster in (("numbers", numbers), ("sets", sets), ("classes", classes)):
        for layout in ("lanes", "walk"):
            file = folder / f"{name}-{layout}"
            file.write_bytes(compile_text(booster.model_to_string(), layout=layout))
            files.append(str(file))
    scaling = Scaling(np.linspace(-3, 3, 6), np.geomspace(1e-3, 1e6, 6))
    for layout in ("lanes", "walk"):
        file = folder / f"scaled-{layout}"
        file.write_bytes(compile_text(numbers.model_to_string(), layout=layout, scaling=scaling))
        files.append(str(file))
    return files


def test_corrupted_plans(sanitized: Path, plans: list[str], campaign: int) -> None:
    """Each is refused, or evaluated without a memory error and in a bounded time."""
    count = _SHORT * campaign
    done = under_asan(str(_FUZZ), str(sanitized), "1", str(count), *plans)
    assert done.returncode == 0, done.stderr[-4000:]
    counts = json.loads(done.stdout)
    assert counts["refused"] + counts["evaluated"] == count
    assert min(counts["refused"], counts["evaluated"]) > count // 20, counts
    assert counts["slowest_ms"] < 5_000
    print(counts)


@pytest.mark.parametrize(("section", "value"), [("nodes", 60000), ("to", 200), ("columns", 1 << 20)])
def test_the_sanitizer_sees_it(sanitized: Path, plans: list[str], section: str, value: int) -> None:
    """The same evaluation dies with a report if a plan that the check would refuse reaches the kernel."""
    script = f"""
import ctypes, sys
import numpy as np
sys.path.insert(0, {str(_FUZZ.parent)!r})
from fuzz import Apart, Kernel, Path, form
plan = bytearray(Path({plans[section == "nodes"]!r}).read_bytes())
checked = form.check(memoryview(plan))
if {section!r} == "columns":
    checked.sections["columns"]["first"][:] = {value}
elif {section!r} == "nodes":
    checked.sections["nodes"]["column"][:] = {value}
else:
    checked.sections[{section!r}][:] = {value}
    checked.sections["cuts"][:] = 0
rows = ctypes.create_string_buffer(np.full(400 * 6, 9.0).tobytes(), 400 * 48)
out = ctypes.create_string_buffer(400 * 8)
Kernel(Path({str(sanitized)!r})).predict(Apart(checked), ctypes.addressof(rows), 400, ctypes.addressof(out))
"""
    done = under_asan("-c", script)
    assert done.returncode != 0
    assert "AddressSanitizer" in done.stderr or "runtime error" in done.stderr
