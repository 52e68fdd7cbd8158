"""A registry that several users write: a directory with a default ACL for its group, as tmpfiles.d makes it."""

from __future__ import annotations

import errno
import os
import stat
import struct
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from modelreg import Registry
from modelreg.backup import restore

#: acl(5)'s tags, with rwx for the owner and the group, and nothing for others.
_ACL = struct.pack("<I", 2) + b"".join(
    struct.pack("<HHI", tag, bits, 0xFFFFFFFF) for tag, bits in ((1, 7), (4, 7), (32, 0))
)


@pytest.fixture
def shared(tmp_path: Path) -> Iterator[Path]:
    """An empty directory whose default ACL gives the group what the maker gives itself.

    Where the tests' own file system has no ACLs it is in memory, whose file system has them.
    """
    with tempfile.TemporaryDirectory(prefix="modelreg-shared-", dir="/dev/shm") as memory:
        for place in (tmp_path, Path(memory)):
            root = place / "shared"
            root.mkdir()
            try:
                os.setxattr(root, "system.posix_acl_default", _ACL)
            except OSError as error:
                if error.errno != errno.ENOTSUP:
                    raise
                continue
            root.chmod(0o2770)
            yield root
            return
    pytest.fail(f"neither {tmp_path} nor /dev/shm has ACLs: set TMPDIR to a file system that has them")


def closed(root: Path) -> list[str]:
    """What the group couldn't write into: directories, and the files that are written in place."""
    found = []
    for path in (root, *root.rglob("*")):
        mode = path.lstat().st_mode
        written = stat.S_ISDIR(mode) or path.name.startswith("catalog.db")
        if written and not mode & stat.S_IWGRP:
            found.append(str(path.relative_to(root)))
    return found


def test_what_one_user_makes_the_group_can_use(shared, models, run):
    """Whatever the maker's umask; also after gc, and after a restore into such a directory."""
    before = os.umask(0o022)
    try:
        registry = Registry.init(shared, actor="ann")
        for version in ("1.0.0", "1.1.0", "1.2.0"):
            registry.register("m", models["a"].path, version=version, golden=False)
        registry.promote("m:1.2.0", reason="first")
        assert run("list", "--root", shared).status == 0
        assert run("query", "select 1", "--root", shared).status == 0
        registry.gc(keep=1)
        assert closed(shared) == []
        backup, _ = registry.backup(shared.parent / "b.tar")
        shared.rename(shared.with_name("lost"))
        shared.mkdir()
        os.setxattr(shared, "system.posix_acl_default", _ACL)
        shared.chmod(0o2770)
        restore(backup, shared)
        assert os.getxattr(shared, "system.posix_acl_default") == _ACL
        assert stat.S_IMODE(shared.stat().st_mode) == 0o2770
        assert closed(shared) == []
    finally:
        os.umask(before)
