"""What each step of the front costs for one row of 158 features: `python tests/bench/front_costs.py`.

Each step alone, back to back, the quickest of several repeats: what is left to the wire is waking processes up.
"""

from __future__ import annotations

import timeit
from collections.abc import Callable

import msgspec
import numpy as np
import zmq

from modeld.forest import Forest
from modeld.forest.scorer import Scorer
from modeld.front.zsocket import ZSocket
from modeld.wire import header, replies, tensors
from modeld.wire.contract import Contract

FEATURES = tuple(f"f{number}" for number in range(158))
CONTRACT = Contract("alpha", "1.0.0", FEATURES, "sha256:0", (("predictions", 0),))
ROW = np.random.default_rng(1).random(158)
HEADER = msgspec.msgpack.encode(
    {
        "id": 7,
        "inputs": [
            {"name": "x", "shape": [1, 158], "datatype": "FP64", "parameters": {"binary_data_size": 1264}},
        ],
        "parameters": {"binary_data_output": True},
    }
)


def best_us(call: Callable[[], object], number: int = 5000) -> float:
    """Microseconds of one call."""
    return min(timeit.repeat(call, number=number, repeat=7)) / number * 1e6


def reference_plan() -> bytes:
    """500 trees × 63 leaves × 158 features."""
    import lightgbm

    rng = np.random.default_rng(2)
    matrix = rng.random((4000, 158))
    data = lightgbm.Dataset(matrix, matrix @ rng.random(158) + rng.random(4000))
    booster = lightgbm.train({"num_leaves": 63, "verbosity": -1, "num_threads": 2, "seed": 1}, data, 500)
    return bytes(Forest.from_booster(booster, prove=False).plan)


def main() -> None:
    scorer = Scorer(memoryview(reference_plan()))
    raw = ROW.tobytes()
    request = header.decode(HEADER)
    output = raw[:8]
    with zmq.Context() as context, context.socket(zmq.ROUTER) as server, context.socket(zmq.DEALER) as client:
        server.bind("inproc://costs")
        client.connect("inproc://costs")
        socket = ZSocket(server)
        client.send_multipart([b"", HEADER, raw])
        envelope = socket.recv()[:2]

        def receive() -> None:
            client.send_multipart([b"", HEADER, raw])
            socket.recv()

        def send() -> None:
            socket.send([*envelope, HEADER, output])
            client.recv_multipart()

        fill = best_us(lambda: client.send_multipart([b"", HEADER, raw]) or server.recv_multipart())
        steps = {
            "receive and send, both ends, no waiting": (best_us(receive) + best_us(send)),
            "(pyzmq's own multipart calls for one of them)": fill,
            "ask the socket for its events": best_us(socket.readable),
            "split the envelope, decode the header": best_us(
                lambda: (header.split([*envelope, HEADER, raw]), header.decode(HEADER))
            ),
            "check shape and finiteness": best_us(
                lambda: tensors.parse_matrix(request, [raw], CONTRACT, 65536, tensors.MSGPACK)
            ),
            "score by the plan": best_us(lambda: scorer.score_bytes(raw, 1)),
            "encode the reply": best_us(
                lambda: replies.prediction(
                    header.encode_msgpack, 7, CONTRACT, 3, "sha256:0", [output], 1,
                    raw=True, queue_us=1, predict_us=2, path="plan",
                )
            ),
        }  # fmt: skip
    for name, us in steps.items():
        print(f"{us:7.2f} µs  {name}")


if __name__ == "__main__":
    main()
