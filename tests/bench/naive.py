"""A peer: the server that one writes in an afternoon. A REP socket, pickle or JSON, `Booster.predict`.

    python tests/bench/naive.py ENDPOINT MODEL pickle|JSON

Its first line on stdout is its endpoint. It validates nothing, reloads nothing, and trusts whoever connects.
"""

from __future__ import annotations

import json
import pickle
import sys
from collections.abc import Callable
from typing import Any

import lightgbm
import numpy as np
import zmq


def codec(name: str) -> tuple[Callable[[bytes], Any], Callable[[Any], bytes]]:
    """How to read a request and how to write a reply."""
    if name == "pickle":
        return pickle.loads, pickle.dumps
    return json.loads, lambda value: json.dumps(value).encode()


def main() -> None:
    """Answer for ever."""
    endpoint, model, encoding = sys.argv[1:]
    decode, encode = codec(encoding)
    booster = lightgbm.Booster(model_file=model)
    socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.REP)
    socket.bind(endpoint)
    print(json.dumps({"endpoint": endpoint}), flush=True)
    while True:
        request = decode(socket.recv())
        rows = np.asarray(request["features"], dtype=np.float64)
        values = booster.predict(rows, num_threads=1)
        socket.send(encode({"id": request["id"], "version": "1.0.0", "predictions": values.tolist()}))


if __name__ == "__main__":
    main()
