"""Reading sealed directories: nothing but the sealed bytes gets through."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys

import pytest

from modelreg import IntegrityError, NotFoundError
from modelreg.sealed import read_sealed


@pytest.fixture
def directory(two):
    return two.version_dir("momentum", "1.0.0")


def test_what_is_read_is_what_was_sealed(directory, two, models):
    """Files, digest and metadata of a sound version."""
    sealed = read_sealed(directory, expect_digest=two.state("momentum").versions["1.0.0"].digest)
    assert sealed.files["model.txt"] == models["a"].path.read_bytes()
    assert sealed.metadata.format == "lightgbm-text"
    assert set(sealed.files) == {"model.txt", "metadata.json", "MODEL_CARD.md"}


def test_foreign_entries_are_refused(directory, tmp_path):
    """An extra file, a missing one, a symlink, a FIFO, a directory: each is named."""
    extra = directory / "extra.bin"
    extra.write_bytes(b"")
    with pytest.raises(IntegrityError, match=r"extra\.bin"):
        read_sealed(directory)
    extra.unlink()
    model = directory / "model.txt"
    aside = tmp_path / "aside"
    model.rename(aside)
    with pytest.raises(IntegrityError, match=r"model\.txt: missing"):
        read_sealed(directory)
    model.symlink_to(aside)
    with pytest.raises(IntegrityError, match="symlink"):
        read_sealed(directory)
    model.unlink()
    os.mkfifo(model)
    with pytest.raises(IntegrityError, match=r"model\.txt: not a regular file"):
        read_sealed(directory)
    model.unlink()
    with socket.socket(socket.AF_UNIX) as named, contextlib.chdir(directory):  # a socket's name is short
        named.bind(model.name)
    with pytest.raises(IntegrityError, match=r"model\.txt: not a regular file"):
        read_sealed(directory)
    model.unlink()
    model.mkdir()
    with pytest.raises(IntegrityError, match=r"model\.txt: not a regular file"):
        read_sealed(directory)


def test_sizes_digest_and_directory_are_checked(directory, tmp_path):
    """The size cap, the expected digest and the directory itself."""
    with pytest.raises(IntegrityError, match="larger than"):
        read_sealed(directory, max_bytes=1000)
    with pytest.raises(IntegrityError, match=r"checksum\.sha256: its digest"):
        read_sealed(directory, expect_digest="sha256:" + "0" * 64)
    with pytest.raises(NotFoundError):
        read_sealed(tmp_path / "absent")
    link = tmp_path / "link"
    link.symlink_to(directory)
    with pytest.raises(IntegrityError, match="symlink"):
        read_sealed(link)


@pytest.mark.parametrize(
    "line", ["", "0" * 64 + "  ../x", "0" * 63 + "  x", "0" * 64 + "  a\\b", "0" * 64 + "  checksum.sha256"]
)
def test_malformed_checksum_lines(directory, line):
    """A checksum file that isn't one of ours is refused as a whole."""
    file = directory / "checksum.sha256"
    file.chmod(0o644)
    file.write_text(file.read_text() + line + "\n")
    with pytest.raises(IntegrityError, match=r"checksum\.sha256: the line"):
        read_sealed(directory)


def test_reading_imports_no_model_library():
    """modelreg.sealed can be used where numpy and lightgbm must not be."""
    code = "import sys, modelreg.sealed; sys.exit(bool({'numpy', 'lightgbm'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], timeout=30, check=False).returncode == 0
