"""The log as the only truth: damage, gaps, lost records, races, refresh."""

from __future__ import annotations

import json
import multiprocessing
import os
import shutil
from pathlib import Path

import pytest

from modelreg import ConflictError, IntegrityError, Registry, StoreUnavailableError
from modelreg.records import encode_record, record_name, sha256
from modelreg.state import Fold


def log_of(root: Path) -> list[Path]:
    return sorted((root / "momentum/log").glob("*.json"))


def promote_often(root: Path, version: str, channel: str, count: int) -> None:
    registry = Registry(root, actor=version)
    for turn in range(count):
        registry.promote(f"momentum:{version}", to=f"{channel}{turn}", reason=f"turn {turn}")


def test_eight_processes_promote_at_once(two, root):
    """Each promotion gets a number of its own, none is lost, and the chain is whole."""
    context = multiprocessing.get_context("spawn")
    workers = [
        context.Process(target=promote_often, args=(root, ("1.0.0", "1.1.0")[index % 2], f"lane{index}-", 6))
        for index in range(8)
    ]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert [worker.exitcode for worker in workers] == [0] * 8
    records = [json.loads(path.read_bytes()) for path in log_of(root)]
    assert [record["seq"] for record in records] == list(range(1, 2 + 48 + 1))
    assert len({record["id"] for record in records}) == len(records)
    for before, after in zip(log_of(root), records[1:], strict=False):
        assert after["prev"] == sha256(before.read_bytes())
    for version in ("1.0.0", "1.1.0"):
        assert sum(record["actor"] == version for record in records) == 24
    state = two.state("momentum")
    moved = records[-1]["ops"][0]
    assert (state.seq, state.channels[moved["channel"]].version, state.broken) == (50, moved["version"], None)
    assert os.readlink(root / "momentum/channels" / moved["channel"]).endswith(moved["version"])
    assert [path.name for path in (root / "momentum/log").iterdir() if path.name.startswith(".")] == []


def test_a_record_by_another_registry_is_seen(two, root):
    """A snapshot is refreshed without reopening, and stays the same object where nothing is new."""
    before = two.state("momentum")
    assert two.state("momentum") is before
    Registry(root).promote("momentum:1.0.0", reason="other process")
    assert two.state("momentum").channels["production"].version == "1.0.0"
    assert "production" not in before.channels


@pytest.mark.parametrize("number", [1, 2, 3])
def test_a_flipped_bit_makes_the_model_read_only(two, root, models, flip, number):
    """Damage to any record, the newest too, is pinpointed and leaves other models alone."""
    two.promote("momentum:1.0.0", reason="go")
    two.register("other", models["c"].path, version="1.0.0", golden=False)
    flip(log_of(root)[number - 1])
    registry = Registry(root)
    state = registry.state("momentum")
    assert state.seq == number - 1
    assert record_name(number) in state.broken
    with pytest.raises(IntegrityError, match=record_name(number)):
        registry.promote("momentum:1.1.0", reason="x")
    with pytest.raises(IntegrityError, match="read-only"):
        registry.register("momentum", models["c"].path, golden=False)
    assert registry.promote("other:1.0.0", reason="fine").seq == 2
    assert len(log_of(root)) == 3


def test_a_gap_and_a_lost_newest_record_are_seen(two, root):
    """A missing record makes the model read-only wherever it was in the chain."""
    two.promote("momentum:1.0.0", reason="go")
    newest, middle = log_of(root)[2], log_of(root)[1]
    saved = newest.read_bytes()
    newest.unlink()
    with pytest.raises(IntegrityError, match=r"00003.json is missing, though .*state.json"):
        Registry(root).promote("momentum:1.1.0", reason="x")
    newest.write_bytes(saved)
    assert Registry(root).state("momentum").broken is None
    middle.unlink()
    assert "00002.json is missing, though record 3 exists" in Registry(root).state("momentum").broken


def test_a_repaired_record_is_seen_without_reopening(two, root, flip):
    """Restoring the damaged file makes the model writable again."""
    assert two.state("momentum").broken is None
    path = log_of(root)[1]
    saved = path.read_bytes()
    flip(path)
    registry = Registry(root)
    assert registry.state("momentum").broken
    path.write_bytes(saved)
    assert registry.state("momentum").broken is None
    assert registry.promote("momentum:1.1.0", reason="again").seq == 3


def append(root: Path, ops: list, **more: object) -> None:
    """Write a record that this modelreg wouldn't, as a newer one might."""
    from modelreg.records import canonical_json

    last = log_of(root)[-1]
    seq = len(log_of(root)) + 1
    body = {
        "seq": seq, "prev": sha256(last.read_bytes()), "id": "x", "at": "2030-01-01T00:00:00.000000Z",
        "actor": "future", "reason": None, "ops": ops, "expect": {}, **more,
    }  # fmt: skip
    body["digest"] = sha256(canonical_json(body))
    (last.parent / record_name(seq)).write_bytes(canonical_json(body))


def test_an_unknown_operation_makes_the_model_read_only(two, root):
    """What a newer modelreg wrote is neither guessed at nor written over."""
    append(
        root,
        [
            {"op": "quantum", "version": "1.0.0"},
            {"op": "channel", "channel": "production", "version": "1.0.0"},
        ],
    )
    state = two.state("momentum")
    assert state.channels["production"].version == "1.0.0"
    with pytest.raises(IntegrityError, match=r"'quantum'.*upgrade"):
        two.promote("momentum:1.1.0", reason="x")


def test_unknown_fields_are_kept(two, root):
    """A field that isn't known neither breaks the chain nor its digest."""
    append(root, [], weather="fine")
    assert two.state("momentum").seq == 3
    assert two.promote("momentum:1.0.0", reason="go").seq == 4


def test_a_record_about_an_unknown_version_breaks_the_chain(two, root):
    """A well-formed record that contradicts the state isn't taken in, not even in part."""
    append(
        root, [{"op": "tag", "version": "1.0.0", "tag": "t"}, {"op": "tag", "version": "9.0.0", "tag": "t"}]
    )
    state = two.state("momentum")
    assert (state.seq, state.versions["1.0.0"].tags) == (2, ())
    assert "9.0.0" in state.broken


def test_a_vanished_root_is_unavailable_or_missing_not_empty(two, root):
    """Where the files are gone, no stale or empty state is told."""
    two.state("momentum")
    shutil.rmtree(root)
    with pytest.raises(LookupError):
        two.state("momentum")
    with pytest.raises(StoreUnavailableError):
        two.models()


def test_a_replaced_log_is_read_anew(two, root, tmp_path):
    """A registry restored in place of the old one is told from it by its directory."""
    copy = tmp_path / "copy"
    shutil.copytree(root, copy, symlinks=True)
    two.promote("momentum:1.0.0", reason="go")
    shutil.rmtree(root)
    copy.rename(root)
    assert two.state("momentum").seq == 2


@pytest.mark.parametrize("seconds_apart", [0, 5])
def test_a_log_restored_into_the_same_directory_is_read_anew(two, root, tmp_path, seconds_apart):
    """The directory's inode tells nothing where files are exchanged in it: the newest record's file does."""
    copy = tmp_path / "copy"
    shutil.copytree(root, copy, symlinks=True)
    two.promote("momentum:1.0.0", reason="go")
    Registry(copy).promote("momentum:1.1.0", reason="go")
    newest = log_of(root)[-1]
    newest.unlink()
    for file in (f"log/{newest.name}", "state.json"):
        shutil.copy(copy / "momentum" / file, root / "momentum" / file)
    os.utime(newest, ns=(0, newest.stat().st_mtime_ns + seconds_apart * 10**9))
    assert two.state("momentum").channels["production"].version == "1.1.0"
    assert two.state("momentum").broken is None
    assert two.promote("momentum:1.0.0", reason="on top of it").seq == 4


def test_expectations_are_checked_and_logged(two, root):
    """Compare-and-set: a wrong expectation is a conflict, a right one stands in the record."""
    two.promote("momentum:1.0.0", reason="first", expect=None)
    with pytest.raises(ConflictError, match=r"production holds 1\.0\.0, expected nothing"):
        two.promote("momentum:1.1.0", reason="late", expect=None)
    two.promote("momentum:1.1.0", reason="second", expect="1.0.0")
    assert json.loads(log_of(root)[-1].read_bytes())["expect"] == {"channels": {"production": "1.0.0"}}


def test_encoding_is_canonical():
    """The same decision always has the same bytes, whose digest leaves out itself."""
    data = encode_record(
        seq=1, prev=None, id="i", at="t", actor="ä", reason=None, ops=[], expect={"b": 1, "a": 2}
    )
    record = json.loads(data)
    digest = record.pop("digest")
    plain = json.dumps(record, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    assert digest == sha256(plain.encode())
    assert Fold("m").snapshot().head is None
