"""``--dry-run``: all of a verb but the change."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
import typer
from tests.registry.conftest import damage

from modelreg import Registry
from modelreg.cli import app

#: What changes nothing.
READS = {"list", "show", "history", "lineage", "diff", "compare", "card", "verify", "query"}


def files(root: Path) -> dict[str, str | bytes]:
    """Every name and byte below; not the catalog, which reading brings up to date."""
    return {
        str(path.relative_to(root)): str(path.readlink()) if path.is_symlink() else path.read_bytes()
        for path in root.rglob("*")
        if path.is_symlink() or (path.is_file() and not path.name.startswith("catalog.db"))
    }


@pytest.fixture
def given(two: Registry, models, tmp_path) -> Path:
    """A registry with two versions in production one after the other, a backup, a key, somebody's models."""
    two.promote("momentum:1.0.0", reason="first")
    two.promote("momentum:1.1.0", reason="second")
    two.register("momentum", models["c"].path, version="0.1.0", golden=False)
    two.tag("momentum:1.1.0", "good")
    two.archive("momentum:0.1.0")
    two.backup(tmp_path / "backup.tar")
    shutil.copy(models["c"].path, tmp_path / "model.txt")
    (tmp_path / "theirs/20240101_000000").mkdir(parents=True)
    shutil.copy(models["c"].path, tmp_path / "theirs/20240101_000000/model.txt")
    key = tmp_path / "key.pem"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", key], check=True, timeout=20)
    return tmp_path


def test_every_verb_that_changes_something_can_be_tried(given, call, monkeypatch):
    """It says what would happen with status 0, in JSON too, and no file is another one afterwards."""
    monkeypatch.chdir(given)
    monkeypatch.setenv("MODELREG_ACTOR", "somebody else")
    attempts = {
        "init": [],
        "register": ["momentum", "model.txt", "--version", "2.0.0"],
        "promote": ["momentum:1.0.0", "--reason", "x"],
        "rollback": ["momentum", "--reason", "x", "--mark-failed"],
        "approve": ["momentum:1.0.0"],
        "fail": ["momentum:1.0.0", "--reason", "x"],
        "validate": ["momentum:1.0.0"],
        "tag": ["momentum:1.0.0", "new"],
        "untag": ["momentum:1.1.0", "good"],
        "archive": ["momentum:1.0.0"],
        "unarchive": ["momentum:0.1.0"],
        "delete": ["momentum:1.0.0"],
        "gc": ["--keep", "0"],
        "backup": [],
        "restore": ["backup.tar", "--root", "elsewhere"],
        "rebuild": [],
        "import": ["theirs"],
        "export": ["momentum:1.0.0"],
        "add-export": ["momentum:1.0.0", "model.txt", "--format", "txt"],
        "sign": ["momentum:1.0.0", "--key", "key.pem"],
    }
    assert {*attempts, "doctor"} == typer.main.get_command(app).commands.keys() - READS
    before = files(given)
    for verb, arguments in attempts.items():
        done = call(verb, *arguments, "--dry-run", "--json")
        assert (done.status, bool(done.json)) == (0, True), (verb, done)
        assert verb == "import" or done.json["dry_run"] is True, verb  # import answers with a list
        if verb not in ("register", "validate"):  # they start a process
            assert call(verb, *arguments, "--dry-run").out, verb
        assert files(given) == before, verb


@pytest.mark.usefixtures("given")
def test_doctor_says_what_it_would_mend(root, call):
    """With --dry-run --repair mends nothing."""
    (root / "production/latest").unlink()
    tried = call("doctor", "--repair", "--dry-run", "--json")
    assert (tried.status, [f["repaired"] for f in tried.json]) == (8, [False])
    assert not (root / "production/latest").is_symlink()
    assert call("doctor", "--repair").status == 0
    assert (root / "production/latest").is_symlink()


def test_what_is_refused_is_refused_in_a_dry_run_too(given, root, call, monkeypatch):
    """A version that is there, bytes that differ, targets that exist, a file that is no model."""
    monkeypatch.chdir(given)
    damage(root / "momentum/versions/1.0.0/model.txt")
    (given / "bad.txt").write_text("tree\n")
    (given / "momentum-1.1.0.tar").touch()
    for status, arguments in [
        (4, ["register", "momentum", "model.txt", "--version", "1.0.0"]),
        (6, ["register", "momentum", "bad.txt", "--version", "3.0.0"]),
        (6, ["promote", "momentum:1.0.0", "--reason", "x"]),
        (6, ["validate", "momentum:1.0.0"]),
        (6, ["backup", "b.tar"]),
        (4, ["backup", "backup.tar"]),
        (4, ["restore", "backup.tar"]),
        (6, ["restore", "bad.txt", "--root", "elsewhere"]),
        (4, ["export", "momentum:1.1.0"]),
        (6, ["sign", "momentum:1.0.0", "--key", "key.pem"]),
        (3, ["untag", "momentum:1.1.0", "absent"]),
    ]:
        done = call(*arguments, "--dry-run")
        assert (done.status, done.out, bool(done.err)) == (status, "", True), (arguments, done)
    assert not (given / "elsewhere").exists()
    assert list(given.glob(".tmp*")) == []
