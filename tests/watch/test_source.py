"""The registry as a source: what it says, and how it is pointed back. A real registry, no model loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from tests.fakes import FakePorts, contract

from modeld.config import Source
from modeld.swap.ports import WriteOutcome
from modeld.swap.probation import Terms
from modeld.swap.slot import Slot
from modeld.watch.messages import Write
from modeld.watch.source import RegistrySource
from modelreg import Registry, RegistryError
from modelreg.errors import ConflictError
from modelreg.records import canonical_json, sha256


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry with alpha 1.0.0 and 1.1.0 and beta 1.0.0; alpha 1.1.0 is in production."""
    import lightgbm
    import numpy as np

    directory = tmp_path_factory.mktemp("template")
    random = np.random.default_rng(1)
    registry = Registry.init(directory / "models", actor="tester")
    for name, version in (("alpha", "1.0.0"), ("alpha", "1.1.0"), ("beta", "1.0.0")):
        matrix = random.normal(size=(60, 2))
        data = lightgbm.Dataset(matrix, matrix[:, 0], feature_name=["a", "b"])
        path = directory / f"{name}-{version}.txt"
        lightgbm.train({"verbosity": -1, "num_threads": 1}, data, 2).save_model(path)
        registry.register(name, path, version=version, golden=False)
    registry.promote("alpha:1.0.0", reason="first")
    registry.promote("alpha:1.1.0", reason="better", actor="alice")
    return directory / "models"


@pytest.fixture
def root(template: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(template, tmp_path / "models", symlinks=True))


@pytest.fixture
def source(root: Path) -> RegistrySource:
    return RegistrySource(Source(root=str(root)))


def write(expect: str = "1.1.0", to: str | None = None, *, mark_failed: bool = True) -> Write:
    return Write(7, "alpha", expect, to, mark_failed, "probation: it died", "modeld:uid:0")


def test_a_look_tells_version_digest_revision_and_who_moved_it(root, source):
    """One pointer for each model that has a version in the channel."""
    seen = source.look()
    (pointer,) = seen.pointers
    record = Registry(root).state("alpha").versions["1.1.0"]
    assert (pointer.model, pointer.version, pointer.digest) == ("alpha", "1.1.0", record.digest)
    assert (pointer.actor, pointer.reason, seen.broken) == ("alice", "better", {})
    assert Path(pointer.directory, "checksum.sha256").is_file()
    before = pointer.revision
    Registry(root).promote("alpha:1.0.0", reason="again")
    (pointer,) = source.look().pointers
    assert pointer.version == "1.0.0"
    assert pointer.revision > before


@pytest.mark.parametrize("digest", ["sha256:/", "sha256:" + "0" * 63 + "/", "sha256:" + "0" * 64 + "\n", ""])
def test_a_forged_digest_breaks_its_model_alone(root, source, digest):
    """A log whose chain is sound but which names what is no hash: no pointer comes of it, and the rest is seen."""
    Registry(root).promote("beta:1.0.0", reason="first")
    prev = None
    for path in sorted((root / "beta/log").glob("*.json")):
        body = json.loads(path.read_bytes())
        del body["digest"]
        body["prev"] = prev
        for op in body["ops"]:
            if op["op"] == "register":
                op["digest"] = digest
        data = canonical_json({**body, "digest": sha256(canonical_json(body))}) + b"\n"
        path.chmod(0o644)
        path.write_bytes(data)
        prev = sha256(data)
    seen = source.look()
    assert [pointer.model for pointer in seen.pointers] == ["alpha"]
    assert repr(digest) in seen.broken["beta"]


def test_only_the_models_and_the_channel_that_were_asked_for(root):
    """`source.models` and `source.channel` choose."""
    Registry(root).promote("beta:1.0.0", reason="first")
    names = [
        [p.model for p in RegistrySource(Source(root=str(root), models=m)).look().pointers]
        for m in ([], ["beta"])
    ]
    assert names == [["alpha", "beta"], ["beta"]]
    assert RegistrySource(Source(root=str(root), channel="staging")).look().pointers == []


def test_a_write_points_back_and_marks_failed(root, source):
    """The new log record names the daemon and its reason; the next look sees it."""
    written = source.write(write(to="1.0.0"))
    assert (written.token, written.code, written.from_version, written.to_version) == (
        7,
        None,
        "1.1.0",
        "1.0.0",
    )
    (pointer,) = source.look().pointers
    assert (pointer.version, pointer.actor, pointer.reason) == ("1.0.0", "modeld:uid:0", "probation: it died")
    with pytest.raises(RegistryError, match="failed"):
        Registry(root).promote("alpha:1.1.0", reason="try again")


def test_a_write_without_a_target_goes_to_the_version_before(source):
    """None is the previous distinct version; an operator's rollback needn't mark anything."""
    assert source.write(write(mark_failed=False)).to_version == "1.0.0"


def test_a_write_that_came_too_late_changes_nothing(root, source):
    """Compare-and-set: once the channel names another version, the write is a conflict."""
    Registry(root).promote("alpha:1.0.0", reason="somebody was quicker")
    before = source.look().pointers
    with pytest.raises(ConflictError):
        source.write(write(to="1.0.0"))
    assert source.look().pointers == before


def test_a_vanished_root_is_an_error_and_not_an_empty_registry(root, source):
    """Nothing is un-served because a disk went away; the one that comes back is opened anew."""
    before = source.look().pointers
    away = root.rename(root.with_name("away"))
    with pytest.raises((RegistryError, OSError)):
        source.look()
    shutil.copytree(away, root, symlinks=True)
    assert source.look().pointers == before


def test_the_directories_are_those_where_a_commit_shows(root, source):
    """The root, each model and its log; none when there is nothing."""
    assert set(source.directories()) == {
        root,
        *(root / m / d for m in ("alpha", "beta") for d in ("", "log")),
    }
    shutil.rmtree(root)
    assert source.directories() == [root]


def test_going_back_is_told_from_going_forth(root, source):
    """A version that was in the channel before comes back as one, however often; one that is new doesn't."""
    registry = Registry(root)
    assert not source.look().pointers[0].held_before
    for _ in range(2):
        for version in ("1.0.0", "1.1.0"):
            registry.rollback("alpha", to=version, reason="back")
            (pointer,) = source.look().pointers
            assert (pointer.version, pointer.held_before) == (version, True)


def test_a_rollback_over_other_features_is_served_and_a_refused_promotion_never(root, source):
    """What clients knew is let in again when it isn't warm any more; what was refused or passed by needs the word."""
    registry = Registry(root)
    registry.register("alpha", root / "alpha/versions/1.1.0/model.txt", version="2.0.0", golden=False)
    features = {"1.1.0": ("a", "b"), "2.0.0": ("c",)}
    ports = FakePorts()

    def make_slot() -> Slot:
        return Slot(
            "alpha", ports, actor="modeld:uid:0", rollback_on_reject=True, allow_schema_change=False,
            probation=Terms(30.0, 10), keep_warm=0,
        )  # fmt: skip

    slot = make_slot()

    def look() -> str | None:
        seen = source.look()
        slot.observe(seen.pointers[0], frozenset(seen.unfit.get("alpha", ())))
        trial = ports.trials[-1]
        trial.ready(contract(trial.pointer.version, features[trial.pointer.version]))
        while ports.writes:
            write = ports.writes.pop()
            source.write(
                Write(1, "alpha", write.expect, write.to, write.mark_failed, write.reason, write.actor)
            )
            slot.observe(source.look().pointers[0])
            write.done(WriteOutcome(None, None, write.expect, write.to))
        ports.advance(31)
        slot.tick()
        return slot.service.version

    assert look() == "1.1.0"
    for _ in range(2):
        registry.promote("alpha:2.0.0", reason="without the word")
        assert look() == "1.1.0", slot.last_rejection
    assert registry.state("alpha").channels["production"].version == "1.1.0"
    slot, before = make_slot(), slot
    slot.resume(before.serving.served.pointer, before.generation, [], features["1.1.0"], ports.unserved)
    assert look() == "1.1.0"
    registry.promote("alpha:2.0.0", reason="after a restart")
    assert look() == "1.1.0"
    registry.promote("alpha:2.0.0", reason="the clients know", allow_schema_change=True)
    assert (look(), slot.warm) == ("2.0.0", [])
    registry.rollback("alpha", mark_failed=True, reason="it is bad")
    assert (look(), slot.warm) == ("1.1.0", [])
    assert registry.state("alpha").channels["production"].version == "1.1.0"
