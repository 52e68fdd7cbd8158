"""The journal's native protocol over a real datagram socket, and the list of events."""

from __future__ import annotations

import os
import re
import socket
import struct
from collections.abc import Iterator
from pathlib import Path

import pytest

from modeld import journal, log

SOURCES = Path(__file__).parents[1]


@pytest.fixture
def listener(tmp_path: Path) -> Iterator[tuple[socket.socket, journal.Logger]]:
    """What stands for journald, and a logger that writes to it."""
    address = str(tmp_path / "journal")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(address)
        sock.settimeout(5)
        logger = journal.Logger(address=address)
        yield sock, logger
        logger.close()


def fields(entry: bytes) -> dict[str, str]:
    """An entry read as journald reads it."""
    found = {}
    while entry:
        line, _, entry = entry.partition(b"\n")
        name, equals, value = line.partition(b"=")
        if not equals:
            (size,) = struct.unpack_from("<Q", entry)
            value, entry = entry[8 : 8 + size], entry[8 + size :]
            assert entry[:1] == b"\n"
            entry = entry[1:]
        found[name.decode()] = value.decode()
    return found


def test_an_event_becomes_fields(listener):
    """A message for people, a priority, and each field by itself; the version that serves under one name."""
    sock, logger = listener
    logger.warning(
        journal.encode("warning", "swapped", {"model": "alpha", "from": None, "to": "1.1.0", "generation": 5})
    )
    assert fields(sock.recv(65536)) == {
        "MESSAGE": "swapped model=alpha to=1.1.0 generation=5",
        "PRIORITY": "4",
        "SYSLOG_IDENTIFIER": "modeld",
        "MODELD_EVENT": "swapped",
        "MODELD_MODEL": "alpha",
        "MODELD_VERSION": "1.1.0",
        "MODELD_TO": "1.1.0",
        "MODELD_GENERATION": "5",
    }


def test_values_of_several_lines_and_odd_names_are_kept_apart(listener):
    """A trace can't forge a field, neither can a name."""
    sock, logger = listener
    logger.error(journal.encode("error", "incident", {"trace": "a\nPRIORITY=0\nb", "odd name=": {"x": [1]}}))
    found = fields(sock.recv(65536))
    assert found["PRIORITY"] == "3"
    assert found["MODELD_TRACE"] == "a\nPRIORITY=0\nb"
    assert found["MODELD_ODD_NAME_"] == '{"x": [1]}'


def test_a_journal_that_is_gone_or_full_costs_entries(listener, tmp_path):
    """The daemon neither waits for it nor fails because of it."""
    sock, logger = listener
    for _ in range(2000):
        logger.info(journal.encode("info", "ready", {"reason": "x" * 100_000}))
    assert logger.dropped > 0
    assert len(fields(sock.recv(65536))["MODELD_REASON"]) <= 8192
    nobody = journal.Logger(address=str(tmp_path / "nobody"))
    nobody.info(b"MESSAGE=1\n")
    assert nobody.dropped == 1
    nobody.close()


def test_the_journal_is_taken_only_where_stderr_leads_there(monkeypatch):
    """JOURNAL_STREAM is inherited by processes whose stderr is something else."""
    found = os.fstat(2)
    monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
    assert journal.is_stderr()
    monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino + 1}")
    assert not journal.is_stderr()
    monkeypatch.setenv("JOURNAL_STREAM", "")
    assert not journal.is_stderr()


def test_every_event_is_documented():
    """The constants of modeld.log, the names that the swap core uses, and the page's table are one list."""
    constants = {value for name, value in vars(log).items() if name.isupper() and isinstance(value, str)}
    page = (SOURCES / "docs/operations.md").read_text()
    table = page[page.index("| event | level |") : page.index("## What the daemon does by itself")]
    documented = {
        name
        for row in table.splitlines()[2:]
        for name in re.findall(r"`(\w+)`", row.split("|")[1] if "|" in row else "")
    }
    used = set()
    for path in (SOURCES / "server/modeld").rglob("*.py"):
        used |= set(re.findall(r"\.log\(\s*\"(\w+)\"", path.read_text()))
    assert constants == documented
    assert used <= constants
