"""What is measured: one case for each combination of loop, clients, rows, transport and encoding."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, get_args

Loop = Literal["closed", "open"]
Transport = Literal["ipc", "tcp"]
Wire = Literal["raw", "msgpack", "json"]

LOOPS: tuple[Loop, ...] = get_args(Loop)
TRANSPORTS: tuple[Transport, ...] = get_args(Transport)
WIRES: tuple[Wire, ...] = get_args(Wire)
CLIENTS = (1, 8, 64)
ROWS = (1, 16, 256, 4096)

#: Bytes of rows that all clients of a case may have under way. The daemon's own bound is 64 MiB
#: (`limits.queue_bytes`): past it a case would measure how fast it says BUSY.
MAX_BYTES_UNDER_WAY = 48 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Case:
    """One combination.

    Attributes:
        loop: closed: each client sends its next request when it has the reply; open: at a fixed rate.
        clients: connections; in a closed loop as many requests are under way.
        rows: rows in a request.
        encoding: raw: a MessagePack header, and the rows as a frame of float64, both ways.
    """

    loop: Loop = "closed"
    clients: int = 1
    rows: int = 1
    transport: Transport = "ipc"
    encoding: Wire = "raw"

    @property
    def pinned(self) -> bool:
        """Whether client and server get a core each. Several clients are left to the scheduler."""
        return self.clients == 1

    @property
    def label(self) -> str:
        """Short and unique."""
        rows = "1 row" if self.rows == 1 else f"{self.rows:,} rows"
        clients = "1 client" if self.clients == 1 else f"{self.clients} clients"
        return f"{self.loop} {self.transport} {self.encoding} · {rows} · {clients}"


#: What a run without options measures beside the extras: the rows that the targets speak of.
DEFAULT = (
    Case(),
    Case(loop="open"),
    Case(rows=4096),
    Case(clients=8),
)


def grid(
    loops: Iterable[Loop] = LOOPS,
    clients: Iterable[int] = CLIENTS,
    rows: Iterable[int] = ROWS,
    transports: Iterable[Transport] = TRANSPORTS,
    encodings: Iterable[Wire] = WIRES,
) -> tuple[Case, ...]:
    """Every combination, pinned cases first: the daemon is started once for each placement."""
    every = [Case(*one) for one in itertools.product(loops, clients, rows, transports, encodings)]
    return tuple(sorted(every, key=lambda case: not case.pinned))


def fits(case: Case, features: int) -> bool:
    """Whether the daemon's queue can hold what the clients have under way."""
    return case.clients * case.rows * features * 8 <= MAX_BYTES_UNDER_WAY
