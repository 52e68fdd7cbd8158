"""`trial.require_signature`: what nobody with a key has signed doesn't serve, whatever the registry says."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pytest
from cryptography.hazmat.primitives import serialization as s
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sklearn.linear_model import LinearRegression
from tests.e2e.conftest import Daemon, rows_for_golden
from tests.registry.conftest import FEATURES, Trained

from modeld.client.errors import Rejected
from modeld.work import ipc, trial
from modeld.work.trial import TrialFailed, prove
from modelreg import Registry
from modelreg.sealed import read_sealed


def make_key(directory: Path, name: str) -> tuple[Path, Path]:
    """A PEM pair, as openssl makes it."""
    key = Ed25519PrivateKey.generate()
    private, public = directory / f"{name}.pem", directory / f"{name}.pub"
    private.write_bytes(key.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption()))
    public.write_bytes(key.public_key().public_bytes(s.Encoding.PEM, s.PublicFormat.SubjectPublicKeyInfo))
    return private, public


@pytest.fixture
def keys(tmp_path: Path) -> dict[str, tuple[Path, Path]]:
    return {name: make_key(tmp_path, name) for name in ("old", "new", "unknown")}


def rejected(daemon: Daemon, registry: Registry, version: str) -> str:
    """Promote `version`, reload, and return why it was rejected."""
    registry.promote(f"alpha:{version}", reason="try it")
    with daemon.operator() as operator, pytest.raises(Rejected) as caught:
        operator.reload()
    return str(caught.value)


def test_only_what_is_signed_serves(
    registry: Registry,
    keys: dict[str, tuple[Path, Path]],
    make_daemon: Callable[..., Daemon],
    trained: dict[str, Trained],
    rows: np.ndarray,
    tmp_path: Path,
) -> None:
    """Unsigned, by an unknown key, over other bytes: rejected in `verify` with that reason; either of two keys passes.

    The automatic rollbacks are in the registry's history with the daemon as their actor. A joblib file loads because it
    is signed. A restart without the registry serves the kept copy by the kept signature.
    """
    registry.sign("alpha:1.0.0", key=keys["old"][0])
    trusted = [str(keys[name][1]) for name in ("old", "new")]
    settings: dict[str, Any] = {"require_signature": trusted, "allow_joblib": "signed"}
    daemon = make_daemon(registry.root, trial=settings).start()
    assert "verifying: unsigned: there is no" in rejected(daemon, registry, "1.1.0")
    registry.sign("alpha:1.2.0", key=keys["unknown"][0])
    assert "is by none of the keys" in rejected(daemon, registry, "1.2.0")
    registry.register("alpha", trained["1.1.0"].path, version="1.3.0", golden=rows_for_golden())
    signatures = registry.root / "alpha/signatures"
    shutil.copy(signatures / "1.0.0.sig", signatures / "1.3.0.sig")
    assert "another key, or other bytes" in rejected(daemon, registry, "1.3.0")
    assert daemon.model()["version"] == "1.0.0"
    automatic = [entry for entry in registry.history("alpha") if entry.actor.startswith("modeld:uid:")]
    assert next(entry.reason for entry in automatic[:1]).startswith("verifying: ")
    assert len(automatic) == 3

    estimator = LinearRegression().fit(rows, rows[:, 0])
    joblib.dump(estimator, tmp_path / "model.joblib")
    registry.register(
        "alpha",
        tmp_path / "model.joblib",
        version="2.0.0",
        features=FEATURES,
        golden=rows_for_golden(),
        allow_joblib=True,
    )
    registry.sign("alpha:2.0.0", key=keys["new"][0])
    registry.promote("alpha:2.0.0", reason="signed by the next key")
    with daemon.operator() as operator:
        assert operator.reload()["version"] == "2.0.0"
    with daemon.client() as client:
        assert client.predict(rows[:5]).values.tolist() == estimator.predict(rows[:5]).tolist()
    daemon.close()
    registry.root.rename(tmp_path / "away")
    restarted = daemon.start()
    with restarted.client() as client:
        assert client.predict(rows[:5]).version in ("1.0.0", "2.0.0")


def test_openssl_verifies_too(registry: Registry, keys: dict[str, tuple[Path, Path]]) -> None:
    """The command that docs/security.md shows."""
    private, public = keys["old"]
    registry.sign("alpha:1.0.0", key=private)
    alpha = registry.root / "alpha"
    command = ["openssl", "pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", public]
    command += ["-sigfile", alpha / "signatures/1.0.0.sig", "-in"]
    for version, status in (("1.0.0", 0), ("1.1.0", 1)):
        checksum = alpha / "versions" / version / "checksum.sha256"
        done = subprocess.run([*command, checksum], capture_output=True, text=True, check=False)
        assert (done.returncode, "Signature Verified Successfully" in done.stdout) == (status, status == 0)


@pytest.fixture
def signed(registry: Registry, tmp_path: Path) -> ipc.Trial:
    """A trial of alpha 1.0.0, signed."""
    private, public = make_key(tmp_path, "key")
    registry.sign("alpha:1.0.0", key=private)
    return ipc.Trial(
        directories=[str(registry.version_dir("alpha", "1.0.0"))],
        model="alpha",
        version="1.0.0",
        digest=registry.state("alpha").versions["1.0.0"].digest,
        golden_rtol=1e-9,
        timeout_s=30,
        memory_limit_mb=4096,
        max_bytes=1 << 30,
        keys=[str(public)],
        signatures=[str(registry.root / "alpha/signatures/1.0.0.sig")],
    )


def test_a_file_swapped_after_verification_is_not_what_serves(
    signed: ipc.Trial, trained: dict[str, Trained], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The files are read once; another model put in their place between reading and loading changes nothing."""
    directory = Path(signed.directories[0])

    def read_then_swap(*arguments: object, **options: object) -> object:
        found = read_sealed(*arguments, **options)
        target = directory / "model.txt"
        directory.chmod(0o755)
        target.unlink()
        target.write_bytes(trained["1.1.0"].path.read_bytes())
        return found

    monkeypatch.setattr(trial, "read_sealed", read_then_swap)
    engine, _ = prove(signed, -1, lambda _: None)
    assert (
        engine.model.boosters["predictions"].model_to_string() == trained["1.0.0"].booster.model_to_string()
    )
    monkeypatch.undo()
    with pytest.raises(TrialFailed, match=r"model\.txt: its bytes aren't those that were sealed"):
        prove(signed, -1, lambda _: None)


def test_a_key_that_can_not_be_read_is_no_fault_of_the_version(signed: ipc.Trial, tmp_path: Path) -> None:
    """The trial is made again later; nothing is rejected."""
    (tmp_path / "broken.pem").write_text("rubbish")
    for key in (tmp_path / "missing.pem", tmp_path / "broken.pem"):
        signed.keys = [str(key)]
        with pytest.raises(TrialFailed) as caught:
            prove(signed, -1, lambda _: None)
        assert caught.value.again


@pytest.mark.parametrize("signature", [b"", b"x" * 63, b"x" * 64, b"x" * 65])
def test_bytes_that_are_no_signature_are_refused(signed: ipc.Trial, signature: bytes) -> None:
    """Whatever their length."""
    path = Path(signed.signatures[0])
    path.unlink()
    path.write_bytes(signature)
    with pytest.raises(TrialFailed, match="is by none of the keys") as caught:
        prove(signed, -1, lambda _: None)
    assert (caught.value.stage, caught.value.again) == ("verifying", False)
