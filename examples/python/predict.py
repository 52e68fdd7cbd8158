"""A modeld client with pyzmq and plain JSON only; `modeld.client` does more.

    pip install pyzmq
    python predict.py tcp://127.0.0.1:5555 alpha 0.01 0.02 nan 1.2

Prints "value version generation" and exits 0; 1: the server's error, or a wrong argument; 2: no reply.
A server with CURVE: MODELD_SERVER_KEY, MODELD_PUBLIC_KEY and MODELD_SECRET_KEY in the environment, in Z85.
"""

import json
import math
import os
import sys
import time

import zmq

TIMEOUT_S = 1.0
TRIES = 3


def predict(socket, request):
    """The reply, or None. The id makes it ours: a late one to an older request has another."""
    for _ in range(TRIES):
        try:
            socket.send(json.dumps(request).encode())  # asking again is harmless: a prediction has no effect
        except zmq.Again:
            continue
        deadline = time.monotonic() + TIMEOUT_S
        while socket.poll(max(0, (deadline - time.monotonic()) * 1000)):
            reply = json.loads(socket.recv_multipart()[0])
            if reply["id"] == request["id"]:
                return reply
    return None


def main(endpoint, model, *words):
    values = [float(word) for word in words]
    # A missing value is null: JSON has no NaN.
    features = [None if math.isnan(value) else value for value in values]
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:  # REQ would be stuck after a timeout
        socket.linger = 0
        socket.sndtimeo = int(TIMEOUT_S * 1000)  # a server that refuses us leaves nobody to send to
        if "MODELD_SERVER_KEY" in os.environ:
            socket.curve_serverkey = os.environ["MODELD_SERVER_KEY"].encode()
            socket.curve_publickey = os.environ["MODELD_PUBLIC_KEY"].encode()
            socket.curve_secretkey = os.environ["MODELD_SECRET_KEY"].encode()
        socket.connect(endpoint)
        reply = predict(socket, {"id": "python-1", "model_name": model, "features": features})
    if reply is None:
        sys.exit(2)
    if "error" in reply:
        sys.exit(f"{reply['code']}: {reply['error']}")
    print(reply["outputs"][0]["data"][0], reply["model_version"], reply["parameters"]["generation"])


if __name__ == "__main__":
    main(*sys.argv[1:])
