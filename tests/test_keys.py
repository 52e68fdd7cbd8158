"""CURVE key files: made once, private, and read by other ZeroMQ programs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml
import zmq.auth
from typer.testing import CliRunner

from modeld import keys
from modeld.cli.app import app
from modelreg.errors import ConfigError, ConflictError, StoreUnavailableError


def test_a_pair_is_written_and_read_by_pyzmq_too(tmp_path: Path) -> None:
    """The secret is for its owner alone; zmq.auth reads both files."""
    pair = keys.generate()
    public, secret = keys.write_pair(tmp_path / "new", "engine", pair)
    assert secret.stat().st_mode & 0o777 == 0o600
    assert keys.read_secret(secret) == pair
    assert keys.read_public(str(public)) == keys.read_public(pair.public) == pair.public
    assert zmq.auth.load_certificate(public) == (pair.public.encode(), None)
    assert zmq.auth.load_certificate(secret) == (pair.public.encode(), pair.secret.encode())
    assert pair.secret not in repr(pair)


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    """Neither half, whichever is there, nor a symlink; and a place that can't be written is named."""
    for there in ("a.key", "b.key_secret"):
        (tmp_path / there).write_text("precious")
        with pytest.raises(ConflictError, match="never overwritten"):
            keys.write_pair(tmp_path, there[0], keys.generate())
        assert (tmp_path / there).read_text() == "precious"
    with pytest.raises(StoreUnavailableError, match="can't make"):
        keys.write_pair(tmp_path / "a.key", "c", keys.generate())


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o660, 0o644])
def test_a_secret_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    """With the command that mends it."""
    _, secret = keys.write_pair(tmp_path, "engine", keys.generate())
    secret.chmod(mode)
    with pytest.raises(ConfigError, match=f"mode {mode:04o}, so others can read it: chmod 600 {secret}"):
        keys.read_secret(secret)


def test_what_is_no_key_is_refused(tmp_path: Path) -> None:
    """A public file where the secret is needed, rubbish, a directory, nothing."""
    public, _ = keys.write_pair(tmp_path, "engine", keys.generate())
    public.chmod(0o600)
    with pytest.raises(ConfigError, match="holds no CURVE secret key"):
        keys.read_secret(public)
    (tmp_path / "rubbish").write_bytes(bytes(range(256)))
    with pytest.raises(ConfigError, match="neither a CURVE public key"):
        keys.read_public(str(tmp_path / "rubbish"))
    for path in (tmp_path, tmp_path / "missing", Path("x" * 300)):
        with pytest.raises(ConfigError, match=r"can't read the key|not a regular file"):
            keys.read_public(str(path))
    assert not keys.is_key("%" * 40)  # 40 characters, but above 2**32 in a group
    assert not keys.is_key("a" * 39)


def test_keygen_prints_the_line_that_lets_the_key_in(tmp_path: Path) -> None:
    """What it prints can be pasted below `keys:`; --json has the same."""
    done = CliRunner().invoke(
        app, ["keygen", "anna", "--dir", str(tmp_path), "--role", "read", "--role", "operate"]
    )
    assert done.exit_code == 0
    public = keys.read_public(str(tmp_path / "anna.key"))
    listed = yaml.safe_load("keys:\n" + done.stdout[done.stdout.index("  - {") :])
    assert listed == {"keys": [{"key": public, "name": "anna", "roles": ["read", "operate"]}]}
    done = CliRunner().invoke(app, ["keygen", "e1", "--dir", str(tmp_path), "--json"])
    told = json.loads(done.stdout)
    assert yaml.safe_load(told["allow_list_line"])[0]["roles"] == ["predict"]
    assert keys.read_secret(Path(told["secret_file"])).public == told["public_key"]
    done = CliRunner().invoke(app, ["keygen", "server", "--server", "--dir", str(tmp_path)])
    assert "security.curve_secret_file" in done.stdout
    assert isinstance(
        CliRunner().invoke(app, ["keygen", "e1", "--dir", str(tmp_path)]).exception, ConflictError
    )
    for wrong in (["keygen", "../x"], ["keygen", "x", "--role", "root"]):
        assert isinstance(CliRunner().invoke(app, wrong).exception, ValueError)
