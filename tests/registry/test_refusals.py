"""Mistakes of callers: each is refused with a sentence that says what, and nothing is left behind."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from tests.registry.conftest import FEATURES, train

from modelreg import (
    ConflictError,
    NotFoundError,
    Registry,
    StoreUnavailableError,
    TrainingResult,
    UsageError,
)
from modelreg.adoption import adopt
from modelreg.importing import discover
from modelreg.settings import LimitSettings, Settings


@pytest.fixture
def model(models) -> Path:
    return models["a"].path


REFUSED = {
    "no file": ({"files": {}}, "no model file given"),
    "two formats": ({"files": {"x": "{model}", "y": "{other}.onnx"}}, "different formats"),
    "an artefact of another name": ({"artefacts": ["{other}.csv"]}, "not a file that a version can have"),
    "a moment that is none": ({"data_range": ("last year", None)}, "isn't a date such as"),
    "a span that runs backwards": ({"data_range": ("2024-02-01", "2024-01-01")}, "is after 2024-01-01"),
    "an empty feature": ({"features": ["a", "", "c", "d"]}, "empty or has a line break"),
    "a feature twice": ({"features": ["a", "b", "b", "d"]}, "there twice"),
    "too few features": ({"features": ["a"]}, "1 features given, but the model has 4"),
    "an empty reason": ({"reason": " "}, "the reason is missing"),
    "a name that is too long": ({"notes": "x", "reason": "x" * 100_000}, "longer than"),
    "text that no log can hold": ({"reason": "\ud800"}, "isn't valid UTF-8"),
    "a metric that is no number": ({"metrics": {"ic": "high"}}, "neither a number"),
    "a metric that isn't finite": ({"metrics": {"1d": {"ic": float("nan")}}}, "isn't finite"),
    "a metric without a name": ({"metrics": {1: 2.0}}, "isn't a text"),
    "metrics that are a list": ({"metrics": [1.0]}, "neither a number"),
    "a field of the registry's own": ({"meta": {"size_bytes": 1}}, "establishes it itself"),
    "a field of the wrong type": ({"meta": {"snapshot_id": 5}}, "metadata: "),
    "a version that is none": ({"version": "latest"}, "can't be a version"),
    "a timestamp that never was": ({"version": "20241399_000000"}, "can't be a version"),
    "a version of a thousand letters": ({"version": "1.0.0-" + "x" * 1000}, "can't be a version"),
    "an output that leaves the directory": ({"files": {"../x": "{model}"}}, "can't be an output's name"),
    "an output called scaler": (
        {"files": {"scaler": "{other}.joblib"}, "scaler": "{other}.joblib"}, "called 'scaler'"
    ),
    "golden rows that are no matrix": ({"golden": np.zeros(4)}, "expected a matrix"),
    "golden rows of another width": ({"golden": np.zeros((2, 3))}, "rows of 3 values"),
}  # fmt: skip


@pytest.mark.parametrize("what", REFUSED)
def test_a_registration_that_cannot_be_right(registry, root, model, tmp_path, what):
    """A usage error with the reason; no model, no version and nothing staged."""
    for suffix in (".onnx", ".csv", ".joblib"):
        (tmp_path / f"other{suffix}").write_bytes(b"x")

    def filled(value):
        if isinstance(value, str) and value.startswith(("{model}", "{other}")):
            return Path(value.format(model=model, other=tmp_path / "other"))
        if isinstance(value, dict):
            return {key: filled(inner) for key, inner in value.items()}
        return [filled(inner) for inner in value] if isinstance(value, list) else value

    given, told = REFUSED[what]
    arguments = {"files": model, **given, "allow_joblib": True}
    arguments = {
        key: filled(value) if key in ("files", "artefacts", "scaler") else value
        for key, value in arguments.items()
    }
    with pytest.raises(UsageError, match=told):
        registry.register("m", **arguments)
    assert registry.models() == []
    assert list((root / ".registry/staging").iterdir()) == []


def test_files_that_are_too_large_together(root, model):
    """limits.version_bytes holds for all of them, not for each alone."""
    size = model.stat().st_size
    registry = Registry.init(root, settings=Settings(limits=LimitSettings(version_bytes=size * 3 // 2)))
    with pytest.raises(UsageError, match="larger than"):
        registry.register("m", {"x": model, "y": model}, golden=False)


def test_estimators_of_different_features(registry, models, tmp_path):
    """One list of features is for all outputs."""
    import lightgbm

    rows = np.random.default_rng(1).normal(size=(50, 2))
    other = lightgbm.train({"verbosity": -1, "num_threads": 1}, lightgbm.Dataset(rows, rows[:, 0]), 2)
    other.save_model(tmp_path / "other.txt")
    with pytest.raises(UsageError, match="'y' has other features"):
        registry.register("m", {"x": models["a"].path, "y": tmp_path / "other.txt"}, golden=False)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (b"\xff\xfe", "not a CSV file in UTF-8"),
        (b"ret_1d,ret_5d,ret_20d\n1,2,3\n", r"lacks \['vol_20d'\]"),
        (b"ret_1d,ret_5d,ret_20d,vol_20d,ret_1d\n1,2,3,4,5\n", "a column is there twice"),
        (b"ret_1d,ret_5d,ret_20d,vol_20d\n1,2,3\n", "row 2: "),
        (b"ret_1d,ret_5d,ret_20d,vol_20d\n1,2,3,up\n", "row 2: "),
        (b"ret_1d,ret_5d,ret_20d,vol_20d\n\n", "has no rows"),
    ],
)
def test_golden_rows_that_dont_fit(registry, model, tmp_path, text, told):
    """The file and its row are named."""
    golden = tmp_path / "golden.csv"
    golden.write_bytes(text)
    with pytest.raises(UsageError, match=told):
        registry.register("m", model, golden=golden)
    (tmp_path / "golden.npz").write_bytes(text)
    with pytest.raises(UsageError, match=r"golden\.npz"):
        registry.register("m", model, golden=tmp_path / "golden.npz")


def test_references_that_lead_nowhere(two):
    """Digest, channel and earlier holders: what isn't there is not found, what is ambiguous is a conflict."""
    for ref, told in (
        ("momentum@sha256:" + "0" * 64, "has the digest"),
        ("momentum:staging", "nothing is in the channel 'staging'"),
        ("momentum:staging~1", "nothing is in the channel"),
    ):
        with pytest.raises(NotFoundError, match=told):
            two.resolve(ref)
    two.promote("momentum:1.0.0", reason="x")
    with pytest.raises(NotFoundError, match="only 0 earlier"):
        two.resolve("momentum:production~1")
    digests = [version.digest for version in two.state("momentum").versions.values()]
    short = next((n for n in range(1, 65) if len({d[7 : 7 + n] for d in digests}) == 2), 1)
    assert two.resolve(f"momentum@{digests[0][: 7 + max(short, 8)]}")[1].version == "1.0.0"
    two.archive("momentum:1.1.0")
    two.register("other", two.version_dir("momentum", "1.0.0") / "model.txt", version="1.0.0", golden=False)
    two.fail("other:1.0.0", reason="x")
    with pytest.raises(NotFoundError, match="no usable version"):
        two.resolve("other")
    with pytest.raises(NotFoundError, match="no version momentum:9"):
        two.metadata("momentum", "9.0.0")
    with pytest.raises(ConflictError, match="already in production; name a version"):
        two.promote("momentum", reason="x")


def test_arguments_that_cannot_be_meant(two, run):
    """gc of less than nothing, a minimum without a number, a sort that nobody understands, names that are none."""
    with pytest.raises(UsageError, match="can't be negative"):
        two.gc(keep=-1)
    assert run("list", "--min", "ic").status == 2
    assert run("list", "--min", "ic=much").status == 2
    assert run("history", "--at", "noon").status == 2
    for name in ("production", "A", "../x", "x" * 65, ""):
        with pytest.raises(UsageError):
            two.register(name, two.version_dir("momentum", "1.0.0") / "model.txt")
    with pytest.raises(UsageError, match="can't be a tag"):
        two.tag("momentum:1.0.0", "two words")
    with pytest.raises(UsageError, match="can't be a channel"):
        two.promote("momentum:1.0.0", to="../x", reason="x")


# -- other tools' directories


def timestamped(directory: Path, model: Path, facts: str) -> None:
    directory.mkdir(parents=True)
    (directory / "model.txt").write_bytes(model.read_bytes())
    (directory / "metadata.json").write_text(facts)


def test_what_is_no_model_in_another_tools_directory_is_passed_over(registry, model, tmp_path):
    """Stray files, directories of other names, entries without a file: the rest is found."""
    theirs = tmp_path / "theirs"
    timestamped(theirs / "20240101_000000", model, "{}")
    (theirs / "20240102_000000").mkdir()
    (theirs / "notes").mkdir()
    (theirs / "20240103_000000").write_text("a file")
    assert [found.version for found in discover(theirs, None)] == ["20240101_000000"]
    listing = tmp_path / "listing"
    listing.mkdir()
    (listing / "a.txt").write_bytes(model.read_bytes())
    entries = ["nothing", {"version": "1.0.0"}, {"path": "a.xyz"}, {"path": "gone.txt"},
               {"path": "sub/a.txt", "version": "build 7", "tags": ["x"], "created_at": "then"}]  # fmt: skip
    (listing / "a.xyz").write_text("")
    (listing / "models.json").write_text(json.dumps(entries))
    (found,) = discover(listing, "momentum")
    assert (found.name, found.version) == ("momentum", None)
    assert found.facts["imported_version"] == "build 7"
    assert (found.facts["imported_tags"], found.facts["imported_created_at"]) == (["x"], "then")
    (done,) = adopt(registry, [found], allow_joblib=False, load=False)
    assert done.ok


@pytest.mark.parametrize(
    ("status", "stage"),
    [("production", "production"), ("staged", "staging"), ("failed", "failed"), ("deprecated", "archived")],
)
def test_the_status_that_a_version_had_there_is_kept(registry, model, tmp_path, status, stage):
    """Whatever word the other tool had for it."""
    theirs = tmp_path / "theirs"
    timestamped(theirs / "20240101_000000", model, json.dumps({"deployment_status": status}))
    adopt(registry, discover(theirs, "t"), allow_joblib=False, load=False)
    assert registry.state("t").stage_of("20240101_000000") == stage


def test_another_tools_directory_that_cannot_be_understood(tmp_path, model):
    """Not there, nothing in it, facts that aren't JSON: which file, and why."""
    with pytest.raises(NotFoundError, match="no such directory"):
        discover(tmp_path / "absent", None)
    with pytest.raises(NotFoundError, match="none of the known layouts"):
        discover(tmp_path, None)
    timestamped(tmp_path / "20240101_000000", model, "{")
    with pytest.raises(UsageError, match=r"metadata\.json: can't be read as JSON"):
        discover(tmp_path, None)
    (tmp_path / "20240101_000000/metadata.json").unlink()
    (tmp_path / "20240101_000000/metadata.json").mkdir()
    with pytest.raises(UsageError, match="not a regular file"):
        discover(tmp_path, None)


# -- training results


def test_a_training_result_without_tables_and_with_an_odd_one(tmp_path, models):
    """No table is no file; columns of different lengths are no table; a used directory isn't written over."""
    path = models["a"].path
    plain = TrainingResult(models=path, metrics={}, feature_importance=None)
    directory = plain.save(tmp_path / "plain")
    assert not list(directory.glob("*.csv"))
    assert TrainingResult.load(directory).feature_importance is None
    with pytest.raises(UsageError, match="a result is there already"):
        plain.save(directory)
    with pytest.raises(UsageError, match="different lengths"):
        TrainingResult(models=path, metrics={}, test_predictions={"y": [1.0], "p": []}).save(tmp_path / "odd")
    with pytest.raises(UsageError, match="no training result"):
        TrainingResult.load(tmp_path)


def test_a_training_result_that_names_no_config_registers(registry, tmp_path):
    """``config`` is optional, and ``meta`` adds to what the run itself tells."""
    trained = train(tmp_path / "a.txt", column="KO")
    made = TrainingResult(models=trained.booster, metrics={"ic": 0.1}, features=list(FEATURES)).register(
        registry, "m", version="1.0.0", golden=False, meta={"desk": "fx"}
    )
    facts = registry.metadata("m", "1.0.0")
    assert (made.version, facts.config_hash, facts.extra["desk"]) == ("1.0.0", None, "fx")


def test_exports_that_cannot_be_written(two, tmp_path):
    """A file that is there isn't replaced; a directory that isn't there is no place for one."""
    (tmp_path / "c.pmml").write_bytes(b"converted")
    two.add_export("momentum:1.0.0", tmp_path / "c.pmml", format="pmml")
    with pytest.raises(ConflictError, match="choose another name"):
        two.export("momentum:1.0.0", format="pmml", to=tmp_path / "c.pmml")
    with pytest.raises(StoreUnavailableError, match="can't be written"):
        two.export("momentum:1.0.0", format="pmml", to=tmp_path / "absent/c.pmml")
    with pytest.raises(StoreUnavailableError, match="can't be written"):
        two.export("momentum:1.0.0", format="tar", to=tmp_path / "absent/c.tar")
    assert two.export("momentum:1.0.0", format="lightgbm-text", to=tmp_path / "m.txt").read_bytes()
