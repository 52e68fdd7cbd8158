"""The peers' side: the HTTP load generator, the naive loop, REP servers, and the table."""

from __future__ import annotations

import json
import pickle
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import numpy as np
import pytest
from tests.bench import http_load, peers

from modeld.bench.errors import BenchError
from modeld.bench.figures import Summary
from modeld.bench.lines import Helper
from modeld.bench.load import Job, write_messages
from modeld.bench.measure import Loader
from modeld.bench.model import train
from modeld.bench.target import exchange
from modeld.demo.processes import runtime_directory

REQUEST = b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n{}"


class Handler(BaseHTTPRequestHandler):
    """Answers 200 to /predict and 404 to anything else, and keeps the connection."""

    protocol_version = "HTTP/1.1"

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(200 if self.path == "/predict" else 404)
        self.send_header("Content-Length", "4")
        self.end_headers()
        self.wfile.write(b"true")

    def log_message(self, *_: object) -> None:
        """Quiet."""


@contextmanager
def http_server() -> Iterator[str]:
    """A server of one connection after another; its address."""
    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}"
        finally:
            server.shutdown()
            thread.join()


def test_http_replies_are_measured_like_others(tmp_path: Path) -> None:
    """The sibling does the same jobs, and a refusal is an error."""
    write_messages(tmp_path / "good", [[REQUEST]])
    write_messages(tmp_path / "bad", [[REQUEST.replace(b"/predict", b"/nothing")]])
    with (
        http_server() as endpoint,
        Helper("HTTP load generator", [sys.executable, "-m", "tests.bench.http_load"]) as helper,
    ):
        loader = Loader(helper, tmp_path)
        jobs = [
            Job(
                endpoint=endpoint,
                messages=str(tmp_path / name),
                log="",
                error_mark="",
                seconds=0.05,
                warmup_s=0.01,
            )
            for name in ("good", "bad")
        ]
        good, bad = (loader.run(job) for job in jobs)
    assert (len(good.latency_ns) > 0, good.errors) == (True, 0)
    assert bad.errors == len(bad.latency_ns) > 0


def test_an_http_refusal_is_told() -> None:
    """Before anything is measured, the answers are looked at."""
    with http_server() as endpoint:
        assert http_load.exchange(endpoint, [REQUEST, REQUEST]) == [b"true", b"true"]
        with pytest.raises(BenchError, match="404"):
            http_load.exchange(endpoint, [REQUEST.replace(b"/predict", b"/nothing")])


@pytest.mark.parametrize("encoding", ["pickle", "JSON"])
def test_the_naive_loop_predicts_what_the_booster_does_for_several_clients(
    tmp_path: Path, encoding: str
) -> None:
    """Bit-equal in both encodings; and a REP socket serves several clients of the load generator."""
    booster = train(3, 7, 5)
    booster.save_model(tmp_path / "model.txt")
    row = np.linspace(-1, 1, 5).reshape(1, -1)
    if encoding == "pickle":
        request, decode = pickle.dumps({"id": 1, "features": row}), pickle.loads
    else:
        request, decode = json.dumps({"id": 1, "features": row.tolist()}).encode(), json.loads
    write_messages(tmp_path / "requests", [[request]])
    with runtime_directory(longest="naive.sock") as directory:
        endpoint = f"ipc://{directory}/naive.sock"
        command = [sys.executable, str(Path(peers.__file__).with_name("naive.py")), endpoint]
        with (
            Helper("naive loop", [*command, str(tmp_path / "model.txt"), encoding]) as naive,
            Helper("load generator", [sys.executable, "-m", "modeld.bench.load"]) as generator,
        ):
            naive.hear()
            ((reply,),) = exchange(endpoint, [[request]])
            assert decode(reply)["predictions"] == booster.predict(row, num_threads=1).tolist()
            job = Job(
                endpoint=endpoint,
                messages=str(tmp_path / "requests"),
                log="",
                error_mark='"code":',
                clients=3,
                seconds=0.05,
                for_rep=True,
            )
            sample = Loader(generator, tmp_path).run(job)
    assert (len(sample.latency_ns) > 0, sample.errors) == (True, 0)


def test_the_table_has_ratios_to_the_echo_of_the_same_rounds() -> None:
    """Paired by round; a figure that isn't known is a dash."""

    def summary(p50: float, p99: float | None, per_second: float) -> Summary:
        return Summary(9, per_second, {"p50": p50, "p90": None, "p99": p99, "p99.9": None}, p50)

    echo = peers.Row([summary(100, 200, 1), summary(10, 20, 1)], [summary(1, 1, 1000)] * 2, 20.4)
    ours = peers.Row([summary(200, None, 1), summary(20, 40, 1)], [summary(1, 1, 250)] * 2, 100)
    lines = peers.table({peers.ECHO: echo, "ours": ours}).splitlines()
    assert lines[2].endswith("| 55 | 110 | 1.00 | 1.00 | 1,000 | 1.00 | 20 |")
    assert lines[3] == "| ours | 110 | – | 2.00 | – | 250 | 0.25 | 100 |"
