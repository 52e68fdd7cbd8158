"""Tags, archive, delete, and what they leave on the disk."""

from __future__ import annotations

import pytest

from modelreg import ConflictError, NotFoundError, Registry


def test_tags_are_free_labels_and_never_move_a_channel(run, models):
    """tag and untag change nothing but the label; an absent one can't be taken off."""
    run("init")
    run("register", "m", models["a"].path, "--version", "1.0.0", "--no-golden")
    assert run("tag", "m:1.0.0", "desk/fx").status == 0
    assert run("list", "-q", "--tag", "desk/fx").out == "m:1.0.0\n"
    assert run("untag", "m:1.0.0", "desk/fx").status == 0
    assert run("untag", "m:1.0.0", "desk/fx").status == 3
    assert run("tag", "m:1.0.0", "no spaces").status == 2
    assert run("show", "m:1.0.0", "--json").json["channels"] == []


def test_the_words_of_other_registries_are_derived(two, models, call):
    """registered, staged, production, deprecated, retired, archived, failed, deleted: from status and channels."""
    for version in ("1.2.0", "1.3.0", "1.4.0", "1.5.0", "1.6.0"):
        two.register("momentum", models["a"].path, version=version, golden=False)
    for version in ("1.0.0", "1.1.0", "1.2.0"):
        two.promote(f"momentum:{version}", reason="x")
    two.archive("momentum:1.1.0")
    two.promote("momentum:1.3.0", to="shadow", reason="x")
    two.archive("momentum:1.4.0")
    two.fail("momentum:1.5.0", reason="x")
    expected = {
        "1.0.0": "deprecated", "1.1.0": "retired", "1.2.0": "production", "1.3.0": "staged", "1.4.0": "archived",
        "1.5.0": "failed", "1.6.0": "registered",
    }  # fmt: skip
    assert {row["version"]: row["lifecycle"] for row in two.find()} == expected
    told = call("query", "select version, lifecycle from versions", "--json").json
    assert {row["version"]: row["lifecycle"] for row in told} == expected
    two.delete("momentum:1.0.0")
    assert call("show", "momentum:1.0.0", "--json").json["lifecycle"] == "deleted"


def test_archive_and_unarchive(two):
    """An archived version can't be promoted; it comes back with the status that it had; production is spared."""
    two.promote("momentum:1.0.0", reason="go")
    two.promote("momentum:1.1.0", to="staging", reason="go")
    with pytest.raises(ConflictError, match="in production"):
        two.archive("momentum:1.0.0")
    two.archive("momentum:1.1.0", reason="old")
    state = two.state("momentum")
    assert (state.versions["1.1.0"].status, state.channels["staging"].version) == ("archived", None)
    with pytest.raises(ConflictError, match="archived"):
        two.promote("momentum:1.1.0", reason="x")
    two.unarchive("momentum:1.1.0")
    assert two.state("momentum").versions["1.1.0"].status == "registered"
    with pytest.raises(ConflictError, match="not archived"):
        two.unarchive("momentum:1.1.0")


def test_delete_spares_what_is_needed(run, root, models):
    """Production never; tagged or held only by --force; then the files are in the trash and the name is used up."""
    run("init")
    for version in ("1.0.0", "1.1.0", "1.2.0"):
        run("register", "m", models["a"].path, "--version", version, "--no-golden")
    run("promote", "m:1.0.0", "--reason", "go")
    run("promote", "m:1.1.0", "--to", "staging", "--reason", "go")
    run("tag", "m:1.1.0", "keep")
    assert run("delete", "m:1.0.0", "--force").status == 4
    refused = run("delete", "m:1.1.0")
    assert refused.status == 4
    assert "the channel staging holds it; it has the tag keep" in refused.err
    assert run("delete", "m:1.2.0", "--dry-run").status == 0
    assert (root / "m/versions/1.2.0").is_dir()
    unasked = run("delete", "m:1.2.0")
    assert (unasked.status, "say --yes" in unasked.err) == (2, True)
    assert (root / "m/versions/1.2.0").is_dir()
    assert run("delete", "m:1.2.0", "--yes").status == 0
    assert run("--yes", "delete", "m:1.1.0", "--force", "--reason", "gone").status == 0
    assert [path.name for path in (root / "m/versions").iterdir()] == ["1.0.0"]
    assert not (root / "m/channels/staging").is_symlink()
    assert {path.name.split("@")[1] for path in (root / ".registry/trash").iterdir()} == {"1.1.0", "1.2.0"}
    assert run("list", "-q").out == "m:1.0.0\n"
    assert run("show", "m:1.1.0", "--json").json["status"] == "deleted"
    assert run("register", "m", models["a"].path, "--version", "1.2.0", "--no-golden").status == 4
    assert run("promote", "m:1.2.0", "--reason", "x").status == 4


def test_files_of_a_deleted_version_are_cleared_by_the_next_open(two, root):
    """A crash between the record and the move leaves the files; whoever opens the registry moves them."""
    (root / "momentum/versions").chmod(0o755)
    kept = root / "momentum/versions/1.1.0"
    two.delete("momentum:1.1.0")
    assert not kept.exists()
    trashed = next((root / ".registry/trash").iterdir())
    trashed.rename(kept)
    (root / "momentum/state.json").unlink()
    Registry(root)
    assert not kept.exists()


def test_lifecycle_verbs_need_an_existing_version(two):
    """Each of them tells an unknown version apart from a deleted one."""
    two.delete("momentum:1.1.0")
    for verb in (two.archive, two.unarchive, two.delete, two.approve):
        with pytest.raises(NotFoundError):
            verb("momentum:9.9.9")
        with pytest.raises(ConflictError):
            verb("momentum:1.1.0")
