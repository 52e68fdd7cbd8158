"""What the state directory remembers beside the copies."""

from __future__ import annotations

from pathlib import Path

import pytest

from modeld.watch.kept import KeptVersions


def test_generations_outlive_the_watcher(tmp_path: Path) -> None:
    """By model, with the digest that has each; the last word holds."""
    kept = KeptVersions(str(tmp_path / "state"))
    assert kept.generations() == {}
    for generation in (12, 13):
        kept.number({"alpha": (generation, "sha256:aa"), "beta": (1, "sha256:bb")})
    again = KeptVersions(str(tmp_path / "state"))
    assert again.generations() == {"alpha": (13, "sha256:aa"), "beta": (1, "sha256:bb")}


@pytest.mark.parametrize("data", [b"", b"[]", b'{"alpha": 3}', b"\xff"])
def test_generations_that_cannot_be_read_are_none(tmp_path: Path, data: bytes) -> None:
    """A damaged file costs no start."""
    (tmp_path / "generations.json").write_bytes(data)
    assert KeptVersions(str(tmp_path)).generations() == {}
