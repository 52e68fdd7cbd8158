"""The decoder's own loop, without the process around it."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from threading import Thread
from typing import Any

import msgspec
import pytest

from modeld.work import decoder, ipc, prctl


@pytest.fixture
def front(monkeypatch: pytest.MonkeyPatch) -> Iterator[socket.socket]:
    """The other end of its channel. It runs in a thread, and isn't confined."""
    monkeypatch.setattr(decoder, "confine", lambda *_, **__: None)
    monkeypatch.setattr(prctl, "set_slice", lambda _: None)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    thread = Thread(target=decoder.main, args=(theirs, 512))
    thread.start()
    with theirs, ours:
        ours.settimeout(20)
        yield ours
        ours.shutdown(socket.SHUT_RDWR)
        thread.join(20)
        assert not thread.is_alive()


def read(front: socket.socket, *frames: bytes) -> tuple[int, Any]:
    """Ask for a header: the kind of the answer and what it says."""
    fd = os.memfd_create("message", os.MFD_CLOEXEC)
    os.write(fd, b"".join(frames))
    sizes = b"".join(len(frame).to_bytes(8, "little") for frame in frames)
    socket.send_fds(front, [ipc.head(ipc.READ) + sizes], [fd])
    os.close(fd)
    answer = front.recv(ipc.MAX_PACKET)
    return answer[0], msgspec.json.decode(answer[ipc.HEAD.size :])


def test_a_message_that_there_is_no_memory_for_is_refused(
    front: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It takes no decoder with it: TOO_LARGE, and the next one is read."""

    def pread(*_: int) -> bytes:
        raise MemoryError

    with monkeypatch.context() as patched:
        patched.setattr(os, "pread", pread)
        kind, said = read(front, b'{"id": 1}')
    assert (kind, said["code"]) == (ipc.REFUSED, "TOO_LARGE")
    kind, said = read(front, b'{"id": 2}', b"raw")
    assert (kind, said["id"]) == (ipc.HEADING, 2)
