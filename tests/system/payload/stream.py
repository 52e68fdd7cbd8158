"""Asks two daemons, by the client's failover alone, until SIGTERM; fails if a request is lost or an answer is wrong."""

import signal
import time
from pathlib import Path

from modeld.client import Client

stopping = False


def stop(*_: object) -> None:
    global stopping
    stopping = True


signal.signal(signal.SIGTERM, stop)
endpoints = [f"ipc:///run/{name}/data/predict.sock" for name in ("modeld", "modeld-b")]
answers: set[float] = set()
requests, slowest_s = 0, 0.0
with Client(endpoints, timeout_s=10, try_timeout_s=1) as client:
    while not stopping:
        began = time.monotonic()
        answers.add(float(client.predict([0.1, 0.2, 0.3, 0.4]).values[0]))  # raises: a lost request
        slowest_s = max(slowest_s, time.monotonic() - began)
        requests += 1
        if requests == 100:
            Path("/tmp/streaming").touch()
        time.sleep(0.0005)
print(f"{requests} requests, 0 lost, slowest {slowest_s * 1000:.0f} ms")
assert len(answers) == 1, answers
