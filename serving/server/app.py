"""The server's paths: the Open Inference Protocol's, /metrics and /openapi.json."""

from collections.abc import Iterable, Mapping
from functools import partial
from typing import NamedTuple

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from serving.errors import DataError
from serving.server import protocol
from serving.server.accounts import Accounts, Counted
from serving.server.batch import Batch
from serving.server.direct import Direct
from serving.server.infer import Infer
from serving.server.infer_path import InferPath
from serving.server.log import Log
from serving.server.metrics import CONTENT_TYPE, Metrics
from serving.server.naming import check_name, check_version, named
from serving.server.openapi import VERSION, document
from serving.server.replies import BUNDLE_HEADER, Errors, json_reply
from serving.server.service import Service
from serving.server.settings import ServerSettings

INPUTS = [{"name": "text", "datatype": "BYTES", "shape": [-1]}]


class Application(NamedTuple):
    """Both ways in which requests are answered."""

    every: ASGIApp
    """For all of them."""
    direct: Direct
    """For predictions that are asked for in one piece."""


def application(service: Service, settings: ServerSettings, log: Log, metrics: Metrics) -> Application:
    """What uvicorn's connections run."""
    errors = Errors(log)
    accounts = Accounts(log, metrics)
    batch = Batch()
    infer = Infer(settings, metrics)
    infer_app = InferPath(infer, service, settings, errors, batch)
    paths = Paths(service, settings, metrics)
    model = "/v2/models/{name}"
    routes = [
        _Path("/v2/health/live", paths.live),
        _Path("/v2/health/ready", paths.ready),
        _Path(f"{model}/infer", infer_app, methods=["POST"]),
        _Path(f"{model}/versions/{{version}}/infer", infer_app, methods=["POST"]),
        _Path(f"{model}/ready", paths.model_ready),
        _Path(f"{model}/versions/{{version}}/ready", paths.model_ready),
        _Path("/v2", paths.server),
        _Path("/v2/models", paths.models),
        _Path(model, paths.model),
        _Path(f"{model}/versions/{{version}}", paths.model),
        _Path("/metrics", paths.metrics),
        _Path("/openapi.json", paths.openapi),
    ]
    others = Starlette(
        routes=routes,
        exception_handlers=dict.fromkeys((HTTPException, DataError, Exception), errors.handle),
    )
    others.router.redirect_slashes = False
    known = [route.path.replace("{name}", settings.model_name) for route in routes]
    others.router.default = partial(_not_found, known)
    infer_path = f"/v2/models/{settings.model_name}/infer"
    return Application(
        Counted(infer_app, infer_path, others, service, accounts),
        Direct(infer, service, settings, errors, batch, accounts, infer_path),
    )


class _Path(Route):
    """Starlette's, but that it says which method it expects."""

    async def handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request for this path; raises HTTPException with 405 where its method is another."""
        assert self.methods is not None
        if scope["method"] not in self.methods:
            expected = sorted(self.methods)
            raise HTTPException(
                405,
                f"{scope['path'][:80]!r}: expected {' or '.join(expected)}, found {scope['method']}",
                {"Allow": ", ".join(expected)},
            )
        await super().handle(scope, receive, send)


async def _not_found(known: Iterable[str], scope: Scope, _receive: Receive, _send: Send) -> None:
    raise HTTPException(404, f"there is no path {scope['path'][:80]!r}; there are {', '.join(known)}")


class Paths:
    """The functions behind all paths but that of predictions."""

    def __init__(self, service: Service, settings: ServerSettings, metrics: Metrics) -> None:
        self._service = service
        self._settings = settings
        self._metrics = metrics

    async def live(self, _request: Request) -> Response:
        """GET /v2/health/live: the process answers."""
        return _json({"live": True})

    async def ready(self, _request: Request) -> Response:
        """GET /v2/health/ready: a bundle was proven, and the server is not about to end."""
        return _json({"ready": self._service.ready}, 200 if self._service.ready else 503)

    async def model_ready(self, request: Request) -> Response:
        """GET /v2/models/NAME/ready: the same of the model."""
        name = self._settings.model_name
        check_name(name, request.path_params)
        if self._service.predictor is not None:
            check_version(self._service.predictor, request.path_params)
        return _json({"name": name, "ready": self._service.ready}, 200 if self._service.ready else 503)

    async def server(self, _request: Request) -> Response:
        """GET /v2: what this server is."""
        extensions = protocol.EXTENSIONS
        return _json({"name": "bowsprit", "version": VERSION, "extensions": extensions})

    async def models(self, _request: Request) -> Response:
        """GET /v2/models: the one model's name."""
        return _json({"models": [self._settings.model_name]})

    async def model(self, request: Request) -> Response:
        """GET /v2/models/NAME: what the model takes and gives, and its labels."""
        name = self._settings.model_name
        predictor = named(self._service, name, request.path_params)
        outputs = [
            {"name": "log_probs", "datatype": "FP32", "shape": [-1, len(predictor.labels)]},
            {"name": "label", "datatype": "BYTES", "shape": [-1]},
        ]
        return _json(
            {
                "name": name,
                "versions": [predictor.version],
                "platform": "onnxruntime_onnx",
                "inputs": INPUTS,
                "outputs": outputs,
                "labels": predictor.labels,
                "parameters": {"bundle_id": predictor.bundle_id, "provider": predictor.provider},
            },
            headers={BUNDLE_HEADER: predictor.bundle_id},
        )

    async def metrics(self, _request: Request) -> Response:
        """GET /metrics: for Prometheus."""
        return Response(self._metrics.text(), headers={"content-type": CONTENT_TYPE})

    async def openapi(self, _request: Request) -> Response:
        """GET /openapi.json: this interface, described for tools."""
        return _json(document(self._settings))


def _json(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    reply = json_reply(value, status, headers)
    return Response(reply.content, reply.status, dict(reply.headers))
