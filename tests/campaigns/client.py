"""One engine, as a process of its own: asks without end, checks each reply, and reports when its stdin is closed.

`python tests/campaigns/client.py TASK.json`, which prints a line after its first answer. The task names the endpoint,
the rows (.npy, float64 [n, f]), what the good models predict for them (.npz), where the report goes, and the seed. A
version `1.0.N` is the good model `N mod models`; what any other version says is handed on in the report, row by row,
for the campaign to judge.

Without `retry` the socket is bare, so that a lost or a second reply is seen; with it `modeld.client.Client` asks again,
as engines do that outlive their server.
"""

from __future__ import annotations

import itertools
import json
import random
import select
import sys
import time
from array import array
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import zmq

from modeld.client import Client, Prediction
from modeld.client.codec import decode_prediction, encode_predict, read_reply
from modeld.client.errors import ModeldError, ProtocolError, RequestTimeout, ServerError

#: A reply that takes longer is lost. Seconds.
_LOST_S = 20.0
#: Pause between two requests, on average. Seconds.
_THINK_S = 0.002
#: Rows of a request: what the front scores itself, and what goes to a worker.
_SIZES = (1,) * 45 + (4, 4, 4, 48, 48)


class Bare:
    """Requests and replies over one DEALER; counts what comes without having been asked for."""

    def __init__(self, endpoint: str) -> None:
        self._socket = zmq.Context.instance().socket(zmq.DEALER)
        self._socket.linger = 0
        self._socket.connect(endpoint)
        self._ids = itertools.count(1)
        self.unasked = 0

    def ask(self, rows: np.ndarray) -> Prediction:
        number = next(self._ids)
        self._socket.send_multipart(encode_predict(number, rows))
        deadline = time.monotonic() + _LOST_S
        while self._socket.poll(max(0.0, deadline - time.monotonic()) * 1000):
            reply = read_reply(self._socket.recv_multipart())
            if reply.id != number:
                self.unasked += 1
                continue
            if reply.error is not None:
                raise reply.error
            return decode_prediction(reply.header, reply.raw)
        raise RequestTimeout(f"no reply within {_LOST_S:g} s", sent=True)

    def close(self) -> None:
        """Wait a moment for replies too many."""
        while self._socket.poll(300):
            self._socket.recv_multipart()
            self.unasked += 1
        self._socket.close()


class Retrying:
    """The product's own client."""

    unasked = 0

    def __init__(self, endpoint: str) -> None:
        self._client = Client(endpoint, timeout_s=60, try_timeout_s=0.5, retries=120)

    def ask(self, rows: np.ndarray) -> Prediction:
        return self._client.predict(rows)

    def close(self) -> None:
        self._client.close()


class Tally:
    """What one client saw."""

    def __init__(self, models: list[np.ndarray]) -> None:
        self._models = models
        self._newest = 0
        self.replies = 0
        self.wrong: list[str] = []
        self.errors: Counter[str] = Counter()
        #: Generation → the version that answered under it.
        self.generations: dict[int, str] = {}
        #: Version → row → its outputs in hexadecimal, for versions that aren't known here.
        self.others: dict[str, dict[int, str]] = {}
        #: Latencies in ns of replies that were the first of their generation here.
        self.firsts = array("q")
        self.started_ns, self.took_ns = array("q"), array("q")

    def take(self, first: int, count: int, reply: Prediction, started_ns: int) -> None:
        took = time.monotonic_ns() - started_ns
        self.replies += 1
        self.started_ns.append(started_ns)
        self.took_ns.append(took)
        version = reply.version
        if reply.generation < self._newest:
            self._note(f"generation {reply.generation} after {self._newest}")
        if reply.generation > self._newest:
            self.firsts.append(took)
            self._newest = reply.generation
        if self.generations.setdefault(reply.generation, version) != version:
            self._note(f"generation {reply.generation} is {self.generations[reply.generation]} and {version}")
        outputs = next(iter(reply.outputs.values()))
        if len(outputs) != count:
            self._note(f"{len(outputs)} outputs for {count} rows")
        elif version.startswith("1.0."):
            good = self._models[int(version.rpartition(".")[2]) % len(self._models)]
            if outputs.tobytes() != good[first : first + count].tobytes():
                self._note(f"{version} answered rows {first}+{count} with {outputs.tolist()}")
        else:
            seen = self.others.setdefault(version, {})
            for row, output in enumerate(outputs, first):
                if seen.setdefault(row, output.tobytes().hex()) != output.tobytes().hex():
                    self._note(f"{version} gave two answers for row {row}")

    def _note(self, what: str) -> None:
        if len(self.wrong) < 20:
            self.wrong.append(what)

    def report(self, unasked: int) -> dict[str, Any]:
        return {
            "replies": self.replies,
            "wrong": self.wrong,
            "errors": self.errors,
            "unasked": unasked,
            "generations": self.generations,
            "others": self.others,
            "firsts_ns": list(self.firsts),
        }


def main() -> None:
    task = json.loads(Path(sys.argv[1]).read_text())
    chance = random.Random(task["seed"])
    rows = np.load(task["rows"])
    with np.load(task["models"]) as file:
        tally = Tally([file[name] for name in file.files])
    asker = Retrying(task["endpoint"]) if task["retry"] else Bare(task["endpoint"])
    # Whoever started this closes the pipe to end it.
    while not select.select([sys.stdin], [], [], chance.expovariate(1 / _THINK_S))[0]:
        count = chance.choice(_SIZES)
        first = chance.randrange(len(rows) - count + 1)
        started = time.monotonic_ns()
        try:
            reply = asker.ask(rows[first : first + count])
        except ServerError as error:
            tally.errors[error.code] += 1
        except RequestTimeout:
            tally.errors["lost"] += 1
        except (ProtocolError, ModeldError) as error:
            tally.errors[type(error).__name__] += 1
        else:
            if not tally.replies:
                print("answered", flush=True)
            tally.take(first, count, reply, started)
    asker.close()
    report = Path(task["report"])
    np.save(report.with_suffix(".npy"), np.array([tally.started_ns, tally.took_ns], np.int64))
    report.write_text(json.dumps(tally.report(asker.unasked)))


if __name__ == "__main__":
    main()
