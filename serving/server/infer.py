"""POST /v2/models/NAME/infer: texts in, log-probabilities and labels out.

The one path that is asked thousands of times a second. It speaks ASGI itself: Starlette's objects for a
request and a response would take as long as classifying a text.
"""

import asyncio
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor

from starlette.types import Receive, Scope, Send

from serving.answer import Answer, answer, answer_of, selection_of
from serving.errors import DataError
from serving.predictor import Predictor
from serving.selection import Selection
from serving.server import protocol
from serving.server.batch import Batch
from serving.server.body import read_body
from serving.server.metrics import Metrics
from serving.server.naming import named
from serving.server.replies import BUNDLE_HEADER, Errors, Reply
from serving.server.service import Service
from serving.server.settings import ServerSettings

INLINE_CHARACTERS = 4096
"""In all texts of a request: fewer are classified here, with those of other requests, more by a thread, so
that short requests need not wait for long ones."""
OUTPUTS = ("log_probs", "label")
_NONE: dict[str, str] = {}


class Infer:
    """An ASGI application for this path alone; `path_params` in the scope may name a version."""

    def __init__(
        self, service: Service, settings: ServerSettings, metrics: Metrics, errors: Errors, batch: Batch
    ) -> None:
        self._service = service
        self._settings = settings
        self._metrics = metrics
        self._errors = errors
        self._batch = batch
        self._threads = ThreadPoolExecutor(min(4, os.cpu_count() or 1), thread_name_prefix="predict")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        scope["bowsprit.predicts"] = True
        try:
            reply = await self._infer(scope, receive)
        except Exception as error:  # noqa: BLE001 - told in the answer, and logged where it is ours
            reply = self._errors.reply(error, scope["path"])
        await reply.send(send)

    async def _infer(self, scope: Scope, receive: Receive) -> Reply:
        limits = self._settings
        predictor = named(self._service, limits.model_name, scope.get("path_params", _NONE))
        body, header_length = await read_body(scope, receive, limits.max_request_bytes)
        scope["bowsprit.received"] = len(body)
        found = protocol.read(body, header_length, limits.max_texts)
        texts = _texts(found, limits.max_text_bytes)
        wanted = _wanted(found.call)
        given = await self._answer(predictor, texts, selection_of(found.call.parameters))
        self._metrics.texts.inc(len(texts))
        scope["bowsprit.texts"] = len(texts)
        content, headers = protocol.write(
            found.call,
            _tensors(given, wanted),
            {
                "model_name": limits.model_name,
                "model_version": predictor.version,
                "parameters": {"bundle_id": predictor.bundle_id},
            },
        )
        headers[BUNDLE_HEADER] = predictor.bundle_id
        return Reply(200, content, headers)

    async def _answer(self, predictor: Predictor, texts: list[str], selection: Selection | None) -> Answer:
        if sum(map(len, texts)) <= INLINE_CHARACTERS:
            return answer_of(await self._batch.log_probs(predictor, texts), predictor.labels, selection)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, answer, predictor, texts, selection)


def _texts(found: protocol.Request, max_bytes: int) -> list[str]:
    """The request's one input: shape [N] or [N, 1]."""
    described = found.call.inputs
    if len(described) != 1 or described[0].name != "text":
        names = ", ".join(repr(each.name[:80]) for each in described[:8]) or "none"
        raise DataError(f"expected one input, 'text', found {names}")
    shape = described[0].shape
    if len(shape) > 1 and shape[1:] != [1]:
        raise DataError(f"input 'text': expected a shape [N] or [N, 1], found {shape}")
    texts = found.strings["text"]
    for number, text in enumerate(texts):
        # A character has at most four bytes.
        if len(text) * 4 > max_bytes and len(text.encode()) > max_bytes:
            raise protocol.TooLargeError(
                f"text {number}: expected at most {max_bytes:,} bytes, found {len(text.encode()):,}"
            )
    return texts


def _wanted(call: protocol.Call) -> Iterable[str]:
    """The outputs that a request asks for, by name; all of them where it names none."""
    if not call.outputs:
        return OUTPUTS
    names = [output.name for output in call.outputs]
    unknown = [name[:80] for name in names if name not in OUTPUTS]
    if unknown or len(set(names)) < len(names):
        raise DataError(f"expected some of the outputs {', '.join(OUTPUTS)}, found {', '.join(names)[:200]}")
    if any("classification" in output.parameters for output in call.outputs):
        raise DataError("the parameter classification is not supported: use the request's parameter top_k")
    return names


def _tensors(given: Answer, wanted: Iterable[str]) -> list[protocol.Tensor]:
    return [
        protocol.Tensor(name=name, shape=given.log_probs.shape, data=given.log_probs)
        if name == "log_probs"
        else protocol.Tensor(name=name, shape=given.label_shape, data=given.label)
        for name in wanted
    ]
