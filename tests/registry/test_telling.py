"""What the command tells people: damaged logs, names that aren't there, promotions that change nothing, the manual."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from modelreg import ConflictError, NotFoundError, Registry, UsageError, validation
from modelreg.disk import Disk
from modelreg.records import record_name


@pytest.mark.parametrize("number", [2, 3])
def test_a_damaged_log_is_told_wherever_its_state_is_shown(two, root, call, flip, number):
    """An old record or the newest: what is shown is the state before it, and stderr says so and names the file."""
    two.promote("momentum:1.0.0", reason="go")
    assert call("list").err == ""
    flip(root / "momentum/log" / record_name(number))
    for verb in (["list"], ["list", "momentum"], ["show"], ["validate"], ["card"], ["lineage"], ["history"]):
        target = [] if verb[0] == "list" else ["momentum" if verb == ["history"] else "momentum:1.0.0"]
        done = call(*verb, *target)
        assert done.status == 0, done
        assert done.out != ""
        assert "model 'momentum' is read-only" in done.err
        assert record_name(number) in done.err
    for verb in ("compare", "diff"):
        if number == 3:
            assert record_name(number) in call(verb, "momentum:1.0.0", "momentum:1.1.0").err


@pytest.mark.usefixtures("two")
def test_a_log_damaged_from_its_first_record_is_no_empty_table(root, models, call, flip):
    """Nothing can be shown: exit 6 and the file, also where one version is asked for; other models are shown."""
    flip(root / "momentum/log" / record_name(1))
    for arguments in (["list"], ["list", "momentum"], ["show", "momentum:1.0.0"]):
        done = call(*arguments)
        assert done.status == 6, done
        assert record_name(1) in done.err
    Registry(root).register("other", models["c"].path, version="1.0.0", golden=False)
    done = call("list")
    assert (done.status, "other" in done.out, record_name(1) in done.err) == (0, True, True)


@pytest.mark.usefixtures("two")
def test_damage_is_told_where_the_catalog_cant_be_used(root, call, flip):
    """Without the catalog every log is read."""
    flip(root / "momentum/log" / record_name(2))
    shutil.rmtree(root / ".registry/catalog.db", ignore_errors=True)
    (root / ".registry/catalog.db").unlink(missing_ok=True)
    (root / ".registry/catalog.db").mkdir()
    assert record_name(2) in call("list").err


class Forbids:
    """An os that lets nobody into one directory."""

    def __init__(self, forbidden: Path) -> None:
        self.forbidden = str(forbidden)

    def __getattr__(self, name):
        real = getattr(os, name)
        if name not in ("lstat", "stat", "listdir", "open"):
            return real

        def call(path, *arguments, **options):
            if str(path).startswith(f"{self.forbidden}/"):
                raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
            return real(path, *arguments, **options)

        return call


def test_another_users_directory_doesnt_keep_the_registry(two, root, models, caplog):
    """It is left out of the models, told where it is asked for, by doctor and by backup; all else works."""
    two.register("other", models["c"].path, version="1.0.0", golden=False)
    (root / "lost+found").mkdir()
    registry = Registry(root, actor="tester", disk=Disk(Forbids(root / "other")))
    assert registry.models() == ["momentum"]
    assert list(registry.unreadable()) == ["other"]
    assert registry.promote("momentum:1.0.0", reason="go").seq == 3
    assert [row["ref"] for row in registry.find()] == ["momentum:1.1.0", "momentum:1.0.0"]
    with pytest.raises(OSError, match=r"other.*Permission denied"):
        registry.state("other")
    assert [(f.kind, f.where) for f in registry.doctor()] == [("unreadable", "other")]
    registry.backup(root.parent / "backup.tar")
    assert "it isn't in the backup" in caplog.text


def test_a_promotion_to_where_the_version_is_changes_nothing(two, call, flip):
    """No record is written, the exit status is 0; bytes are checked all the same, expectations too."""
    two.promote("momentum:1.0.0", reason="go")
    again = two.promote("momentum:1.0.0", reason="again")
    assert (again.seq, again.changed, again.from_version, again.to_version) == (3, False, "1.0.0", "1.0.0")
    done = call("promote", "momentum:1.0.0", "--reason", "again")
    assert (done.status, done.out) == (
        0,
        "momentum: production holds 1.0.0 already (record 3); nothing to do\n",
    )
    with pytest.raises(ConflictError, match="expected 1"):
        two.promote("momentum:1.0.0", reason="again", expect="1.1.0")
    with pytest.raises(ConflictError, match="already; roll back to another"):
        two.rollback("momentum", to="1.0.0", reason="again")
    assert two.state("momentum").seq == 3
    assert two.promote("momentum:1.0.0", reason="it is meant", allow_schema_change=True).changed
    flip(two.version_dir("momentum", "1.0.0") / "model.txt")
    assert call("promote", "momentum:1.0.0", "--reason", "again").status == 6


def test_an_unknown_model_brings_the_known_ones(registry, models):
    """None, some, or the first ten and how many more."""
    with pytest.raises(NotFoundError, match="there is none yet"):
        registry.state("nosuch")
    for number in range(12):
        registry.register(f"m{number:02}", models["a"].path, version="1.0.0", golden=False)
        if number == 1:
            with pytest.raises(NotFoundError, match=r"no model 'nosuch' in .*; there are: m00, m01$"):
                registry.resolve("nosuch:1.0.0")
    with pytest.raises(NotFoundError, match=r"m08, m09 and 2 more, see: modelreg list$"):
        registry.promote("nosuch", reason="x")


def test_an_unknown_status_is_a_usage_error(two, call):
    """An empty table would look like an answer."""
    done = call("list", "--status", "bogus")
    assert done.status == 2
    assert "known: registered, validated, archived, failed, deleted" in done.err
    with pytest.raises(UsageError):
        two.find(status="bogus")


def test_each_line_of_a_message_says_whose_it_is(call, tmp_path):
    """A configuration with several mistakes: one line each, each with the command's name."""
    config = tmp_path / "bad.yaml"
    config.write_text("golden: {rows: -1, nan_fraction: 7}\nnosuch: 1\n")
    done = call("--config", config, "list")
    lines = done.err.splitlines()
    assert (done.status, len(lines)) == (2, 3)
    assert all(line.startswith(f"modelreg: {config}:") for line in lines)


def test_without_a_catalog_damage_is_told_all_the_same(two, root, call, flip):
    """Where the catalog's file can't be made every log is read; `--quiet` gives each record a line."""
    assert call("history", "momentum", "--quiet").out == "momentum 2\nmomentum 1\n"
    two.catalog.close()
    (root / ".registry/catalog.db").unlink(missing_ok=True)
    (root / ".registry/catalog.db").mkdir()
    flip(root / "momentum/log" / record_name(2))
    done = call("list")
    assert done.status == 0
    assert "1.0.0" in done.out
    assert record_name(2) in done.err


def test_a_rollback_tells_where_the_next_one_would_go(two, models, call):
    """Back to the version just left, further back, to none: on stderr, and as next_rollback in JSON."""
    two.register("momentum", models["c"].path, version="1.2.0", golden=False)
    for version in ("1.0.0", "1.1.0", "1.2.0"):
        two.promote(f"momentum:{version}", reason="x")
    tried = call("rollback", "momentum", "--reason", "x", "--dry-run")
    assert "a second rollback would point production at 1.2.0, which was left just now" in tried.err
    assert call("rollback", "momentum", "--reason", "x", "--json").json["next_rollback"] == "1.2.0"
    told = call("rollback", "momentum", "--reason", "x")
    assert told.out == "momentum: production moved from 1.1.0 to 1.2.0 (record 8)\n"
    assert "at 1.1.0, which was left just now" in told.err
    further = call("rollback", "momentum", "--reason", "x", "--mark-failed")
    assert further.err == "modelreg: a second rollback would point production at 1.0.0\n"
    last = call("rollback", "momentum", "--reason", "x", "--mark-failed")
    assert "no other version for production to roll back to" in last.err
    assert call("rollback", "momentum", "--reason", "x", "--quiet").status == 4


def test_validate_tells_of_the_signature(two, root, call, tmp_path, flip):
    """None, one that nobody asked about, one by the key that was named; by another key, or a broken log: as such."""
    keys = {name: tmp_path / f"{name}.pem" for name in ("ours", "theirs")}
    for path in keys.values():
        subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", path], check=True, timeout=20)
    told = {row["name"]: row["detail"] for row in call("validate", "momentum:1.0.0", "--json").json["checks"]}
    assert told["signature"] == "none"
    two.sign("momentum:1.0.0", keys["ours"])
    assert two.state("momentum").versions["1.0.0"].status == "validated"
    assert [c.detail for c in two.validate("momentum:1.0.0").checks][1] == "there; whose it is tells --key"
    assert call("validate", "momentum:1.0.0", "--key", keys["ours"]).out.count(f"by {keys['ours']}") == 1
    assert call("validate", "momentum:1.0.0", "--key", keys["theirs"]).status == 6
    assert call("validate", "momentum:1.1.0", "--key", keys["ours"]).status == 6
    assert two.validate("momentum:1.1.0", dry_run=True).golden_rows == 0
    assert two.state("momentum").versions["1.1.0"].status == "registered"
    flip(root / "momentum/log" / record_name(3))
    assert call("validate", "momentum:1.1.0").status == 0
    assert Registry(root).state("momentum").versions["1.1.0"].status == "registered"


def test_a_version_that_changes_while_it_is_proved_keeps_its_status(two, monkeypatch, caplog):
    """Somebody archives it meanwhile: it passed, and stays archived."""
    real = validation.validate_version

    def slow(*arguments, **options):
        report = real(*arguments, **options)
        Registry(two.root, actor="somebody").archive("momentum:1.0.0")
        return report

    monkeypatch.setattr("modelreg.registry.validation.validate_version", slow)
    two.validate("momentum:1.0.0")
    assert "its status stays as it is" in caplog.text
    assert two.state("momentum").versions["1.0.0"].status == "archived"
