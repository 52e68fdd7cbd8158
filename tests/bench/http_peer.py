"""A peer: FastAPI on uvicorn, written for speed: one worker, uvloop, httptools, orjson, no access log, no pydantic.

    python tests/bench/http_peer.py PORT MODEL

Runs in the virtual environment of requirements.txt, without modeld. Its first line on stdout is its endpoint.
"""

import json
import sys

import lightgbm
import numpy as np
import orjson
import uvicorn
from fastapi import FastAPI, Request, Response


def make_app(model: str) -> FastAPI:
    """The application: POST /predict."""
    booster = lightgbm.Booster(model_file=model)
    app = FastAPI()

    @app.post("/predict")
    async def predict(request: Request) -> Response:
        body = orjson.loads(await request.body())
        values = booster.predict(np.asarray(body["features"], dtype=np.float64), num_threads=1)
        reply = {"id": body["id"], "version": "1.0.0", "predictions": values.tolist()}
        return Response(orjson.dumps(reply), media_type="application/json")

    return app


class Announcing(uvicorn.Server):
    """Says where it listens once it does."""

    async def startup(self, sockets: list | None = None) -> None:
        await super().startup(sockets)
        print(json.dumps({"endpoint": f"http://127.0.0.1:{self.config.port}"}), flush=True)


if __name__ == "__main__":
    settings = uvicorn.Config(
        make_app(sys.argv[2]),
        port=int(sys.argv[1]),
        loop="uvloop",
        http="httptools",
        access_log=False,
        log_level="error",
    )
    Announcing(settings).run()
