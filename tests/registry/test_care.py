"""gc, leases, trash, backups, doctor: what keeps a registry in order, and what they spare."""

from __future__ import annotations

import datetime as dt
import errno
import os
import shutil
import subprocess
import sys
import tarfile

import pytest

from modelreg import ConflictError, IntegrityError, NotFoundError, Registry, StoreUnavailableError
from modelreg.backup import restore
from modelreg.catalogsearch import Search
from modelreg.disk import Disk
from modelreg.listing import scan
from modelreg.sealed import read_sealed


@pytest.fixture
def ten(registry, models):
    """m 1.0.0 to 1.9.0, loaded by nobody."""
    for index in range(10):
        parent = "m:1.1.0" if index == 9 else None
        registry.register("m", models["a"].path, version=f"1.{index}.0", golden=False, parent=parent)
    return registry


def present(registry, name="m"):
    return [v.version for v in registry.state(name).versions.values() if v.status != "deleted"]


def test_gc_spares_what_is_needed(ten, root, run):
    """Never production, its previous version, a channel's, a leased, a tagged one, a parent, the newest."""
    ten.promote("m:1.0.0", reason="x")
    ten.promote("m:1.2.0", reason="x")
    ten.promote("m:1.3.0", to="shadow", reason="x")
    ten.tag("m:1.4.0", "keep")
    with ten.lease("m", "1.5.0", "daemon"):
        planned = run("gc", "--keep", "2", "--dry-run", "--json").json
        assert planned == {"deleted": ["m:1.6.0", "m:1.7.0"], "purged": [], "problems": [], "dry_run": True}
        assert len(present(ten)) == 10
        assert ten.gc(keep=2).deleted == ("m:1.6.0", "m:1.7.0")
    assert ten.gc(keep=2).deleted == ("m:1.5.0",)
    assert ten.gc(keep=2).deleted == ()
    assert present(ten) == ["1.0.0", "1.1.0", "1.2.0", "1.3.0", "1.4.0", "1.8.0", "1.9.0"]
    assert sorted(p.name for p in (root / "m/versions").iterdir()) == present(ten)


def test_gc_spares_where_a_rollback_would_go(ten):
    """The previous version of production failed: a rollback goes further back, so that one stays too."""
    for version in ("1.0.0", "1.2.0", "1.3.0", "1.4.0"):
        ten.promote(f"m:{version}", reason="x")
    ten.fail("m:1.3.0", reason="x")
    ten.gc(keep=0)
    assert present(ten) == [
        "1.1.0",
        "1.2.0",
        "1.3.0",
        "1.4.0",
    ]  # 1.9.0 derives from 1.1.0 until it is gone itself
    assert ten.rollback("m", reason="x").to_version == "1.2.0"


def test_the_trash_is_emptied_after_its_grace(ten, root):
    """Files stay until the grace is over; then they are gone for good."""
    ten.delete("m:1.0.0")
    assert ten.gc(keep=9).purged == ()
    later = Registry(root, clock=lambda: dt.datetime.now(dt.UTC) + dt.timedelta(hours=169))
    assert later.gc(keep=9, dry_run=True).purged == ("m@1.0.0",)
    assert len(list((root / ".registry/trash").iterdir())) == 1
    assert later.gc(keep=9).purged == ("m@1.0.0",)
    assert list((root / ".registry/trash").iterdir()) == []


@pytest.mark.usefixtures("ten")
def test_a_lease_ends_by_itself(root):
    """It holds until its time is over, can be renewed, and keeps `delete` off without --force."""
    now = [dt.datetime(2024, 1, 1, tzinfo=dt.UTC)]
    registry = Registry(root, clock=lambda: now[0])
    lease = registry.lease("m", "1.0.0", "host:1", ttl_s=60)
    with pytest.raises(ConflictError, match="host:1 is using it"):
        registry.delete("m:1.0.0")
    now[0] += dt.timedelta(seconds=59)
    lease.renew()
    now[0] += dt.timedelta(seconds=59)
    assert [info.holder for info in registry.leases()] == ["host:1"]
    now[0] += dt.timedelta(seconds=2)
    assert registry.leases() == []
    (root / ".registry/leases/broken.json").write_text("{")
    assert registry.leases() == []
    registry.delete("m:1.0.0")
    lease.release()
    lease.release()


def test_a_backup_comes_back_whole(ten, root, run, tmp_path):
    """The restored registry has the same logs, versions and digests; a root in use isn't touched."""
    ten.promote("m:1.3.0", reason="x")
    ten.delete("m:1.2.0")
    done = run("backup", tmp_path / "b.tar.gz", "--json")
    assert done.status == 0, done.err
    assert run("backup", tmp_path / "b.tar.gz").status == 4
    assert run("restore", tmp_path / "b.tar.gz").status == 4
    assert run("restore", tmp_path / "none.tar").status == 3
    elsewhere = tmp_path / "elsewhere"
    assert run("restore", tmp_path / "b.tar.gz", "--root", elsewhere).status == 0
    back = Registry(elsewhere)
    assert back.state("m") == ten.state("m")
    assert back.uuid == ten.uuid
    assert back.doctor() == []
    assert os.readlink(elsewhere / "production/m") == "../m/versions/1.3.0"
    subprocess.run(
        ["sha256sum", "-c", "--strict", "--quiet", "checksum.sha256"],
        cwd=elsewhere / "m/versions/1.3.0", check=True, timeout=10,
    )  # fmt: skip
    assert run("backup").status == 0
    assert len(list((root / ".registry/backups").glob("*.tar"))) == 1


def test_backups_are_consistent_while_writers_run(ten, root, models, tmp_path):
    """Another process registers, promotes and deletes all the time; each backup restores and is sound."""
    code = (
        "import sys, itertools; from pathlib import Path; from modelreg import Registry\n"
        f"registry = Registry({str(root)!r})\n"
        "for i in itertools.count():\n"
        f"    made = registry.register('w', Path({str(models['b'].path)!r}), version=f'1.{{i}}.0', golden=False)\n"
        "    registry.promote(made.ref, reason='x')\n"
        "    if i > 1: registry.delete(f'w:1.{i - 2}.0')\n"
        "    print(i, flush=True)\n"
    )
    writer = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
    try:
        assert writer.stdout is not None
        for index in range(3):
            for _ in range(5):
                assert writer.stdout.readline()
            path, _ = ten.backup(tmp_path / f"{index}.tar")
            restore(path, tmp_path / f"r{index}")
            assert Registry(tmp_path / f"r{index}").doctor() == []
    finally:
        writer.kill()
        writer.wait()
        writer.stdout.close()


def test_a_damaged_or_foreign_archive_isnt_restored(ten, tmp_path):
    """Truncated, with links, with paths that leave it, or of something else: refused, and nothing is left."""
    path, _ = ten.backup(tmp_path / "b.tar")
    whole = path.read_bytes()
    target = tmp_path / "target"
    for data in (whole[: len(whole) // 2], b"nothing", whole.replace(b"end of trees", b"end of tr33s", 1)):
        (tmp_path / "bad.tar").write_bytes(data)
        with pytest.raises(IntegrityError):
            restore(tmp_path / "bad.tar", target)
    for name, kind in (("../x", tarfile.REGTYPE), ("/x", tarfile.REGTYPE), ("x", tarfile.SYMTYPE)):
        with tarfile.open(tmp_path / "bad.tar", "w") as archive:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            archive.addfile(info)
        with pytest.raises(IntegrityError):
            restore(tmp_path / "bad.tar", target)
    assert not target.exists()
    assert not list(tmp_path.glob(".tmp-*"))


def test_doctor_pinpoints_and_repairs(ten, root, run, flip):
    """A flipped bit is told with its file and can't be mended; projections and old leftovers can."""
    assert run("doctor").status == 0
    ten.promote("m:1.3.0", reason="x")
    (root / "production/m").unlink()
    old = root / ".registry/staging/dead"
    old.mkdir()
    (root / "m/versions/9.9.9").mkdir()
    for path in (old, root / "m/versions/9.9.9"):
        os.utime(path, (1e9, 1e9))
    assert run("doctor", "-q").status == 8
    mended = run("doctor", "--repair", "--json")
    assert mended.status == 0
    assert {f["kind"] for f in mended.json if f["repaired"]} == {"projection", "staging", "leftover"}
    assert (root / "production/m").is_symlink()
    assert not old.exists()
    flip(root / "m/versions/1.4.0/model.txt")
    found = run("doctor", "--repair", "--json")
    assert (found.status, found.json[0]["where"], found.json[0]["repaired"]) == (8, "m:1.4.0", False)
    assert "model.txt" in found.json[0]["problem"]
    flip(root / "m/log/00000000000000000003.json")
    assert "00000000000000000003.json" in run("doctor").out
    assert run("promote", "m:1.3.0", "--reason", "x").status == 6


@pytest.mark.usefixtures("ten")
def test_a_read_only_model_isnt_backed_up_in_silence(root):
    """What is broken has to be mended first: a backup of half a log would look whole."""
    (root / "m/log/00000000000000000004.json").unlink()
    with pytest.raises(IntegrityError, match="mend it"):
        Registry(root).backup()
    assert list((root / ".registry/backups").iterdir()) == []


def test_everything_survives_a_move(ten, root, tmp_path):
    """rsync-like copies keep versions, signatures, exports and leases valid."""
    ten.promote("m:1.3.0", reason="x")
    subprocess.run(["cp", "-a", root, tmp_path / "copy"], check=True, timeout=30)
    copy = Registry(tmp_path / "copy")
    assert copy.doctor() == []
    assert copy.state("m") == ten.state("m")
    read_sealed(
        (tmp_path / "copy/production/m").resolve(), expect_digest=copy.state("m").versions["1.3.0"].digest
    )
    with pytest.raises(NotFoundError):
        copy.gc(name="nobody")


def test_a_lease_needs_its_registry(ten, root):
    """Where the root was moved away no new one is made in its place; what isn't a lease is passed over."""
    lease = ten.lease("m", "1.0.0", "host:1")
    (root / ".registry/leases/notes.txt").write_text("not a lease")
    assert [info.version for info in ten.leases()] == ["1.0.0"]
    root.rename(root.with_name("away"))
    with pytest.raises(StoreUnavailableError, match="the registry isn't there now"):
        lease.renew()
    assert not root.exists()


def test_gc_deletes_nothing_where_leases_cant_be_listed(ten, root):
    """Then nobody knows what is in use."""
    (root / ".registry/leases").rmdir()
    (root / ".registry/leases").write_text("")
    with pytest.raises(StoreUnavailableError, match="leases: can't be read"):
        ten.gc(keep=1)
    assert len(present(ten)) == 10


@pytest.fixture
def family(root, models):
    """Three models of three versions, registered a week apart; only their newest is needed, and the parent b:1.0.0."""
    now = [dt.datetime(2024, 1, 1, tzinfo=dt.UTC)]
    registry = Registry.init(root, actor="tester", clock=lambda: now[0])
    for version in ("1.0.0", "1.1.0", "1.2.0"):
        for name in ("a", "b", "c"):
            parent = "b:1.0.0" if (name, version) == ("c", "1.1.0") else None
            registry.register(name, models["a"].path, version=version, golden=False, parent=parent)
            now[0] += dt.timedelta(days=7)
    return registry


def test_gc_goes_round_a_damaged_version(family, root, run, flip):
    """Its model stays whole, as does whatever it could derive from; the others are swept, and the status is 6."""
    assert family.gc(keep=1, dry_run=True).deleted == ("a:1.0.0", "a:1.1.0", "b:1.1.0", "c:1.0.0", "c:1.1.0")
    family.delete("c:1.0.0")
    flip(root / "c/versions/1.1.0/metadata.json")
    (root / ".registry/catalog.db").unlink()
    done = run("gc", "--keep", "1", "--grace", "0", "--yes", "--json")
    assert (done.status, done.json["deleted"], done.json["purged"]) == (6, [], [])
    assert "c/versions/1.1.0/metadata.json" in done.err
    assert "modelreg delete c:1.1.0" in done.err
    flip(root / "c/versions/1.1.0/metadata.json")
    flip(root / "a/versions/1.0.0/metadata.json")
    (root / ".registry/catalog.db").unlink()  # it would know what was sealed there
    done = run("gc", "--keep", "1", "--yes", "--json")
    # All these came after a:1.0.0, so it can't derive from them; b:1.0.0 did too, but c:1.1.0 derives from it.
    assert (done.status, done.json["deleted"]) == (6, ["b:1.1.0", "c:1.1.0"])
    assert present(family, "a") == ["1.0.0", "1.1.0", "1.2.0"]
    assert run("delete", "a:1.0.0", "--yes").status == 0
    assert run("gc", "--keep", "1", "--yes", "--json").json["deleted"] == ["a:1.1.0", "b:1.0.0"]


@pytest.mark.usefixtures("family")
def test_gc_goes_round_a_damaged_log(root, run):
    """What a lost record registered is still a child; where that can't be read nothing is deleted."""
    record = root / "c/log/00000000000000000002.json"
    record.rename(root.parent / "record")
    done = run("gc", "--keep", "1", "--yes", "--dry-run", "--json")
    assert (done.status, done.json["deleted"]) == (6, ["a:1.0.0", "a:1.1.0", "b:1.1.0"])
    assert record.name in done.err
    child = root / "c/versions/1.1.0/metadata.json"
    child.chmod(0o644)
    child.write_text("{")
    done = run("gc", "--keep", "1", "--yes", "--json")
    assert (done.status, done.json["deleted"]) == (6, [])
    assert "what c:1.1.0 derives from isn't known" in done.err
    (root.parent / "record").rename(record)
    assert run("doctor").status == 8


def test_gc_spares_the_parent_of_a_registration_that_isnt_done(family, root, run):
    """Between the rename into place and the record there is a version without a record: somebody may complete it."""
    family.delete("c:1.1.0")
    child = next(path for path in (root / ".registry/trash").iterdir() if path.name.startswith("c@1.1.0@"))
    child.rename(root / "a/versions/2.0.0")
    (root / "a/versions/3.0.0").mkdir()
    done = run("gc", "--keep", "1", "--dry-run", "--json")
    assert (done.status, done.json["deleted"]) == (0, ["a:1.0.0", "a:1.1.0", "b:1.1.0", "c:1.0.0"])


def test_gc_deletes_nothing_where_a_lease_cant_be_read(ten, root, monkeypatch):
    """It may be of any version; what isn't a lease is none."""
    with ten.lease("m", "1.0.0", "host:1"):
        (path,) = (root / ".registry/leases").iterdir()
        ten.gc(keep=10)
        real = ten._disk.read

        def read(file, **options):
            if file == path:
                raise PermissionError(13, "Permission denied", str(file))
            return real(file, **options)

        monkeypatch.setattr(ten._disk, "read", read)
        with pytest.raises(StoreUnavailableError, match=f"{path.name}: can't be read"):
            ten.gc(keep=1)
    assert len(present(ten)) == 10


def test_doctor_finds_files_of_a_deleted_version(ten, root):
    """Somebody copied them back: told, and --repair moves them to the trash again."""
    ten.delete("m:1.0.0")
    (trashed,) = (root / ".registry/trash").iterdir()
    back = root / "m/versions/1.0.0"
    shutil.copytree(trashed, back)
    (found,) = ten.doctor()
    assert (found.kind, found.where, found.repairable, found.repaired) == ("leftover", str(back), True, False)
    assert [f.repaired for f in ten.doctor(repair=True)] == [True]
    assert not back.exists()
    assert ten.doctor() == []


class Unreadable:
    """An os that can't open one file."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __getattr__(self, name):
        return getattr(os, name)

    def open(self, path, *arguments, **options):
        if str(path).endswith(self.name):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        return os.open(path, *arguments, **options)


@pytest.mark.usefixtures("ten")
def test_a_record_that_cant_be_read_is_told(root, tmp_path):
    """By doctor with its file; a backup isn't made, and a dry run of one says the same."""
    registry = Registry(root, disk=Disk(Unreadable("00000000000000000004.json")))
    (found,) = registry.doctor()
    assert (found.kind, found.where, found.repairable) == ("log", "m", False)
    assert "00000000000000000004.json: can't be read" in found.problem
    for dry_run in (False, True):
        with pytest.raises(StoreUnavailableError, match=r"04\.json: can't be read"):
            registry.backup(tmp_path / "b.tar", dry_run=dry_run)
    assert not (tmp_path / "b.tar").exists()


def test_a_model_that_goes_while_the_files_are_read_is_left_out(ten):
    """Without the catalog each model is read in turn; one that is asked for by name is missed."""
    assert {row["name"] for row in scan(ten, Search(), ["gone", "m"])} == {"m"}
    with pytest.raises(NotFoundError):
        scan(ten, Search("gone"))
