"""The loop: epoll over plain descriptors and ZeroMQ sockets, timers, signals. One thread.

It sleeps only when every ZeroMQ socket that was used since was asked for its events and had none: why, and when a
descriptor can be trusted, is in `modeld.front.zsocket`.
"""

from __future__ import annotations

import heapq
import os
import select
import signal
import time
from collections import deque
from collections.abc import Callable
from itertools import count

from modeld.front.zsocket import ZSocket

Callback = Callable[[], None]

#: Messages, and nanoseconds, that one ZeroMQ socket may have before the others and the timers get their turn.
_TURN, _TURN_NS = 32, 5_000_000


class Loop:
    """Callbacks for readable descriptors, ZeroMQ sockets, times and signals. Not thread-safe."""

    def __init__(self, clock_ns: Callable[[], int] = time.monotonic_ns, *, busy_poll_us: int = 0) -> None:
        self._epoll = select.epoll()
        self._readers: dict[int, Callback] = {}
        self._sockets: list[tuple[ZSocket, Callback]] = []
        self._timers: list[tuple[int, int, Callback]] = []
        self._order = count()
        self._chores: deque[Callable[[], bool]] = deque()
        self.clock_ns = clock_ns
        self._busy_poll_ns = busy_poll_us * 1000
        self._wait = self._spin if busy_poll_us else self._epoll.poll
        self._running = False
        #: What to do about an exception that a callback let out; None: `run` ends with it.
        self.on_error: Callable[[Exception], None] | None = None
        #: Turns of the loop so far: the watchdog is fed only while this moves.
        self.turns = 0

    def add_reader(self, fd: int, callback: Callback) -> None:
        """Call `callback` whenever `fd` can be read or is at its end."""
        self._epoll.register(fd, select.EPOLLIN)
        self._readers[fd] = callback

    def remove_reader(self, fd: int) -> None:
        if self._readers.pop(fd, None) is not None:
            self._epoll.unregister(fd)

    def add_socket(self, sock: ZSocket, on_message: Callback) -> None:
        """Call `on_message` once for each message that can be read from `sock`."""
        self.add_reader(sock.fd, sock.wake)
        self._sockets.append((sock, on_message))

    def call_in(self, delay_s: float, callback: Callback) -> None:
        """Call `callback` once, `delay_s` from now."""
        heapq.heappush(self._timers, (self.clock_ns() + int(delay_s * 1e9), next(self._order), callback))

    def in_pieces(self, step: Callable[[], bool]) -> None:
        """Call `step` until it returns True, once in a turn: messages come first, and chores take turns."""
        self._chores.append(step)

    def on_signals(self, handlers: dict[signal.Signals, Callback]) -> None:
        """Run a handler in the loop, not in the interrupted code."""
        reader, writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(writer, warn_on_full_buffer=False)
        for number in handlers:
            signal.signal(number, lambda *_: None)

        def arrived() -> None:
            for number in os.read(reader, 256):
                if number in handlers:
                    handlers[signal.Signals(number)]()

        self.add_reader(reader, arrived)

    def stop(self) -> None:
        self._running = False

    def run(self) -> None:
        """Until `stop`. What a callback raises goes to `on_error`, and the loop goes on with the next turn."""
        self._running = True
        while self._running:
            try:
                self._turn()
            except Exception as e:
                if self.on_error is None:
                    raise
                self.on_error(e)

    def _turn(self) -> None:
        self.turns += 1
        for sock, on_message in self._sockets:
            if sock.active:
                turn, until = _TURN, self.clock_ns() + _TURN_NS
                while turn and sock.readable():
                    on_message()
                    turn = turn - 1 if self.clock_ns() < until else 0
        # After the messages: one of them may have set a timer or stopped the loop.
        timeout = self._sleep_s()
        for sock, _ in self._sockets:
            if sock.active:
                timeout = 0.0
        if self._chores:
            timeout = 0.0
        for fd, _ in self._wait(timeout):
            reader = self._readers.get(fd)
            if reader is not None:
                reader()
        if self._timers:
            self._run_timers()
        if self._chores:
            step = self._chores.popleft()
            if not step():
                self._chores.append(step)

    def _spin(self, timeout: float) -> list[tuple[int, int]]:
        """Poll without sleeping for a while: a core that stays awake answers sooner."""
        until = self.clock_ns() + min(self._busy_poll_ns, int(timeout * 1e9))
        while True:
            if ready := self._epoll.poll(0):
                return ready
            if self.clock_ns() >= until:
                return self._epoll.poll(timeout)

    def _sleep_s(self) -> float:
        if not self._running:
            return 0.0
        return self._until_next_timer() if self._timers else 1.0

    def _until_next_timer(self) -> float:
        return min(1.0, max(0.0, (self._timers[0][0] - self.clock_ns()) / 1e9))

    def _run_timers(self) -> None:
        now = self.clock_ns()
        while self._timers and self._timers[0][0] <= now:
            heapq.heappop(self._timers)[2]()
