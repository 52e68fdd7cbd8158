"""The zygote where the system has no process left for a worker: it says so and lives on."""

from __future__ import annotations

import errno
import os
import socket

import msgspec

from modeld.work import zygote


def test_a_fork_that_fails_is_answered(monkeypatch):
    """The worker's channel comes to its end, and the answer says why."""

    def fork() -> int:
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr(os, "fork", fork)
    front, control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with front, control, channel:
        zygote._fork(control, zygote.Fork(7), theirs.detach(), {}, lambda _: None)
        answer = msgspec.json.decode(front.recv(4096), type=zygote.Answer)
        assert answer == zygote.NotForked(7, os.strerror(errno.ENOMEM))
        assert channel.recv(1) == b""
