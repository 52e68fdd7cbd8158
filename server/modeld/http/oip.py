"""The Open Inference Protocol v2 over HTTP, complete, with Triton's extensions that fit: binary tensors, statistics,
the model repository. What is asked most, inference itself, is in `modeld.http.inference`.

Health needs no token; predictions, metadata and statistics need one where everything does; load needs `model:operate`.
"""

from __future__ import annotations

from typing import Any

import msgspec
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute, Route

from modeld import __version__
from modeld.front.stats import lower_bound_us
from modeld.http import bodies
from modeld.http.gateway import Gateway
from modeld.http.problems import ApiError
from modeld.http.tokens import OPERATE

EXTENSIONS = ["binary_tensor_data", "parameters", "model_repository", "statistics"]

#: The largest body of a request that isn't an inference. Bytes.
_SMALL_BODY = 65_536
_encode = msgspec.json.Encoder().encode


class Oip:
    """The handlers; for one event loop."""

    def __init__(self, gateway: Gateway) -> None:
        self._gateway = gateway

    def routes(self) -> list[BaseRoute]:
        model = "/v2/models/{model}"
        version = model + "/versions/{version}"
        found: list[BaseRoute] = [Route("/v2/models/stats", self.statistics)]  # before a model of that name
        for at in (model, version):
            found += [
                Route(at + "/ready", self.model_ready),
                Route(at + "/stats", self.statistics),
                Route(at, self.metadata),
            ]
        return [
            *found,
            Route("/v2", self.server),
            Route("/v2/", self.server),
            Route("/v2/health/live", self.live),
            Route("/v2/health/ready", self.ready),
            Route("/v2/repository/index", self.index, methods=["GET", "POST"]),
            Route("/v2/repository/models/{model}/load", self.load, methods=["POST"]),
            Route("/v2/repository/models/{model}/unload", self.unload, methods=["POST"]),
        ]

    async def server(self, _request: Request) -> Response:
        """Answered by the gateway alone: whether it lives itself."""
        return _json({"name": "modeld", "version": __version__, "extensions": EXTENSIONS})

    async def live(self, _request: Request) -> Response:
        reply = await self._gateway.data.call("live")
        return _json({"live": reply.header.get("live") is True})

    async def ready(self, _request: Request) -> Response:
        return await self._ready(None)

    async def model_ready(self, request: Request) -> Response:
        model, version = request.path_params["model"], request.path_params.get("version")
        if version is not None or model not in await self._names():
            await self._metadata(model, version)  # says what isn't there
        return await self._ready(model)

    async def metadata(self, request: Request) -> Response:
        self._gateway.keeper.open_to_all(request.headers.get("authorization"))
        return _json(await self._metadata(request.path_params["model"], request.path_params.get("version")))

    async def statistics(self, request: Request) -> Response:
        """Triton's form; of the daemon's counters, which are one set a model, under the version that serves."""
        self._gateway.keeper.open_to_all(request.headers.get("authorization"))
        model, version = request.path_params.get("model"), request.path_params.get("version")
        if model is not None:
            await self._metadata(model, version)
        counted = (await self._gateway.admin.call("stats")).header["models"]
        versions = await self._names()
        found = [
            _statistics(name, version or versions.get(name) or "", each)
            for name, each in counted.items()
            if model in (None, name)
        ]
        return _json({"model_stats": found})

    async def index(self, request: Request) -> Response:
        self._gateway.keeper.open_to_all(request.headers.get("authorization"))
        only_ready = (await _object(request)).get("ready") is True
        status = (await self._gateway.admin.call("status")).header
        rows = []
        for each in status["models"]:
            serving = each["version"] is not None
            if serving or not only_ready:
                rejected = each["last_rejection"]
                why = each["held"] or (f"{rejected['version']}: {rejected['reason']}" if rejected else "")
                row = {"name": each["model_name"], "version": each["version"] or ""}
                rows.append(
                    row | {"state": "READY" if serving else "UNAVAILABLE", "reason": "" if serving else why}
                )
        return _json(rows)

    async def load(self, request: Request) -> Response:
        """Look at the source now, and swap where it names something new. 409 where that was rejected."""
        gateway = self._gateway
        gateway.keeper.check(request.headers.get("authorization"), OPERATE)
        if (await _object(request)).get("parameters"):
            raise ApiError(
                400, "usage", "load takes no parameters: what is served is what the registry promotes"
            )
        reply = await gateway.admin.call(
            "reload", {"model_name": request.path_params["model"]}, timeout_s=gateway.trial_s
        )
        return _json({name: value for name, value in reply.header.items() if name != "id"})

    async def unload(self, request: Request) -> Response:
        self._gateway.keeper.check(request.headers.get("authorization"), OPERATE)
        model = request.path_params["model"]
        if model not in await self._names():
            raise ApiError(404, "MODEL_NOT_FOUND", f"no model {model!r} here")
        raise ApiError(
            409, "conflict",
            f"{model} stays loaded: modeld never leaves a gap. Freeze it with: modeld hold {model}; replace it by "
            "promoting another version",
        )  # fmt: skip

    async def _ready(self, model: str | None) -> Response:
        header = (await self._gateway.data.call("ready", {"model_name": model})).header
        ready = header.get("ready") is True
        body: dict[str, Any] = {"ready": ready} if model is None else {"name": model, "ready": ready}
        if ready:
            return _json(body)
        return _json(body | {"error": header.get("reason", "not ready")}, 503, {"Retry-After": "1"})

    async def _names(self) -> dict[str, str | None]:
        """The models that there are, with the versions that serve."""
        models = (await self._gateway.data.call("models")).header["models"]
        return {each["model_name"]: each["version"] for each in models}

    async def _metadata(self, model: str, version: str | None) -> dict[str, Any]:
        found = (await self._gateway.data.call("metadata", {"model_name": model})).header
        if version is not None and version not in found["versions"]:
            told = ", ".join(found["versions"])
            raise ApiError(404, "VERSION_NOT_AVAILABLE", f"{model} {version} isn't resident; there is {told}")
        return {name: value for name, value in found.items() if name != "id"}


async def _object(request: Request) -> dict[str, Any]:
    """The body as a JSON object; nothing at all is an empty one."""
    body = await bodies.read(request.scope, request.receive, _SMALL_BODY)
    try:
        return msgspec.json.decode(body, type=dict[str, Any]) if body.strip() else {}
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise ApiError(400, "MALFORMED", f"the request can't be read: {error}") from None


def _statistics(name: str, version: str, counted: dict[str, Any]) -> dict[str, Any]:
    failed = sum(counted["errors"].values())
    done = counted["requests"] - failed
    whole, compute = (_total_ns(counted[key]) for key in ("latency_us", "predict_us"))
    zero = {"count": 0, "ns": 0}
    return {
        "name": name,
        "version": version,
        "inference_count": done,
        "execution_count": done,
        "inference_stats": {
            "success": {"count": done, "ns": whole},
            "fail": {"count": failed, "ns": 0},
            "queue": {"count": done, "ns": max(0, whole - compute)},
            "compute_input": zero,
            "compute_infer": {"count": done, "ns": compute},
            "compute_output": zero,
        },
        "batch_stats": [],
    }


def _total_ns(buckets: dict[str, int]) -> int:
    """The sum of a histogram of µs, as exact as its buckets."""
    return sum(lower_bound_us(int(at)) * count for at, count in buckets.items()) * 1000


def _json(body: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(_encode(body), status, headers, "application/json")
