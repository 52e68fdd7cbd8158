"""Whatever stops or fails at any file operation: the state is the old or the new one, never something between."""

from __future__ import annotations

import contextlib
import errno
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.registry.faults import ERRORS, FailsAt, Stopped, StopsAt, Volatile

from modelreg import Registry, RegistryError
from modelreg.adoption import adopt
from modelreg.backup import restore
from modelreg.disk import Disk
from modelreg.gc import Swept
from modelreg.importing import discover
from modelreg.sealed import read_sealed

Verb = Callable[[Registry, Path], object]

VERBS: dict[str, Verb] = {
    "register": lambda r, given: r.register("m", given / "b.txt", version="2.0.0", golden=False),
    "register-first": lambda r, given: r.register("other", given / "b.txt", version="1.0.0", golden=False),
    "promote": lambda r, _: r.promote("m:1.1.0", reason="x"),
    "rollback": lambda r, _: r.rollback("m", mark_failed=True, reason="x"),
    "delete": lambda r, _: r.delete("m:1.1.0"),
    "gc": lambda r, _: r.gc(keep=1),
    "backup": lambda r, given: r.backup(given / "backup.tar"),
    "import": lambda r, given: adopt(
        r, discover(given / "theirs", "t", r._disk), allow_joblib=False, load=False
    ),
}


@pytest.fixture(scope="module")
def prepared(tmp_path_factory, models):
    """A registry with three versions, 1.2.0 in production after 1.0.0, to be copied; and files to register."""
    base = tmp_path_factory.mktemp("prepared")
    registry = Registry.init(base / "models", actor="tester")
    for version in ("1.0.0", "1.1.0", "1.2.0"):
        registry.register("m", models["a"].path, version=version, golden=False)
    registry.promote("m:1.0.0", reason="x")
    registry.promote("m:1.2.0", reason="x")
    given = base / "given"
    (given / "theirs/20240101_000000").mkdir(parents=True)
    shutil.copy(models["b"].path, given / "b.txt")
    shutil.copy(models["b"].path, given / "theirs/20240101_000000/model.txt")
    return base


@pytest.fixture
def scratch(tmp_path):
    """A directory for thousands of copies, in memory where that is possible: nothing of it has to last."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else tmp_path) as name:
        yield Path(name)


def told(root: Path) -> dict[str, object]:
    """The decided state of each model, without moments and hashes; every present version's bytes are checked."""
    registry = Registry(root)
    states = {}
    for name in registry.models():
        state = registry.state(name)
        assert state.broken is None, state.broken
        for version in state.versions.values():
            if version.status != "deleted":
                read_sealed(registry.version_dir(name, version.version), expect_digest=version.digest)
        states[name] = (
            {v.version: v.status for v in state.versions.values()},
            {c.channel: c.version for c in state.channels.values()},
        )
    assert registry.doctor() == []
    return states


def fresh(prepared: Path, tmp_path: Path, os_like: object) -> tuple[Registry, Path, Path]:
    for name in ("models", "given"):
        shutil.rmtree(tmp_path / name, ignore_errors=True)
        shutil.copytree(prepared / name, tmp_path / name, symlinks=True)
    root = tmp_path / "models"
    registry = Registry(root, actor="tester", disk=Disk(os_like))
    for name in registry.models():
        registry.state(name)
    return registry, root, tmp_path / "given"


def outcomes(prepared: Path, tmp_path: Path, verb: str) -> list[dict[str, object]]:
    """What may be there afterwards: the old state, the new one, and for several commits those between."""
    registry, root, given = fresh(prepared, tmp_path, os)
    allowed = [told(root)]
    if verb == "import":
        registry.register("t", given / "b.txt", version="20240101_000000", golden=False)
        allowed.append(told(root))
        return allowed
    VERBS[verb](registry, given)
    allowed.append(told(root))
    return allowed


@pytest.mark.parametrize("verb", VERBS)
def test_stopped_at_any_file_operation(prepared, scratch, verb):
    """At each call the process dies; who opens the registry then sees all of it or nothing, and can go on."""
    allowed = outcomes(prepared, scratch, verb)
    at, seen = 0, set()
    while True:
        stops = StopsAt()
        registry, root, given = fresh(prepared, scratch, stops)
        stops.arm(at)
        try:
            VERBS[verb](registry, given)
        except Stopped:
            pass
        else:
            break
        state = told(root)
        assert state in allowed, (verb, at, state)
        seen.add(allowed.index(state))
        if verb == "backup" and (given / "backup.tar").exists():
            assert (given / "backup.tar").stat().st_size > 0
        at += 1
    assert at > 5
    assert told(root) == allowed[-1]
    assert seen == ({0} if allowed[0] == allowed[-1] else {0, 1})


def whole(backup: Path, target: Path) -> bool:
    """Whether there is a backup that gives back the registry; half of one is a failure."""
    if not backup.exists():
        assert list(backup.parent.glob(".tmp*")) == []
        return False
    shutil.rmtree(target, ignore_errors=True)
    restore(backup, target)
    assert "m" in told(target)
    return True


@pytest.mark.parametrize("code", ERRORS)
@pytest.mark.parametrize("verb", VERBS)
def test_an_error_at_any_file_operation(prepared, scratch, verb, code, caplog):
    """A disk that is full and stays so, a broken one, no permission, at any call that reads or writes: an error of
    ours or success, and a sound registry in each case."""
    allowed = outcomes(prepared, scratch, verb)
    at = 0
    while True:
        fails = FailsAt(code, lasting=code == errno.ENOSPC)
        registry, root, given = fresh(prepared, scratch, fails)
        fails.arm(at)
        error = None
        done: object = None
        try:
            done = VERBS[verb](registry, given)
        except RegistryError as refused:
            error = refused
        state = told(root)
        assert state in allowed, (verb, at, state)
        # An import tells of each version by itself, gc of each model that it went round.
        told_of = isinstance(done, list) and not all(each.ok for each in done)
        told_of = told_of or (isinstance(done, Swept) and bool(done.problems))
        assert error is not None or told_of or state == allowed[-1]
        if verb == "backup":
            # What belongs to another user is left out, and that is told.
            without = code == errno.EACCES and "it isn't in the backup" in caplog.text
            assert error is not None or without or whole(given / "backup.tar", scratch / "restored")
            caplog.clear()
        if not fails.hits:
            break
        at += 1
    assert at > 5


@pytest.mark.parametrize("catalog", ["new", "old"])
def test_gc_spares_a_parent_whatever_cant_be_read(registry, root, models, catalog):
    """One call fails, any one, while gc finds out what derives from what: it refuses, or leaves the parent alone."""
    for version in ("1.0.0", "1.1.0"):
        registry.register("parent", models["a"].path, version=version, golden=False)
    registry.register("child", models["b"].path, version="1.0.0", parent="parent:1.0.0", golden=False)
    assert registry.gc(keep=1, dry_run=True).deleted == ()
    at = 0
    while True:
        if catalog == "new":
            registry.catalog.close()
            (root / ".registry/catalog.db").unlink(missing_ok=True)
        fails = FailsAt(errno.EIO)
        failing = Registry(root, actor="tester", disk=Disk(fails))
        fails.arm(at)
        with contextlib.suppress(RegistryError):
            assert failing.gc(keep=1, dry_run=True).deleted == (), at
        if not fails.hits:
            break
        at += 1
    assert at > 5


def acknowledged(models, tmp_path, lazy_site: str | None) -> str | None:
    """Register and promote, cut the power after success; what is wrong with what is left, or None."""
    volatile = Volatile(lazy_site)
    top = tmp_path / "disk"
    shutil.rmtree(top, ignore_errors=True)
    top.mkdir()
    volatile.sync_dir(top)
    registry = Registry.init(top / "models", actor="tester", disk=Disk(volatile))
    registry.register("m", models["a"].path, version="1.0.0", golden=False)
    registry.promote("m:1.0.0", reason="x")
    left = tmp_path / "left"
    volatile.power_cut(top, left)
    try:
        state = told(left / "models")
    except (RegistryError, AssertionError, OSError) as error:
        return f"{type(error).__name__}: {error}"
    return None if state == {"m": ({"1.0.0": "registered"}, {"production": "1.0.0"})} else str(state)


def test_what_was_acknowledged_survives_a_power_cut(models, tmp_path):
    """After success, whatever wasn't synced may be forgotten: the version and its promotion are still there."""
    assert acknowledged(models, tmp_path, None) is None


@pytest.mark.parametrize("site", ["write_new", "make_dirs", "stage", "move_into_place", "_link", "make"])
def test_without_any_one_fsync_something_would_be_lost(models, tmp_path, site):
    """The mutation check: with the fsync of that place removed, the test before this one would fail."""
    assert acknowledged(models, tmp_path, site) is not None


class Overwrites:
    """An os whose link replaces what is there, as a rename would; somebody else commits right before it."""

    def __init__(self, other: Callable[[], None], exclusive: bool) -> None:
        self._other = [other]
        self._exclusive = exclusive

    def __getattr__(self, name):
        return getattr(os, name)

    def link(self, source, target, **options):
        if self._other:
            self._other.pop()()
        if not self._exclusive and os.path.exists(target):
            os.unlink(target)
        os.link(source, target, **options)


@pytest.mark.parametrize("exclusive", [True, False])
def test_the_exclusive_link_keeps_both_of_two_decisions(prepared, tmp_path, exclusive):
    """Two promote at the same moment: both are in the log; were the link not exclusive, one would be lost."""
    _, root, _ = fresh(prepared, tmp_path, os)

    def other() -> None:
        Registry(root, actor="other").promote("m:1.1.0", reason="first")

    Registry(root, actor="tester", disk=Disk(Overwrites(other, exclusive))).promote(
        "m:1.0.0", reason="second"
    )
    reasons = [entry.reason for entry in Registry(root).history("m", limit=2)]
    assert (reasons == ["second", "first"]) is exclusive
