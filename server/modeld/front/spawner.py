"""The front's side of the zygote: ask for workers, learn how they ended, make a new zygote when one is gone.

A fork is asked for and not waited for: the worker's channel exists before the worker does, and what is sent on it
waits there.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable

import msgspec

from modeld import log
from modeld.front.loop import Loop
from modeld.work import ipc, zygote

#: Seconds between a zygote's death and the next one, so that one that can't start doesn't spin; where there is no
#: process or no descriptor for the next one, twice as long each time, up to the second.
_RESPAWN_S, _RESPAWN_MAX_S = 0.25, 5.0
#: A zygote that has imported the libraries forks within this time; one that has not yet, within that. Seconds.
_FORK_S, _IMPORT_S = 3.0, 60.0


class Worker:
    """One worker as the front sees it: its channel, its pid, and how it ended.

    `on_packet` and `on_end` are called from the loop; `on_end` exactly once, after the last packet, with a
    sentence that says how the process ended.
    """

    def __init__(self, spawner: Spawner, sock: socket.socket, token: int) -> None:
        self.sock = sock
        self.token = token
        #: 0 until the zygote has forked it.
        self.pid = 0
        self.pidfd = -1
        #: Its zygote is gone, and it is a child of ours.
        self.adopted = False
        self.asked_ns = spawner.loop.clock_ns()
        self.on_packet: Callable[[bytes], None] = lambda _: None
        self.on_end: Callable[[str], None] = lambda _: None
        self.ended: str | None = None
        #: Whether a packet may bring a descriptor. `fds` has those of the packet at hand; they are closed after it.
        self.takes_fds = True
        self.fds: list[int] = []
        self._spawner = spawner
        self._open = True

    def send(self, packet: bytes, fd: int = -1) -> None:
        """Send it a packet, and `fd` with it, which is closed; one that is gone shows by its end of file."""
        with contextlib.suppress(OSError):
            socket.send_fds(self.sock, [packet], [fd] if fd >= 0 else [])
        if fd >= 0:
            os.close(fd)

    def close(self, *, kill: bool = False) -> None:
        """Let the worker go: it exits at end of file, with `kill` at once. `on_end` isn't called."""
        self._forget()
        if kill:
            self.kill()
        self._shut()

    def kill(self) -> None:
        """End the process now; `on_end` follows as for any death."""
        if self.pidfd >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
        elif self.ended is None:
            self._spawner.kill_when_forked.add(self.token)

    def _shut(self) -> None:
        if self._open:
            self._open = False
            self._spawner.loop.remove_reader(self.sock.fileno())
            self.sock.close()

    def _readable(self) -> None:
        try:
            if self.takes_fds:
                packet, self.fds, _, _ = socket.recv_fds(
                    self.sock, ipc.MAX_PACKET, 1, socket.MSG_CMSG_CLOEXEC
                )
            else:
                packet = self.sock.recv(ipc.MAX_PACKET)
        except BlockingIOError:
            return
        except OSError:
            packet = b""
        if packet:
            try:
                self.on_packet(packet)
            finally:
                while self.fds:
                    os.close(self.fds.pop())
            return
        self._shut()
        if self.ended is not None:
            self._end(self.ended)
        else:
            # The zygote's word on how it ended is on its way; without a zygote there is none.
            self._spawner.loop.call_in(0.2, lambda: self._end(self.ended or "the worker died"))

    def _end(self, how: str) -> None:
        self._shut()
        callback = self.on_end
        self._forget()
        callback(how)

    def _forget(self) -> None:
        """Let go of the version that it served."""
        self.on_packet = lambda _: None
        self.on_end = lambda _: None

    def finished(self, how: str) -> None:
        """The process is no more, or never was."""
        self.ended = how
        if self.pidfd >= 0:
            os.close(self.pidfd)
            self.pidfd = -1
        if not self._open:
            self._end(self.ended)


def describe_exit(status: int) -> str:
    """A waitpid status in words: 'the worker was killed by SIGABRT'."""
    if os.WIFSIGNALED(status):
        number = os.WTERMSIG(status)
        known = number in signal.Signals.__members__.values()
        return f"the worker was killed by {signal.Signals(number).name if known else f'signal {number}'}"
    return f"the worker exited with status {os.waitstatus_to_exitcode(status)}"


class Spawner:
    """Makes workers through a zygote. Owned by the loop."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.kill_when_forked: set[int] = set()
        self.zygote_pid = 0
        self.zygote_restarts = 0
        self._workers: dict[int, Worker] = {}
        self._token = 0
        self._closing = False
        self._log = log.get()
        #: None where there is no zygote now.
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None
        self._imported = False
        self._respawn_s = _RESPAWN_S
        self._start_zygote()

    def spawn(self) -> Worker:
        """A new worker; its first packet must be a TRIAL.

        Raises:
            OSError: there is no descriptor left for it, or no zygote now; another one is on its way.
        """
        if self._control is None:
            raise OSError(errno.EAGAIN, "the zygote is being started again")
        self._token += 1
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setblocking(False)
        worker = Worker(self, ours, self._token)
        request = msgspec.json.encode(zygote.Fork(self._token))
        with theirs:
            try:
                self.loop.add_reader(ours.fileno(), worker._readable)
                socket.send_fds(self._control, [request], [theirs.fileno()])
            except OSError:
                worker.close()
                raise
        self._workers[self._token] = worker
        return worker

    def sweep(self) -> None:
        """Kill a zygote that doesn't fork what it is asked for: another takes its place."""
        limit_ns = int((_FORK_S if self._imported else _IMPORT_S) * 1e9)
        now = self.loop.clock_ns()
        if any(not worker.pid and now - worker.asked_ns > limit_ns for worker in self._workers.values()):
            self._log.warning(log.ZYGOTE_DIED, pid=self.zygote_pid, why="it doesn't fork")
            if self._process is not None:
                self._process.kill()

    def reap_orphans(self, watcher_pid: int) -> None:
        """Let go of ended processes that became ours (child_subreaper) and that nobody here waits for."""
        ours = {watcher_pid, self.zygote_pid} | {worker.pid for worker in self._workers.values()}
        with contextlib.suppress(ChildProcessError):  # there are no children at all
            while ended := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                if ended.si_pid in ours:
                    return  # its own status is read elsewhere, soon; the rest comes after it
                os.waitpid(ended.si_pid, 0)

    def close(self) -> None:
        """End the zygote and every worker that is left."""
        self._closing = True
        for worker in self._workers.values():
            worker.kill()
        self._hang_up()
        if self._process is None:
            return
        try:
            self._process.wait(2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _start_zygote(self) -> None:
        """Start one, now or, where the system has no process or no descriptor left for it, as soon as it has."""
        try:
            self._try_zygote()
        except OSError as e:
            self._hang_up()
            self._log.error(
                log.ZYGOTE_DIED, why=f"no other one can be started: {e}", again_in_s=self._respawn_s
            )
            self.loop.call_in(self._respawn_s, self._restart_zygote)
            self._respawn_s = min(2 * self._respawn_s, _RESPAWN_MAX_S)
        else:
            self._respawn_s = _RESPAWN_S

    def _try_zygote(self) -> None:
        self._imported = False
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        environment = {
            k: v for k, v in os.environ.items() if k not in ("NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID")
        }
        environment |= {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        with theirs:
            self._control.setblocking(False)
            self.loop.add_reader(self._control.fileno(), self._from_zygote)
            self._process = subprocess.Popen(
                [sys.executable, "-P", "-m", "modeld.work.zygote", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=2,
            )
        self.zygote_pid = self._process.pid

    def _hang_up(self) -> None:
        """There is no zygote to ask from now on."""
        control, self._control = self._control, None
        if control is not None:
            self.loop.remove_reader(control.fileno())
            control.close()

    def _from_zygote(self) -> None:
        assert self._control is not None
        try:
            data, fds, _, _ = socket.recv_fds(self._control, 65536, 1)
        except BlockingIOError:
            return
        except OSError:
            data, fds = b"", []
        if not data:
            self._zygote_died()
            return
        answer = msgspec.json.decode(data, type=zygote.Answer)
        if isinstance(answer, zygote.Imported):
            self._imported = True
            now = self.loop.clock_ns()
            for waiting in self._workers.values():
                waiting.asked_ns = now
            return
        worker = self._workers.get(answer.token)
        if isinstance(answer, zygote.Forked):
            if worker is None:
                for fd in fds:
                    os.close(fd)
                return
            if not fds:
                # The kernel drops a descriptor that this process has no room for: no end of that worker could be told.
                self._log.error(log.INCIDENT, worker=answer.pid, what="no descriptor left for a worker")
                worker.pid = answer.pid
                with contextlib.suppress(ProcessLookupError):
                    os.kill(answer.pid, signal.SIGKILL)
                return
            worker.pid, worker.pidfd = answer.pid, fds[0]
            if answer.token in self.kill_when_forked:
                self.kill_when_forked.discard(answer.token)
                worker.kill()
        elif worker is not None:
            del self._workers[answer.token]
            if isinstance(answer, zygote.NotForked):
                self.kill_when_forked.discard(answer.token)
                worker.finished(f"the worker couldn't be forked ({answer.why})")
            else:
                worker.finished(describe_exit(answer.status))

    def _zygote_died(self) -> None:
        """Workers live on; the next fork needs a new zygote."""
        assert self._process is not None
        self._hang_up()
        status = self._process.wait()
        if self._closing:
            return
        self.zygote_restarts += 1
        for worker in list(self._workers.values()):
            if worker.adopted:
                continue  # it has outlived another zygote before
            if worker.pidfd >= 0:
                self._adopt(worker)
            else:
                del self._workers[worker.token]  # never forked: its channel is at its end
        self._log.warning(log.ZYGOTE_DIED, pid=self.zygote_pid, status=status)
        self.loop.call_in(_RESPAWN_S, self._restart_zygote)

    def _adopt(self, worker: Worker) -> None:
        """A worker without a zygote is our child now (child_subreaper): learn of its end by its pidfd."""

        def ended() -> None:
            self.loop.remove_reader(worker.pidfd)
            try:
                how = describe_exit(os.waitpid(worker.pid, 0)[1])
            except ChildProcessError:
                how = "the worker died"  # its zygote saw how, and couldn't tell any more
            self._workers.pop(worker.token, None)
            worker.finished(how)

        worker.adopted = True
        self.loop.add_reader(worker.pidfd, ended)

    def _restart_zygote(self) -> None:
        if self._closing:
            return
        self._start_zygote()
        if self._control is not None:
            self._log.info(log.ZYGOTE_STARTED, pid=self.zygote_pid)
