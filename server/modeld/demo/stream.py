"""The demo's trading engine: `python -m modeld.demo.stream`, a client in a process of its own.

A closed loop: one row, one request, one reply, then the next row, not before `--interval-us` after the last
one's start. It goes on until SIGTERM, SIGINT or the end of its standard input (its parent is gone), and then
writes what it saw. It prints one line, `streaming`, once the first reply is there.
"""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from modeld.client import Client
from modeld.client.errors import ModeldError, RequestTimeout
from modeld.demo.stream_log import ERROR, LOST, Recorder, StreamLog


def stream(
    client: Client, rows: NDArray[np.float64], stop: threading.Event, *, model: str | None, interval_us: int
) -> StreamLog:
    """Send rows `[n, f]` over and over until `stop` is set; each request that was sent has its entry."""
    recorder = Recorder()
    interval_ns = interval_us * 1000
    number = 0
    waiting_for_first = True
    while not stop.is_set():
        row = number % len(rows)
        sent_ns = time.monotonic_ns()
        try:
            prediction = client.predict(rows[row], model=model)
            replied_ns = time.monotonic_ns()
            value = float(prediction.values[0])
            recorder.reply(row, sent_ns, replied_ns, prediction.version, prediction.generation, value)
            if waiting_for_first:
                print("streaming", flush=True)
                waiting_for_first = False
        except RequestTimeout as error:
            recorder.failure(row, sent_ns, time.monotonic_ns(), LOST, str(error))
        except (ModeldError, ValueError, IndexError) as error:
            recorder.failure(row, sent_ns, time.monotonic_ns(), ERROR, f"{type(error).__name__}: {error}")
        number += 1
        left_ns = sent_ns + interval_ns - time.monotonic_ns()
        if left_ns > 0:
            time.sleep(left_ns / 1e9)
    return recorder.log()


def main(argv: list[str] | None = None) -> int:
    """Stream until told to stop, write the log; 0."""
    parser = argparse.ArgumentParser(
        prog="python -m modeld.demo.stream", description="Stream rows to modeld."
    )
    parser.add_argument("--endpoint", required=True, help="modeld's data socket")
    parser.add_argument("--rows", type=Path, required=True, help="held_out.npz")
    parser.add_argument("--log", type=Path, required=True, help="the .npz to write at the end")
    parser.add_argument("--model", default=None, help="the model's name")
    parser.add_argument(
        "--interval-us", type=int, default=1000, help="µs from one request to the next, at least"
    )
    parser.add_argument("--timeout-s", type=float, default=2.0, help="seconds until a request counts as lost")
    arguments = parser.parse_args(argv)
    with np.load(arguments.rows) as held_out:
        rows = np.ascontiguousarray(held_out["features"])
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    threading.Thread(target=_stop_at_end_of_input, args=(stop,), daemon=True).start()
    with Client(arguments.endpoint, timeout_s=arguments.timeout_s) as client:
        log = stream(client, rows, stop, model=arguments.model, interval_us=arguments.interval_us)
    log.save(arguments.log)
    return 0


def _stop_at_end_of_input(stop: threading.Event) -> None:
    while os.read(sys.stdin.fileno(), 4096):
        pass
    stop.set()


if __name__ == "__main__":
    raise SystemExit(main())
