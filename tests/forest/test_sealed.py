"""Plans in sealed memory: what is handed over, and what the front refuses of a worker."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.forest.models import data, train

from modeld.forest import Forest, PlanRefused, sealed
from modeld.forest.compile import compile_text

_ROOM = 1 << 20
_ALL = fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL


@pytest.fixture(scope="module")
def plan() -> bytes:
    return bytes(compile_text(train(data(70, missing=0.1)).model_to_string()))


@pytest.fixture
def memfd() -> Iterator[Callable[[bytes], int]]:
    """Makes memfds with these bytes, not sealed yet; closes them."""
    made: list[int] = []

    def make(content: bytes) -> int:
        made.append(os.memfd_create("test", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING))
        os.write(made[-1], content)
        return made[-1]

    yield make
    for fd in made:
        os.close(fd)


def test_several_plans_come_back_as_they_went(plan: bytes) -> None:
    """One plan for each output, in order; the descriptor may be closed as soon as they are open."""
    other = bytes(compile_text(train(data(71), num_leaves=300, trees=3).model_to_string(), layout="walk"))
    fd = sealed.reserve(_ROOM)
    sealed.seal(fd, [plan, other])
    scorers = sealed.open_plans(fd, _ROOM)
    os.close(fd)
    rows = data(72)
    for scorer, one in zip(scorers, (plan, other), strict=True):
        assert scorer.score_bytes(rows.tobytes(), len(rows)) == Forest(one).predict(rows).tobytes()


def test_sealed_memory_never_changes(plan: bytes) -> None:
    """After the seals nothing can be written, cut, grown or unsealed, through any descriptor."""
    fd = sealed.reserve(_ROOM)
    sealed.seal(fd, [plan])
    again = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
    try:
        for change in (
            lambda: os.pwrite(again, b"x", 0),
            lambda: os.ftruncate(again, 64),
            lambda: os.ftruncate(again, 1 << 21),
            lambda: fcntl.fcntl(again, fcntl.F_ADD_SEALS, 0x10),
        ):
            with pytest.raises(PermissionError):
                change()
    finally:
        os.close(again)
        os.close(fd)


@pytest.mark.parametrize(
    "missing", [fcntl.F_SEAL_WRITE, fcntl.F_SEAL_SHRINK, fcntl.F_SEAL_GROW, fcntl.F_SEAL_SEAL]
)
def test_a_missing_seal_is_refused(plan: bytes, memfd: Callable[[bytes], int], missing: int) -> None:
    """Each of the four seals is needed."""
    fd = memfd(plan)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _ALL & ~missing)
    with pytest.raises(PlanRefused, match="sealed"):
        sealed.open_plans(fd, _ROOM)


def test_what_isnt_plans_from_end_to_end_is_refused(plan: bytes, memfd: Callable[[bytes], int]) -> None:
    """Nothing, too much, cut short, something behind the last plan."""
    for content in (b"", plan[:-64], plan + plan[:-1], plan + bytes(64), bytes(4096)):
        fd = memfd(content)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _ALL)
        with pytest.raises(PlanRefused):
            sealed.open_plans(fd, _ROOM)
    fd = memfd(plan)
    fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _ALL)
    with pytest.raises(PlanRefused, match="at most"):
        sealed.open_plans(fd, len(plan) - 1)


def test_other_descriptors_are_refused(plan: bytes, tmp_path: Path) -> None:
    """A file, a pipe: what can't be sealed is no plan."""
    file = tmp_path / "plan"
    file.write_bytes(plan)
    with file.open("rb") as stream, pytest.raises(PlanRefused, match="sealed"):
        sealed.open_plans(stream.fileno(), _ROOM)
    reader, writer = os.pipe()
    try:
        with pytest.raises(PlanRefused, match="sealed"):
            sealed.open_plans(reader, _ROOM)
    finally:
        os.close(reader)
        os.close(writer)


def test_no_room(plan: bytes) -> None:
    """Plans larger than what was reserved are refused where they are made."""
    fd = sealed.reserve(len(plan) - 1)
    with pytest.raises(PlanRefused, match="room"):
        sealed.seal(fd, [plan])
    os.close(fd)


_GROWTH = """
import ctypes, sys
import numpy as np
from modeld.forest import sealed
from modeld.forest.scorer import Scorer

def memory():
    lines = dict(line.split(":") for line in open("/proc/self/status"))
    return [int(lines[name].split()[0]) * 1024 for name in ("RssAnon", "RssShmem")]

fd, total = int(sys.argv[1]), int(sys.argv[2])
row = np.zeros(158)
out = ctypes.create_string_buffer(8)
warm = sealed.open_plans(int(sys.argv[3]), total)[0]
warm.score(row.ctypes.data, 1, ctypes.addressof(out))
before = memory()
scorers = sealed.open_plans(fd, total)
for scorer in scorers:
    scorer.score(row.ctypes.data, 1, ctypes.addressof(out))
own, shared = (after - at for after, at in zip(memory(), before, strict=True))
print(len(scorers), own, shared)
"""


def test_a_process_that_opens_plans_grows_by_no_more_than_them() -> None:
    """It shares the memfd's pages with whoever made them; of its own it takes a small part of that, for the check."""
    text = train(data(73, features=158), trees=10, num_leaves=31).model_to_string()
    text, end, _ = text.partition("\nend of trees")
    head, *trees = text.split("\nTree=")
    plan = compile_text("\nTree=".join([head, *(trees * 30)]) + end)
    plans = [plan] * (32 * 1024 * 1024 // len(plan))
    total = sum(map(len, plans))
    fds = [sealed.reserve(total), sealed.reserve(total)]
    try:
        sealed.seal(fds[0], plans)
        sealed.seal(fds[1], [plan])
        done = subprocess.run(
            [sys.executable, "-c", _GROWTH, str(fds[0]), str(total), str(fds[1])],
            pass_fds=fds, capture_output=True, text=True, check=True,
        )  # fmt: skip
    finally:
        for fd in fds:
            os.close(fd)
    opened, own, shared = map(int, done.stdout.split())
    assert opened == len(plans)
    assert shared <= total + 65536
    assert own < total // 4, f"{own} bytes of its own for plans of {total}"


def test_scores_are_read_only_memory(plan: bytes) -> None:
    """Arrays over sealed memory can't be written through."""
    fd = sealed.reserve(_ROOM)
    sealed.seal(fd, [plan])
    (scorer,) = sealed.open_plans(fd, _ROOM)
    os.close(fd)
    with pytest.raises(ValueError, match="read-only"):
        scorer.checked.sections["leaves"][0] = np.nan
