"""The options of `modeld bench`, as a dataclass and as a command line."""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

from modeld.bench.cases import (
    CLIENTS,
    DEFAULT,
    LOOPS,
    ROWS,
    TRANSPORTS,
    WIRES,
    Case,
    Loop,
    Transport,
    Wire,
    grid,
)

#: Rounds of a default run, and seconds that a subject has in each.
ROUNDS, SECONDS = 5, 1.0


@dataclass(frozen=True, slots=True)
class BenchOptions:
    """What to measure, and how to show it.

    Attributes:
        endpoint: a running daemon's data endpoint; None: train, register and start one.
        model_name: which model to ask, where the daemon serves several.
        model: a LightGBM text model to serve instead of the reference model; ignored with `endpoint`.
        settings: `key=value` for the started daemon, as `modeld --set` takes them; ignored with `endpoint`.
        loops, clients, rows, transports, encodings: every combination is measured. All None: the default
            cases and the extras; some None: those dimensions stay at closed, 1, 1, ipc, raw.
        full: every combination there is.
        rate: open loop: requests per second; None: half of what a closed loop with as many clients made.
        rounds: how often each subject has its turn.
        seconds: how long a turn lasts.
        json: print one JSON document on stdout instead of tables.
        picture: where to write histograms as PNG.
    """

    endpoint: str | None = None
    model_name: str | None = None
    model: Path | None = None
    settings: tuple[str, ...] = ()
    loops: tuple[Loop, ...] | None = None
    clients: tuple[int, ...] | None = None
    rows: tuple[int, ...] | None = None
    transports: tuple[Transport, ...] | None = None
    encodings: tuple[Wire, ...] | None = None
    full: bool = False
    rate: float | None = None
    rounds: int = ROUNDS
    seconds: float = SECONDS
    json: bool = False
    picture: Path | None = None

    def __post_init__(self) -> None:
        """Raises ValueError for what can't be measured."""
        if self.rounds < 1:
            raise ValueError(f"--rounds {self.rounds}: at least 1")
        if self.seconds <= 0:
            raise ValueError(f"--seconds {self.seconds}: more than 0")
        if self.rate is not None and self.rate <= 0:
            raise ValueError(f"--rate {self.rate}: more than 0")
        for name, values in (("clients", self.clients), ("rows", self.rows)):
            for value in values or ():
                if value < 1:
                    raise ValueError(f"--{name} {value}: at least 1")
        if self.endpoint is not None and not self.endpoint.startswith(("ipc://", "tcp://")):
            raise ValueError(f"--endpoint {self.endpoint}: ipc://… or tcp://…")

    @property
    def selected(self) -> bool:
        """Whether certain cases were asked for, rather than the default run."""
        chosen = (self.loops, self.clients, self.rows, self.transports, self.encodings)
        return self.full or any(one is not None for one in chosen)

    def cases(self) -> tuple[Case, ...]:
        """The cases to measure; with `endpoint`, only over that endpoint's transport."""
        one = Case()
        transports = self.transports
        if self.endpoint is not None:
            transports = tuple(name for name in TRANSPORTS if self.endpoint.startswith(f"{name}://"))
        if not self.selected:
            return tuple(
                case if transports is None else replace(case, transport=transports[0]) for case in DEFAULT
            )
        if self.full:
            return grid(
                self.loops or LOOPS,
                self.clients or CLIENTS,
                self.rows or ROWS,
                transports or TRANSPORTS,
                self.encodings or WIRES,
            )
        return grid(
            self.loops or (one.loop,),
            self.clients or (one.clients,),
            self.rows or (one.rows,),
            transports or (one.transport,),
            self.encodings or (one.encoding,),
        )


def parse(argv: list[str] | None = None) -> BenchOptions:
    """The options of a command line; exits with status 2 for a mistake in it."""
    parser = argparse.ArgumentParser(
        prog="modeld bench",
        description="Measure latency and throughput, beside a bare ZeroMQ echo of the same bytes.",
    )
    add = parser.add_argument
    add("--endpoint", help="measure this running daemon instead of starting one")
    add("--model-name", metavar="NAME", help="the model to ask, where the daemon serves several")
    add(
        "--model",
        type=Path,
        metavar="FILE",
        help="serve this LightGBM text model instead of the reference model",
    )
    add(
        "--set",
        dest="settings",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="a setting of the started daemon; repeatable",
    )
    add(
        "--loop",
        dest="loops",
        nargs="+",
        choices=LOOPS,
        help="closed: next request after the reply; open: fixed rate",
    )
    add("--clients", nargs="+", type=int, metavar="N", help="numbers of connections")
    add("--rows", nargs="+", type=int, metavar="N", help="rows in a request")
    add("--transport", dest="transports", nargs="+", choices=TRANSPORTS, help="how clients connect")
    add(
        "--encoding",
        dest="encodings",
        nargs="+",
        choices=WIRES,
        help="raw: MessagePack and a float64 frame, both ways",
    )
    add("--full", action="store_true", help="every combination: tens of minutes")
    add("--rate", type=float, metavar="R", help="open loop: requests per second (half of the closed loop's)")
    add(
        "--rounds",
        type=int,
        default=ROUNDS,
        metavar="N",
        help="how often each subject has its turn (%(default)s)",
    )
    add("--seconds", type=float, default=SECONDS, metavar="S", help="length of a turn (%(default)s)")
    add("--json", action="store_true", help="one JSON document on stdout")
    add("--picture", type=Path, metavar="FILE", help="write histograms as PNG (needs the extra `plots`)")
    given = vars(parser.parse_args(argv))
    for name in ("settings", "loops", "clients", "rows", "transports", "encodings"):
        if given[name] is not None:
            given[name] = tuple(given[name])
    try:
        return BenchOptions(**given)
    except ValueError as error:
        parser.error(str(error))
