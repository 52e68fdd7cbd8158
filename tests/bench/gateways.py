"""What HTTP costs, in one run: `modeld http`, FastAPI by hand and MLServer with the same model, one row, one client.

    python tests/bench/gateways.py [--rounds N] [--seconds S] [--mlserver PYTHON] [--tuned-mlserver PYTHON]
        [--without-fastapi]

Prints markdown. FastAPI lives in tests/bench/.venv, which is made at the first run; MLServer in environments of yours
(`pip install mlserver mlserver-lightgbm`, and httptools in the second), whose interpreters are PYTHON. Rounds are
interleaved, the client has the first core and the servers the last. Every server's answers are checked against
`Booster.predict` first.

MLServer speaks JSON alone over HTTP (SeldonIO/MLServer#324) and runs without worker processes or an access log: as it
is installed, and, from an environment that has httptools too, also without gzip and metrics: as fast as it gets.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parents[1]))

from tests.bench import http_load  # noqa: E402
from tests.bench.peers import peers_python  # noqa: E402

from modeld.bench.errors import BenchError  # noqa: E402
from modeld.bench.lines import pinned  # noqa: E402
from modeld.bench.measure import placement  # noqa: E402
from modeld.bench.run import machine  # noqa: E402
from modeld.bench.stack import ADMIN_SOCKET, MODEL, Stack  # noqa: E402
from modeld.demo.processes import child, runtime_directory, script  # noqa: E402

#: Requests that are sent in turn, and seconds until a server has to answer.
ROWS, READY_S = 64, 60.0


def request(path: str, body: bytes, header_length: int | None = None) -> bytes:
    """A whole HTTP request."""
    more = "" if header_length is None else f"Inference-Header-Content-Length: {header_length}\r\n"
    kind = "application/json" if header_length is None else "application/octet-stream"
    head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\n{more}Content-Type: {kind}\r\nContent-Length: {len(body)}\r\n"
    return f"{head}\r\n".encode() + body


def oip_json(path: str, row: np.ndarray) -> bytes:
    tensor = {"name": "features", "shape": [1, row.size], "datatype": "FP64", "data": row.tolist()}
    return request(path, json.dumps({"inputs": [tensor]}).encode())


def oip_binary(path: str, row: np.ndarray) -> bytes:
    tensor = {"name": "features", "shape": [1, row.size], "datatype": "FP64"}
    header = {
        "inputs": [tensor | {"parameters": {"binary_data_size": row.nbytes}}],
        "parameters": {"binary_data_output": True},
    }
    text = json.dumps(header).encode()
    return request(path, text + row.tobytes(), len(text))


def by_hand(_path: str, row: np.ndarray) -> bytes:
    return request("/predict", json.dumps({"id": 1, "features": [row.tolist()]}).encode())


def oip_value(body: bytes) -> float:
    return float(json.loads(body)["outputs"][0]["data"][0])


def last_double(body: bytes) -> float:
    return float(np.frombuffer(body[-8:])[0])


def hand_value(body: bytes) -> float:
    return float(json.loads(body)["predictions"][0])


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def server(
    name: str, command: list[str], port: int, directory: Path, cpus: list[int] | None
) -> Iterator[str]:
    """A server on its core; its endpoint, once it listens."""
    with pinned(cpus):
        starting = child(name, command, directory / f"{name}.log")
        starting.__enter__()
    try:
        deadline = time.monotonic() + READY_S
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), timeout=1).close()
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise BenchError(
                        f"{name} doesn't listen: {(directory / f'{name}.log').read_text()[-2000:]}"
                    ) from None
                time.sleep(0.05)
        yield f"http://127.0.0.1:{port}"
    finally:
        starting.__exit__(None, None, None)


def mlserver(directory: Path, model: Path, port: int, tuned: bool) -> None:
    """MLServer's settings: one process."""
    settings: dict[str, object] = {"host": "127.0.0.1", "http_port": port, "grpc_port": free_port()}
    settings |= {"metrics_port": free_port(), "parallel_workers": 0, "debug": False}
    if tuned:
        settings |= {"metrics_endpoint": None, "gzip_enabled": False}
    directory.mkdir()
    (directory / "settings.json").write_text(json.dumps(settings))
    found = {
        "name": MODEL,
        "implementation": "mlserver_lightgbm.LightGBMModel",
        "parameters": {"uri": str(model)},
    }
    (directory / "model-settings.json").write_text(json.dumps(found))


def measure(directory: Path, rounds: int, seconds: float, peers: dict[str, Path], fastapi: bool) -> str:
    """Start every server, check it, measure in turn; a table."""
    stack = Stack(directory)
    stack.prepare(None, ROWS)
    rows, expected = np.load(stack.rows_file), np.load(stack.rows_file.with_name("expected.npy"))
    where = placement(os.sched_getaffinity(0))
    path = f"/v2/models/{MODEL}/infer"
    with ExitStack() as exits:
        exits.enter_context(stack.daemon(where.server))

        def start(name: str, command: list[str], port: int) -> str:
            return exits.enter_context(server(name, command, port, directory, where.server))

        port = free_port()
        ours = start(
            "gateway",
            [script("modeld"), "--config", str(directory / "modeld.yaml"), "http", "--port", str(port)],
            port,
        )
        subjects: dict[str, tuple[str, Callable[[str, np.ndarray], bytes], Callable[[bytes], float]]] = {
            "modeld http (binary)": (ours, oip_binary, last_double),
            "modeld http (JSON)": (ours, oip_json, oip_value),
        }
        if fastapi:
            port = free_port()
            command = [str(peers_python()), str(HERE / "http_peer.py"), str(port), str(stack.model_file)]
            subjects["FastAPI by hand (JSON)"] = (start("fastapi", command, port), by_hand, hand_value)
        for name, peer in peers.items():
            port = free_port()
            mlserver(directory / name, stack.model_file, port, tuned="tuned" in name)
            command = [str(peer.with_name("mlserver")), "start", str(directory / name)]
            subjects[f"{name} (JSON)"] = (start(name, command, port), oip_json, oip_value)
            time.sleep(5)  # it listens before its model is there
        ready = {}
        for name, (endpoint, make, read) in subjects.items():
            requests = [make(path, row) for row in rows]
            answers = [read(body) for body in http_load.exchange(endpoint, requests)]
            if answers != expected.ravel().tolist():
                raise BenchError(
                    f"{name} doesn't predict what Booster.predict does: {answers[:2]}, {expected[:2]}"
                )
            ready[name] = (endpoint, requests)
        if where.client is not None:
            os.sched_setaffinity(0, where.client)
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in ready}
        for _ in range(rounds):
            for name, (endpoint, requests) in ready.items():
                taken[name].append(turn(endpoint, requests, seconds))
    return (
        table(taken)
        + f"\n\n{stack.description}, one row, one client; {machine()}; {rounds} rounds of {seconds:g} s"
    )


def turn(endpoint: str, requests: list[bytes], seconds: float) -> tuple[float, float]:
    """p50 and p99 of one round, µs."""
    at = endpoint.rpartition(":")[2]
    connection = http_load.Connection("127.0.0.1", int(at))
    try:
        http_load.closed_loop([connection], requests, seconds / 4)
        started, replied, errors = http_load.closed_loop([connection], requests, seconds)
    finally:
        connection.socket.close()
    if errors:
        raise BenchError(f"{endpoint}: {errors} error replies")
    latency = (np.frombuffer(replied, np.int64) - np.frombuffer(started, np.int64)) / 1000
    p50, p99 = np.percentile(latency, [50, 99])
    return float(p50), float(p99)


def table(taken: dict[str, list[tuple[float, float]]]) -> str:
    """Medians of the rounds; the ratio is of medians too."""
    medians = {name: np.median(found, axis=0) for name, found in taken.items()}
    ours = medians["modeld http (binary)"][0]
    lines = ["| server | p50 µs | p99 µs | p50 ÷ ours |", "|---|--:|--:|--:|"]
    lines += [
        f"| {name} | {p50:,.0f} | {p99:,.0f} | {p50 / ours:.2f} |" for name, (p50, p99) in medians.items()
    ]
    return "\n".join(lines)


def main() -> int:
    """Measure and print; 1 when something failed."""
    parser = argparse.ArgumentParser(description="What HTTP costs: one table in one run.")
    parser.add_argument(
        "--rounds", type=int, default=5, help="how often each server has its turn (%(default)s)"
    )
    parser.add_argument("--seconds", type=float, default=1.0, help="length of a turn (%(default)s)")
    parser.add_argument(
        "--mlserver", type=Path, metavar="PYTHON", help="an environment with mlserver-lightgbm"
    )
    parser.add_argument(
        "--tuned-mlserver", type=Path, metavar="PYTHON", help="one with mlserver-lightgbm and httptools"
    )
    parser.add_argument("--without-fastapi", action="store_true", help="nothing is installed")
    given = parser.parse_args()
    os.chdir(HERE.parents[1])
    try:
        with runtime_directory(longest=f"run/{ADMIN_SOCKET}") as directory:
            peers = {"MLServer": given.mlserver, "MLServer, tuned": given.tuned_mlserver}
            found = {name: python for name, python in peers.items() if python is not None}
            print(measure(directory, given.rounds, given.seconds, found, not given.without_fastapi))
    except (BenchError, subprocess.CalledProcessError) as error:
        print(f"the benchmark couldn't go on: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
