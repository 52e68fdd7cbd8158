"""The zygote: started by exec, imports the machine-learning libraries once, forks a worker in milliseconds.

It never loads a model and never predicts: a fork after an OpenMP region hangs in the child. It has one thread. The
front asks over a SEQPACKET socket; each request carries the worker's end of a socketpair. End of file on that socket
means that the front is gone, and so the zygote goes.

    front -> zygote   Fork (+ 1 descriptor)
    zygote -> front   Imported · Forked (+ 1 pidfd) · NotForked · Exited
"""

from __future__ import annotations

import errno
import fcntl
import gc
import os
import selectors
import signal
import socket
import sys
from collections.abc import Callable

import msgspec

from modeld.work import prctl


class Fork(msgspec.Struct, tag=True):
    """Fork a worker; `token` comes back in the answers."""

    token: int


class Forked(msgspec.Struct, tag=True):
    token: int
    pid: int


class NotForked(msgspec.Struct, tag=True):
    """There is no such worker, and why: the system has no process or no memory left for one."""

    token: int
    why: str


class Exited(msgspec.Struct, tag=True):
    """A worker is gone: `status` as from waitpid."""

    token: int
    pid: int
    status: int


class Imported(msgspec.Struct, tag=True):
    """The libraries are imported: forks are fast from now on."""

    pid: int


#: Descriptors in a worker, once it has put them there. The zygote's own are moved out of the way at its start.
_STDERR, _CHANNEL = 3, 4

Answer = Forked | NotForked | Exited | Imported


def main() -> None:
    """Serve forks on the descriptor that the command line names, until end of file."""
    prctl.die_with_parent()  # the end of file is only seen when everything is imported
    prctl.set_slice(0)  # the front's isn't for those that compute
    control = socket.socket(fileno=fcntl.fcntl(int(sys.argv[1]), fcntl.F_DUPFD_CLOEXEC, 16))
    os.close(int(sys.argv[1]))
    # The front asks this process to stop through the socket; a terminal's Ctrl-C is the front's to handle.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    prctl.set_name("modeld-zygote")
    from modeld.work import worker
    from modelreg import loaders

    loaders.preload()
    control.send(msgspec.json.encode(Imported(os.getpid())))
    gc.collect()
    gc.freeze()
    _serve(control, worker.main)


def _serve(control: socket.socket, run_worker: Callable[[socket.socket], None]) -> None:
    reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
    selector = selectors.DefaultSelector()
    selector.register(control, selectors.EVENT_READ)
    selector.register(reader, selectors.EVENT_READ)
    tokens: dict[int, int] = {}
    while True:
        ready = {key.fd for key, _ in selector.select()}
        if reader in ready:
            os.read(reader, 4096)
            _reap(control, tokens)
        if control.fileno() in ready:
            data, fds, _, _ = socket.recv_fds(control, 65536, 1)
            if not data:
                return
            request = msgspec.json.decode(data, type=Fork)
            if fds:
                _fork(control, request, fds[0], tokens, run_worker)
            else:  # the kernel drops a descriptor that this process has no room for
                control.send(msgspec.json.encode(NotForked(request.token, os.strerror(errno.EMFILE))))


def _fork(
    control: socket.socket,
    request: Fork,
    fd: int,
    tokens: dict[int, int],
    run_worker: Callable[[socket.socket], None],
) -> None:
    try:
        pid = os.fork()
    except OSError as e:
        os.close(fd)
        control.send(msgspec.json.encode(NotForked(request.token, e.strerror or str(e))))
        return
    if pid == 0:
        code = 1
        try:
            _be_worker(fd, run_worker)
            code = 0
        except BaseException as e:  # noqa: BLE001 (nothing may escape into the zygote's loop)
            os.write(
                _STDERR, f"modeld worker {os.getpid()}: {type(e).__name__}: {e}\n".encode(errors="replace")
            )
        finally:
            os._exit(code)
    os.close(fd)
    tokens[pid] = request.token
    try:
        pidfds = [os.pidfd_open(pid)]
    except OSError:
        pidfds = []  # the front takes that for a worker that it can't keep
    socket.send_fds(control, [msgspec.json.encode(Forked(request.token, pid))], pidfds)
    for pidfd in pidfds:
        os.close(pidfd)


def _be_worker(fd: int, run_worker: Callable[[socket.socket], None]) -> None:
    """In the child: keep nothing of the zygote's open but 0, 1, 2, a way to tell of our own errors, and the channel."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.dup2(2, _STDERR)
    os.dup2(fd, _CHANNEL)
    os.closerange(_CHANNEL + 1, 4096)
    run_worker(socket.socket(fileno=_CHANNEL))


def _reap(control: socket.socket, tokens: dict[int, int]) -> None:
    while tokens:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == 0:
            return
        control.send(msgspec.json.encode(Exited(tokens.pop(pid), pid, status)))


if __name__ == "__main__":
    try:
        main()
    except (BrokenPipeError, ConnectionResetError):
        sys.exit(0)
