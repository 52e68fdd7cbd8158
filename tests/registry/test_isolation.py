"""Models that kill: the process that loads them dies, the registry says how and goes on."""

from __future__ import annotations

import re

import pytest

from modelreg import LoadError, Registry
from modelreg.lgbtext import check_complete
from modelreg.settings import ProbeSettings, Settings


def edited(data: bytes, field: bytes, value: bytes) -> bytes:
    """Put ``value`` in place of the first number of the first ``field`` line, keeping every length."""
    match = re.search(rb"^" + field + rb"=(-?\d+)", data, re.MULTILINE)
    assert match is not None
    assert len(value) <= len(match[1]) + 8
    old, line_end = match.span(1), data.index(b"\n", match.end())
    line = data[old[0] : line_end]
    new = value + line[len(match[1]) :]
    return data[: old[0]] + new[: len(line)].ljust(len(line)) + data[line_end:]


@pytest.mark.parametrize("value", [b"99999999", b"0"])
def test_a_damaged_tree_is_refused_with_a_sentence(root, models, tmp_path, value):
    """A wild child index would die, one that points at itself spin: both are refused before LightGBM sees them."""
    registry = Registry.init(root)
    bad = tmp_path / "bad.txt"
    bad.write_bytes(edited(models["a"].path.read_bytes(), b"left_child", value))
    check_complete(bad.read_bytes(), where="bad.txt")  # its outline is sound: only loading finds out
    with pytest.raises(LoadError, match="damaged or edited"):
        registry.register("m", bad, version="1.0.0")
    assert registry.models() == []
    assert registry.register("m", models["a"].path, version="1.0.0").seq == 1


def test_every_truncation_is_found_from_the_outline(models):
    """Whatever is cut off before the parameters end is noticed without LightGBM."""
    data = models["a"].path.read_bytes()
    check_complete(data, where="model")
    for end in range(0, data.index(b"end of parameters"), 997):
        if data[:end].endswith(b"end of trees"):
            continue
        if b"end of trees" in data[:end] and b"\nparameters:" not in data[:end]:
            continue  # all trees are there: only comments are lost
        with pytest.raises(LoadError):
            check_complete(data[:end], where="model")


def test_the_memory_limit_holds(root, models):
    """A probe that needs more memory than it may have is refused, not waited for."""
    registry = Registry.init(root, settings=Settings(probe=ProbeSettings(memory_bytes=64 << 20)))
    with pytest.raises(LoadError):
        registry.register("m", models["a"].path)
