"""Signatures, exports, and the layouts of other tools."""

from __future__ import annotations

import json
import pickle
import tarfile

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sklearn.linear_model import LinearRegression
from sklearn.preprocessing import StandardScaler
from tests.registry.conftest import FEATURES, features_and_returns

from modelreg import IntegrityError, NotFoundError, Registry, UsageError
from modelreg.backup import restore


@pytest.fixture
def keys(tmp_path):
    """A private and a public key as PEM, and another pair's public one."""
    key = Ed25519PrivateKey.generate()
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    subject = serialization.PublicFormat.SubjectPublicKeyInfo
    files = {"private": private, "public": key.public_key().public_bytes(pem, subject)}
    files["other"] = Ed25519PrivateKey.generate().public_key().public_bytes(pem, subject)
    for name, data in files.items():
        (tmp_path / name).write_bytes(data)
    return {name: tmp_path / name for name in files}


def test_sign_and_verify(two, run, root, keys, flip):
    """A signature is over checksum.sha256; another key, other bytes or none at all is exit 6."""
    assert run("verify", "momentum:1.0.0", "--key", keys["public"]).status == 6
    assert run("sign", "momentum:1.0.0", "--key", keys["private"]).status == 0
    signature = (root / "momentum/signatures/1.0.0.sig").read_bytes()
    public = serialization.load_pem_public_key(keys["public"].read_bytes())
    public.verify(signature, (root / "momentum/versions/1.0.0/checksum.sha256").read_bytes())
    assert run("verify", "momentum:1.0.0", "--key", keys["public"]).status == 0
    assert run("verify", "momentum:1.0.0", "--key", keys["other"]).status == 6
    assert run("sign", "momentum:1.0.0", "--key", keys["public"]).status == 2
    assert run("sign", "momentum:1.0.0", "--key", root / "absent").status == 3
    flip(root / "momentum/versions/1.0.0/model.txt")
    assert run("verify", "momentum:1.0.0", "--key", keys["public"]).status == 6
    with pytest.raises(IntegrityError):
        two.sign("momentum:1.0.0", keys["private"])


def test_exports(two, run, root, tmp_path, flip):
    """tar packs the sealed files; another format has to be added, is tracked in the log, and is checked."""
    target = tmp_path / "m.tar"
    assert run("export", "momentum:1.0.0", "--format", "tar", "--to", target).status == 0
    with tarfile.open(target) as archive:
        names = {name.split("/")[1] for name in archive.getnames()}
    assert names == {path.name for path in (root / "momentum/versions/1.0.0").iterdir()}
    assert run("export", "momentum:1.0.0", "--to", target).status == 4
    assert run("export", "momentum:1.0.0", "--format", "pmml", "--to", tmp_path / "m.pmml").status == 3
    (tmp_path / "c.onnx").write_bytes(b"converted")
    assert run("add-export", "momentum:1.0.0", tmp_path / "c.onnx", "--format", "onnx").status == 0
    assert run("show", "momentum:1.0.0", "--json").json["exports"] == ["onnx"]
    assert two.export("momentum:1.0.0", format="onnx", to=tmp_path / "m.onnx").read_bytes() == b"converted"
    with pytest.raises(UsageError):
        two.add_export("momentum:1.0.0", tmp_path / "c.onnx", format="../x")
    with pytest.raises(NotFoundError):
        two.add_export("momentum:1.0.0", tmp_path / "absent", format="onnx")
    # A backup has them; damage is found by whoever reads them; they go with their version.
    backup, _ = two.backup(tmp_path / "b.tar")
    restore(backup, tmp_path / "back")
    back = Registry(tmp_path / "back")
    assert back.export("momentum:1.0.0", format="onnx", to=tmp_path / "b.onnx").read_bytes() == b"converted"
    kept = next((root / "momentum/exports/1.0.0").iterdir())
    flip(kept, 0)
    with pytest.raises(IntegrityError, match="aren't those added"):
        two.export("momentum:1.0.0", format="onnx", to=tmp_path / "n.onnx")
    assert [(f.where, kept.name in f.problem) for f in two.doctor()] == [("momentum:1.0.0", True)]
    kept.unlink()
    with pytest.raises(IntegrityError, match="missing, though it was added"):
        two.backup(tmp_path / "n.tar")
    two.delete("momentum:1.0.0")
    assert list((root / "momentum/exports").iterdir()) == []
    assert two.doctor() == []


def test_a_directory_of_timestamps_is_adopted(run, models, tmp_path):
    """<YYYYMMDD_HHMMSS>/ with production/latest: versions, facts, tables and what was in production."""
    theirs = tmp_path / "trader/models"
    for version, model in (("20240101_120000", "a"), ("20240201_120000", "b")):
        directory = theirs / version
        directory.mkdir(parents=True)
        (directory / "model.txt").write_bytes(models[model].path.read_bytes())
        (directory / "feature_importance.csv").write_text("feature,gain\n")
        facts = {"version": version, "training_date": "2024-01-01", "metrics": {"ic": 0.1}, "desk": "fx"}
        (directory / "metadata.json").write_text(json.dumps(facts))
    (theirs / "production").mkdir()
    (theirs / "production/latest").symlink_to("../20240101_120000")
    run("init")
    assert run("import", tmp_path / "trader", "--dry-run", "-q").out.split() == [
        "trader:20240101_120000", "trader:20240201_120000",
    ]  # fmt: skip
    assert run("list", "-q").out == ""
    assert run("import", tmp_path / "trader").status == 0
    shown = run("show", "trader:production", "--json").json
    assert (shown["version"], shown["metadata"]["trained_at"]) == ("20240101_120000", "2024-01-01")
    assert (shown["metadata"]["metrics"], shown["metadata"]["desk"]) == ({"ic": 0.1}, "fx")
    for row in run("import", tmp_path / "trader", "--dry-run", "--json").json:
        assert row["outcome"] == "exists"
    again = run("import", tmp_path / "trader", "--json")
    assert (again.status, {row["outcome"] for row in again.json}) == (0, {"exists"})


def test_a_json_registry_with_pickles_is_adopted(run, tmp_path):
    """Model and scaler pickles, per-horizon metrics; pickles need permission, and absolute paths may be stale."""
    rows, target = features_and_returns("KO", 200)
    scaler = StandardScaler().fit(rows)
    theirs = tmp_path / "fx"
    theirs.mkdir()
    (theirs / "eur.pkl").write_bytes(pickle.dumps(LinearRegression().fit(scaler.transform(rows), target)))
    (theirs / "eur_scaler.pkl").write_bytes(pickle.dumps(scaler))
    entry = {
        "model_type": "linear", "currency_pair": "EURUSD", "trained_at": "2024-01-31T10:00:00",
        "model_path": "/gone/eur.pkl", "scaler_path": "eur_scaler.pkl", "features_used": list(FEATURES),
        "validation_metrics": {"1d": {"rmse": 0.1}}, "horizons": ["1d"], "min_samples": 100, "calibration_ok": True,
    }  # fmt: skip
    (theirs / "registry.json").write_text(json.dumps({"models": {"eur-1": entry}}))
    run("init")
    refused = run("import", theirs)
    assert refused.status == 1
    assert "--allow-joblib" in refused.out
    assert run("import", theirs, "--allow-joblib").status == 0
    facts = run("show", "linear-eurusd", "--json").json["metadata"]
    assert facts["version"] == "20240131_100000"
    assert facts["metrics"] == {"1d": {"rmse": 0.1}}
    assert (facts["min_samples"], facts["files"]["scaler.joblib"]["role"]) == (100, "scaler")


def test_artifacts_by_type_and_version_are_adopted(run, models, tmp_path):
    """artifacts/<type>/<version>/ in the order of their versions, with their status."""
    for version, status in (("v1.10.0", "production"), ("v1.2.0", "archived"), ("v1.9.0", "failed")):
        directory = tmp_path / "artifacts/risk_model" / version
        directory.mkdir(parents=True)
        (directory / "model.txt").write_bytes(models["a"].path.read_bytes())
        (directory / "metadata.json").write_text(json.dumps({"status": status, "checksum": "x"}))
        told = {"sharpe": 1.2, "1d": {"rmse": 0.1, "set": "test"}, "by": "eve", "good": True}
        (directory / "metrics.json").write_text(json.dumps(told))
    run("init")
    assert run("import", tmp_path, "--no-golden").status == 0
    assert run("list", "-q").out.split() == ["risk_model:v1.10.0", "risk_model:v1.9.0", "risk_model:v1.2.0"]
    statuses = {row["version"]: row["stage"] for row in run("list", "--json").json}
    assert statuses == {"v1.10.0": "production", "v1.9.0": "failed", "v1.2.0": "archived"}
    metrics = run("show", "risk_model:v1.2.0", "--json").json["metadata"]["metrics"]
    assert metrics == {"sharpe": 1.2, "1d": {"rmse": 0.1}}
    assert run("import", tmp_path / "artifacts/risk_model/v1.2.0").status == 3
