"""The server's paths: the Open Inference Protocol's, /metrics and /openapi.json."""

import asyncio
import os
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version

import orjson
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.answer import Answer, answer, selection_of
from serving.errors import DataError
from serving.predictor import Predictor
from serving.selection import Selection
from serving.server import protocol
from serving.server.body import read_body
from serving.server.log import Access, Log
from serving.server.metrics import CONTENT_TYPE, Metrics
from serving.server.openapi import document
from serving.server.service import Service
from serving.server.settings import ServerSettings

BUNDLE_HEADER = "bowsprit-bundle"
INLINE_CHARACTERS = 4096
"""In all texts of a request: fewer are classified at once, more by a thread, so that short requests need not
wait for long ones."""
MAX_ERROR = 1000
"""Characters: some messages repeat what was sent."""
OUTPUTS = ("log_probs", "label")
INPUTS = [{"name": "text", "datatype": "BYTES", "shape": [-1]}]


class Application:
    """The functions behind the paths."""

    def __init__(self, service: Service, settings: ServerSettings, log: Log, metrics: Metrics) -> None:
        self._service = service
        self._settings = settings
        self._log = log
        self._metrics = metrics
        self._threads = ThreadPoolExecutor(min(4, os.cpu_count() or 1), thread_name_prefix="predict")

    def asgi(self) -> ASGIApp:
        """What uvicorn runs."""
        model = "/v2/models/{name}"
        app = Starlette(
            routes=[
                Route(f"{model}/infer", self.infer, methods=["POST"]),
                Route(f"{model}/versions/{{version}}/infer", self.infer, methods=["POST"]),
                Route("/v2/health/live", self.live),
                Route("/v2/health/ready", self.ready),
                Route(f"{model}/ready", self.model_ready),
                Route(f"{model}/versions/{{version}}/ready", self.model_ready),
                Route("/v2", self.server),
                Route("/v2/models", self.models),
                Route(model, self.model),
                Route(f"{model}/versions/{{version}}", self.model),
                Route("/metrics", self.metrics),
                Route("/openapi.json", self.openapi),
            ],
            exception_handlers={HTTPException: _http_error, DataError: _data_error, Exception: self._bug},
        )
        app.router.redirect_slashes = False
        return Accounts(app, self._service, self._log, self._metrics)

    async def infer(self, request: Request) -> Response:
        """POST /v2/models/NAME/infer: texts in, log-probabilities and labels out."""
        predictor = self._named(request)
        limits = self._settings
        body = await read_body(request, limits.max_request_bytes, limits.request_seconds)
        found = protocol.read(body, request.headers.get(protocol.HEADER_LENGTH), limits.max_texts)
        texts = self._texts(found)
        wanted = _wanted(found.call)
        selection = selection_of(found.call.parameters)
        given = await self._answer(predictor, texts, selection)
        self._metrics.texts.inc(len(texts))
        request.scope["bowsprit.texts"], request.scope["bowsprit.received"] = len(texts), len(body)
        tensors = {
            "log_probs": protocol.Tensor(name="log_probs", shape=given.log_probs.shape, data=given.log_probs),
            "label": protocol.Tensor(name="label", shape=given.label_shape, data=given.label),
        }
        fields = {
            "model_name": limits.model_name,
            "model_version": predictor.version,
            "parameters": {"bundle_id": predictor.bundle_id},
        }
        content, headers = protocol.write(found.call, [tensors[name] for name in wanted], fields)
        headers[BUNDLE_HEADER] = predictor.bundle_id
        return Response(content, headers=headers)

    async def live(self, _request: Request) -> Response:
        """GET /v2/health/live: the process answers."""
        return _json({"live": True})

    async def ready(self, _request: Request) -> Response:
        """GET /v2/health/ready: a bundle was proven, and the server is not about to end."""
        return _json({"ready": self._service.ready}, 200 if self._service.ready else 503)

    async def model_ready(self, request: Request) -> Response:
        """GET /v2/models/NAME/ready: the same of the model."""
        self._check_name(request)
        predictor = self._service.predictor
        wanted = request.path_params.get("version")
        if predictor is not None and wanted not in (None, predictor.version):
            raise _no_version(wanted, predictor)
        ready = {"name": self._settings.model_name, "ready": self._service.ready}
        return _json(ready, 200 if self._service.ready else 503)

    async def server(self, _request: Request) -> Response:
        """GET /v2: what this server is."""
        extensions = protocol.EXTENSIONS
        return _json({"name": "bowsprit", "version": version("bowsprit"), "extensions": extensions})

    async def models(self, _request: Request) -> Response:
        """GET /v2/models: the one model's name."""
        return _json({"models": [self._settings.model_name]})

    async def model(self, request: Request) -> Response:
        """GET /v2/models/NAME: what the model takes and gives, and its labels."""
        predictor = self._named(request)
        outputs = [
            {"name": "log_probs", "datatype": "FP32", "shape": [-1, len(predictor.labels)]},
            {"name": "label", "datatype": "BYTES", "shape": [-1]},
        ]
        return _json(
            {
                "name": self._settings.model_name,
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

    def _named(self, request: Request) -> Predictor:
        """The predictor of the model and version in the path."""
        self._check_name(request)
        predictor = self._service.predictor
        if predictor is None:
            raise HTTPException(503, "the bundle is being loaded; ask /v2/health/ready")
        wanted = request.path_params.get("version")
        if wanted is not None and wanted != predictor.version:
            raise _no_version(wanted, predictor)
        return predictor

    def _check_name(self, request: Request) -> None:
        name = request.path_params["name"]
        if name != self._settings.model_name:
            raise HTTPException(
                404, f"there is no model {name[:80]!r}; this is {self._settings.model_name!r}"
            )

    def _texts(self, found: protocol.Request) -> list[str]:
        """The request's one input: shape [N] or [N, 1]."""
        described = found.call.inputs
        if len(described) != 1 or described[0].name != "text":
            names = ", ".join(repr(each.name[:80]) for each in described[:8]) or "none"
            raise DataError(f"expected one input, 'text', found {names}")
        shape = described[0].shape
        if len(shape) > 1 and shape[1:] != [1]:
            raise DataError(f"input 'text': expected a shape [N] or [N, 1], found {shape}")
        texts = found.strings["text"]
        limit = self._settings.max_text_bytes
        for number, text in enumerate(texts):
            # A character has at most four bytes.
            if len(text) * 4 > limit and len(text.encode()) > limit:
                raise protocol.TooLargeError(
                    f"text {number}: expected at most {limit:,} bytes, found {len(text.encode()):,}"
                )
        return texts

    async def _answer(self, predictor: Predictor, texts: list[str], selection: Selection | None) -> Answer:
        if sum(map(len, texts)) <= INLINE_CHARACTERS:
            return answer(predictor, texts, selection)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, answer, predictor, texts, selection)

    async def _bug(self, request: Request, error: Exception) -> Response:
        import traceback

        trace = "".join(traceback.format_exception(error))
        self._log.event("bug", "error", path=request.url.path, traceback=trace)
        return _json({"error": "an error of ours: please report it, with the server's log"}, 500)


class Accounts:
    """Counts and logs each request, and tells clients to leave while the server ends."""

    def __init__(self, app: ASGIApp, service: Service, log: Log, metrics: Metrics) -> None:
        self._app = app
        self._service = service
        self._log = log
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs the application."""
        start = time.perf_counter()
        status = 499  # the client left before it was answered

        async def answered(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if self._service.draining:
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        try:
            await self._app(scope, receive, answered)
        except asyncio.CancelledError:
            # By the server, where the time for ending is over.
            if status != 499:
                raise
            await _json({"error": "the server is ending; ask again"}, 503)(scope, receive, answered)
        finally:
            seconds = time.perf_counter() - start
            path: str = scope["path"]
            if path.endswith("/infer"):
                self._metrics.seconds.observe(seconds)
            self._metrics.answered(status)
            client = scope.get("client")
            self._log.access(
                Access(
                    time=time.time(),
                    method=scope["method"],
                    path=path,
                    status=status,
                    seconds=seconds,
                    texts=scope.get("bowsprit.texts", 0),
                    received=scope.get("bowsprit.received", 0),
                    client=client[0] if client else "",
                )
            )


def _wanted(call: protocol.Call) -> list[str]:
    """The outputs that a request asks for, by name; all of them where it names none."""
    if not call.outputs:
        return list(OUTPUTS)
    names = [output.name for output in call.outputs]
    unknown = [name[:80] for name in names if name not in OUTPUTS]
    if unknown or len(set(names)) < len(names):
        raise DataError(f"expected some of the outputs {', '.join(OUTPUTS)}, found {', '.join(names)[:200]}")
    if any("classification" in output.parameters for output in call.outputs):
        raise DataError("the parameter classification is not supported: use the request's parameter top_k")
    return names


def _no_version(wanted: str, predictor: Predictor) -> HTTPException:
    return HTTPException(404, f"there is no version {wanted[:80]!r}; this is {predictor.version!r}")


def _json(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    return Response(orjson.dumps(value), status, {"content-type": protocol.JSON, **(headers or {})})


async def _http_error(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _json({"error": error.detail}, error.status_code, error.headers)


async def _data_error(_request: Request, error: Exception) -> Response:
    return _json({"error": str(error)[:MAX_ERROR]}, 413 if isinstance(error, protocol.TooLargeError) else 400)
