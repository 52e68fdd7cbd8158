"""The Python API that the daemon and trainers rely on."""

from __future__ import annotations

import datetime as dt
import hashlib
import json
import os
import threading
from collections import Counter
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from modelreg import (
    ConflictError,
    IntegrityError,
    NotFoundError,
    Registry,
    RegistryError,
    StoreUnavailableError,
    UsageError,
)
from modelreg.disk import Disk
from modelreg.golden import load
from modelreg.sealed import read_sealed


def test_registered_metadata_has_every_field(registry, models):
    """metadata.json holds what the trainer said and what the registry established.

    Unknown fields are kept.
    """
    made = registry.register(
        "momentum", models["a"].path, version="1.0.0", metrics={"1d": {"rmse": 0.1}}, tags=["x"], notes="n",
        data_range=("1990-01-02", None), meta={"config": {"b": 1, "a": 2}, "desk": {"name": "fx"}},
    )  # fmt: skip
    raw = json.loads((made.path / "metadata.json").read_bytes())
    features = ["ret_1d", "ret_5d", "ret_20d", "vol_20d"]
    assert raw["features"] == features
    assert raw["schema"] == "sha256:" + hashlib.sha256("\n".join(features).encode()).hexdigest()
    assert raw["config_hash"] == hashlib.sha256(b'{"a": 2, "b": 1}').hexdigest()
    assert raw["desk"] == {"name": "fx"}
    assert raw["outputs"] == ["predictions"]
    assert raw["env"]["libraries"]["lightgbm"]
    assert raw["env"]["created_by"] == "tester"
    assert registry.metadata("momentum", "1.0.0").extra == {"desk": {"name": "fx"}}
    assert made.digest == "sha256:" + hashlib.sha256((made.path / "checksum.sha256").read_bytes()).hexdigest()


@pytest.mark.parametrize("model", ["a", "classes"])
def test_golden_answers_are_those_of_the_booster(registry, models, model):
    """Golden rows have NaN among them and bit-equal answers; the same model always gets the same rows."""
    golden = load(read_sealed(registry.register("m", models[model].path).path).files["golden.npz"])
    assert golden.rows.shape == (128, 4)
    assert 0 < np.isnan(golden.rows).sum() < golden.rows.size // 4
    expected = models[model].booster.predict(golden.rows, num_threads=1)
    assert list(golden.outputs) == ["predictions"]
    assert np.array_equal(golden.outputs["predictions"], expected)
    again = read_sealed(registry.register("n", models[model].path).path).files["golden.npz"]
    assert np.array_equal(load(again).rows, golden.rows, equal_nan=True)


def test_golden_rows_from_csv_npz_and_array(registry, models, tmp_path):
    """A trainer's rows are used as they are, CSV columns by name.

    Outputs that the model doesn't give are refused.
    """
    rows = np.array([[0.01, 0.02, np.nan, 0.04], [0.1, 0.2, 0.3, 0.4]])
    table = tmp_path / "golden.csv"
    table.write_text("vol_20d,ret_1d,extra,ret_5d,ret_20d\n0.04,0.01,9,0.02,\n0.4,0.1,9,0.2,0.3\n")
    archive = tmp_path / "golden.npz"
    answers = models["a"].booster.predict(rows, num_threads=1)
    np.savez(archive, **{"rows": rows, "outputs/predictions": answers})
    for golden in (table, archive, rows):
        made = registry.register("m", models["a"].path, golden=golden)
        sealed = load(read_sealed(made.path).files["golden.npz"])
        assert np.array_equal(sealed.rows, rows, equal_nan=True)
        assert np.array_equal(sealed.outputs["predictions"], answers)
    np.savez(archive, **{"rows": rows, "outputs/predictions": answers + 1e-6})
    with pytest.raises(IntegrityError, match="golden row 0"):
        registry.register("m", models["a"].path, golden=archive)
    with pytest.raises(UsageError, match="4 features"):
        registry.register("m", models["a"].path, golden=rows[:, :3])
    table.write_text("ret_1d,ret_5d\n1,2\n")
    with pytest.raises(UsageError, match="ret_20d"):
        registry.register("m", models["a"].path, golden=table)


def test_timestamp_versions_in_one_second(root, models):
    """Without --version the UTC second is the version; the next in that second gets _2."""
    now = dt.datetime(2024, 1, 31, 23, 59, 59, 5, tzinfo=dt.UTC)
    registry = Registry.init(root, clock=lambda: now)
    made = [registry.register("m", models["a"].path, golden=False).version for _ in range(3)]
    assert made == ["20240131_235959", "20240131_235959_2", "20240131_235959_3"]
    assert list(registry.state("m").versions) == made
    assert registry.state("m").versions[made[0]].at == "2024-01-31T23:59:59.000005Z"


def test_rollback_is_one_record_and_passes_over_failed_versions(two, models):
    """Back to the previous distinct usable version, marking the one that is left, in a single commit."""
    two.register("momentum", models["c"].path, version="1.2.0", golden=False)
    for version in ("1.0.0", "1.1.0", "1.1.0", "1.2.0"):
        two.promote(f"momentum:{version}", reason="up")
    two.fail("momentum:1.1.0", reason="bad data")
    commit = two.rollback("momentum", mark_failed=True, reason="died", expect="1.2.0")
    state = two.state("momentum")
    assert (commit.from_version, commit.to_version, commit.seq) == ("1.2.0", "1.0.0", state.seq)
    assert (state.versions["1.2.0"].status, state.versions["1.2.0"].reason) == ("failed", "died")
    assert state.channels["production"].previous == ("1.2.0", "1.1.0")
    assert [op["op"] for op in two.history("momentum", limit=1)[0].ops] == ["channel", "status"]
    for again in (
        lambda: two.rollback("momentum", reason="x"),
        lambda: two.promote("momentum:1.2.0", reason="x"),
    ):
        with pytest.raises(ConflictError):
            again()


def test_rollback_of_a_channel_that_was_never_set(two):
    """To a version that is named: decided the same when it is only tried, and no other version is left to go to."""
    tried = two.rollback("momentum", to="1.0.0", channel="canary", reason="x", dry_run=True)
    done = two.rollback("momentum", to="1.0.0", channel="canary", reason="x")
    assert done == replace(tried, at=done.at)
    assert (done.from_version, done.to_version, done.next_rollback) == (None, "1.0.0", None)


def test_a_rollback_that_is_written_is_told_of(two, monkeypatch):
    """Also where nothing can be read any more right after it: the caller mustn't take it for one that failed."""
    for version in ("1.0.0", "1.1.0"):
        two.promote(f"momentum:{version}", reason="x")
    state, known = two.state, two.state("momentum").seq

    def then_away(name):
        if state(name).seq > known:
            raise StoreUnavailableError("gone")
        return state(name)

    monkeypatch.setattr(two, "state", then_away)
    done = two.rollback("momentum", reason="x")
    assert (done.seq, done.to_version, done.next_rollback) == (known + 1, "1.0.0", "1.1.0")


def test_rollback_to_a_named_version(two):
    """--to takes a version or a reference of this model, and no other model's."""
    two.promote("momentum:1.1.0", reason="up")
    assert two.rollback("momentum", to="1.0.0", reason="x").to_version == "1.0.0"
    assert two.rollback("momentum", to="momentum:production~1", reason="x").to_version == "1.1.0"
    with pytest.raises(UsageError):
        two.rollback("momentum", to="other:1.0.0", reason="x")


def test_references(two):
    """Each form finds the version that it names."""
    digest = two.state("momentum").versions["1.0.0"].digest
    assert two.resolve("momentum")[1].version == "1.1.0"
    two.promote("momentum:1.0.0", reason="x")
    two.promote("momentum:1.1.0", to="staging", reason="x")
    two.promote("momentum:1.1.0", reason="x")
    two.promote("momentum:1.0.0", reason="x")
    for ref, version in {
        "momentum": "1.0.0",
        "momentum:1.1.0": "1.1.0",
        "momentum:staging": "1.1.0",
        "momentum:production~1": "1.1.0",
        f"momentum@{digest}": "1.0.0",
        f"momentum@{digest[:20]}": "1.0.0",
    }.items():
        assert two.resolve(ref)[1].version == version, ref
    for ref in ("momentum:production~2", "momentum:canary", "momentum@sha256:000000", "nobody"):
        with pytest.raises(NotFoundError):
            two.resolve(ref)
    for ref in (
        "momentum:",
        "momentum:1.0",
        "momentum:../x",
        "momentum@md5:1",
        "momentum:production~x",
        "a\0b",
    ):
        with pytest.raises(UsageError):
            two.resolve(ref)


@pytest.mark.parametrize(
    "version", ["1.0", "..", "1.0.0/..", "-1.0.0", "1.0.0\n", "v", "20241301_000000", "01.0.0"]
)
def test_versions_that_are_refused(registry, models, version):
    """Neither semver nor a timestamp: refused before anything is written."""
    with pytest.raises(UsageError):
        registry.register("m", models["a"].path, version=version, golden=False)
    assert not (registry.root / "m").exists()


@pytest.mark.parametrize("file", ["model.txt", "metadata.json", "checksum.sha256"])
def test_a_flipped_bit_stops_promotion_and_validation(two, flip, file):
    """Bytes that differ are refused and the file is named; production stays where it was."""
    two.promote("momentum:1.0.0", reason="go")
    flip(two.version_dir("momentum", "1.1.0") / file)
    with pytest.raises(IntegrityError, match=file):
        two.promote("momentum:1.1.0", reason="x")
    with pytest.raises(IntegrityError, match=file):
        two.validate("momentum:1.1.0")
    assert two.state("momentum").channels["production"].version == "1.0.0"


def test_a_missing_version_directory_is_an_integrity_error(two):
    """A registered version whose files are gone can't be promoted, and the message says so."""
    directory = two.version_dir("momentum", "1.1.0")
    directory.rename(directory.with_name("gone"))
    with pytest.raises(IntegrityError, match="missing, though it is registered"):
        two.promote("momentum:1.1.0", reason="x")


def test_one_of_many_registrations_of_a_version_wins(root, registry, models):
    """Threads with registries of their own register the same version: one wins, the others get a conflict."""
    results: list[str] = []

    def attempt(model: str) -> None:
        try:
            results.append(
                Registry(root).register("m", models[model].path, version="1.0.0", golden=False).digest
            )
        except ConflictError:
            results.append("conflict")

    threads = [threading.Thread(target=attempt, args=("abc"[i % 3],)) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    won = [result for result in results if result != "conflict"]
    assert (len(results), len(won)) == (12, 1)
    assert registry.state("m").versions["1.0.0"].digest == won[0]
    read_sealed(registry.version_dir("m", "1.0.0"), expect_digest=won[0])
    assert list((root / ".registry/staging").iterdir()) == []


class Before:
    """An os in which something else happens right before the first link."""

    def __init__(self, happens: Callable[[], None]) -> None:
        self._waiting = [happens]

    def __getattr__(self, name):
        return getattr(os, name)

    def link(self, *arguments, **options):
        if self._waiting:
            self._waiting.pop()()
        os.link(*arguments, **options)


def test_a_registrant_taken_for_dead_still_wins_alone(root, registry, models):
    """Two others meet its directory before it commits; only its owner is told success."""
    conflicts: list[str] = []

    def refused(model: str, before: Callable[[], None]) -> None:
        other = Registry(root, disk=Disk(Before(before)))
        with pytest.raises(ConflictError):
            other.register("m", models[model].path, version="1.0.0", golden=False)
        conflicts.append(model)

    def equal_one_overtaken_by_a_different_one() -> None:
        refused("a", before=lambda: refused("b", before=lambda: None))

    slow = Registry(root, actor="slow", disk=Disk(Before(equal_one_overtaken_by_a_different_one)))
    made = slow.register("m", models["a"].path, version="1.0.0", golden=False)
    assert conflicts == ["b", "a"]
    assert len(list((root / "m/log").glob("*.json"))) == 1
    read_sealed(made.path, expect_digest=registry.state("m").versions["1.0.0"].digest)


@pytest.mark.parametrize("again", ["same", "other"])
def test_a_crash_between_rename_and_commit_is_completed(registry, root, models, again):
    """What a dead registrant left is adopted by the same registration.

    Another one gets a conflict, never a mixture.
    """

    class DiesAtCommit:
        def __getattr__(self, name):
            return getattr(os, name)

        def link(self, *_, **__):
            raise KeyboardInterrupt

    dying = Registry(root, actor="dead", disk=Disk(DiesAtCommit()))
    with pytest.raises(KeyboardInterrupt):
        dying.register("m", models["a"].path, version="1.0.0", golden=False, tags=["t"])
    left = read_sealed(root / "m/versions/1.0.0").digest
    assert registry.models() == []
    if again == "same":
        assert (
            registry.register("m", models["a"].path, version="1.0.0", golden=False, tags=["t"]).digest == left
        )
    else:
        with pytest.raises(ConflictError, match="interrupted registration was completed"):
            registry.register("m", models["b"].path, version="1.0.0", golden=False)
    assert registry.state("m").versions["1.0.0"].digest == left
    assert registry.promote("m:1.0.0", reason="go").digest == left


def test_an_incomplete_leftover_is_set_aside(registry, root, models):
    """A directory that no registration can have left whole doesn't block its version."""
    (root / "m/versions/1.0.0").mkdir(parents=True)
    (root / "m/versions/1.0.0/model.txt").write_text("half")
    assert registry.register("m", models["a"].path, version="1.0.0", golden=False).seq == 1
    assert len(list((root / ".registry/trash").iterdir())) == 1


def test_projections_are_healed_at_the_next_open(two, root):
    """Deleted or stale projections come back when the registry is opened."""
    two.promote("momentum:1.0.0", reason="go")
    wanted = {
        p: os.readlink(root / p)
        for p in ("momentum/channels/production", "production/momentum", "production/latest")
    }
    manifest = (root / "manifest.json").read_bytes()
    for path in (*wanted, "manifest.json", "momentum/state.json"):
        (root / path).unlink()
        Registry(root)
        assert {p: os.readlink(root / p) for p in wanted} == wanted, path
        assert (root / "manifest.json").read_bytes() == manifest
        assert json.loads((root / "momentum/state.json").read_bytes())["seq"] == 3


def test_latest_exists_only_with_one_model(two, root, models):
    """production/latest is withdrawn when a second model appears."""
    two.promote("momentum:1.0.0", reason="go")
    assert (root / "production/latest").is_symlink()
    two.register("carry", models["c"].path, version="1.0.0", golden=False)
    assert not (root / "production/latest").is_symlink()
    assert (root / "production/momentum").is_symlink()
    assert set(json.loads((root / "manifest.json").read_bytes())["models"]) == {"momentum", "carry"}


def test_a_failing_projection_is_a_warning_not_an_error(two, root, caplog):
    """The commit stands when a projection can't be written, and the next open catches up."""
    (root / "production").rename(root / "aside")
    (root / "production").write_text("in the way")
    assert two.promote("momentum:1.0.0", reason="go").seq == 3
    assert "projection failed" in caplog.text
    (root / "production").unlink()
    Registry(root)
    assert (root / "production/momentum").resolve().name == "1.0.0"


def test_where_symlinks_cant_be_made_a_file_names_the_version(root, models):
    """A channel is then a JSON file, and reopening is content with it."""

    class NoSymlinks:
        def __getattr__(self, name):
            return getattr(os, name)

        def symlink(self, *_, **__):
            raise PermissionError(1, "Operation not permitted")

    registry = Registry.init(root, disk=Disk(NoSymlinks()))
    registry.register("m", models["a"].path, version="1.0.0", golden=False)
    registry.promote("m:1.0.0", reason="go")
    assert json.loads((root / "m/channels/production.json").read_bytes()) == {"version": "1.0.0", "seq": 2}


def test_errors_are_the_builtins_that_callers_expect():
    """One tree, with stable codes and exit statuses."""
    import modelreg

    assert issubclass(modelreg.NotFoundError, LookupError)
    assert issubclass(modelreg.ConflictError, ValueError)
    assert issubclass(modelreg.StoreUnavailableError, OSError)
    statuses = {c.code: c.exit_status for c in (RegistryError, *RegistryError.__subclasses__())}
    assert statuses == {
        "error": 1, "usage": 2, "not_found": 3, "conflict": 4, "gate": 5, "integrity": 6,
        "store_unavailable": 7,
    }  # fmt: skip
    assert str(modelreg.StoreUnavailableError("said")) == "said"


class Counts:
    """An os that counts its calls by name."""

    def __init__(self) -> None:
        self.calls: Counter[str] = Counter()

    def __getattr__(self, name):
        real = getattr(os, name)
        if not callable(real):
            return real

        def call(*arguments, **options):
            self.calls[name] += 1
            return real(*arguments, **options)

        return call


def test_opening_takes_no_longer_with_more_versions(registry, root, models):
    """As many file operations with 2 versions and promotions as with 12; a second model takes the same again."""

    def opened() -> Counter[str]:
        counts = Counts()
        Registry(root, disk=Disk(counts))
        return counts.calls

    seen = []
    for number in range(12):
        made = registry.register("m", models["a"].path, version=f"1.{number}.0", golden=False)
        registry.promote(made.ref, reason="next")
        seen.append(opened())
    assert seen[1] == seen[11]
    assert 0 < sum(seen[11].values()) < 60
    registry.register("other", models["b"].path, version="1.0.0", golden=False)
    assert sum(opened().values()) > sum(seen[11].values())
