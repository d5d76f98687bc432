"""The application behind the path of predictions, for requests that come in pieces, or are long.

It speaks ASGI itself: Starlette's objects for a request and a response would take as long as classifying a
text.
"""

import asyncio
from concurrent.futures import ThreadPoolExecutor

from starlette.types import Receive, Scope, Send

from serving.answer import Answer, answer, answer_of
from serving.cores import usable_cores
from serving.server.batch import Batch
from serving.server.body import read_body
from serving.server.infer import INLINE_CHARACTERS, Asked, Infer
from serving.server.naming import named
from serving.server.replies import Errors, Reply
from serving.server.service import Service
from serving.server.settings import ServerSettings

_NONE: dict[str, str] = {}


class InferPath:
    """An ASGI application for this path alone; `path_params` in the scope may name a version."""

    def __init__(
        self, infer: Infer, service: Service, settings: ServerSettings, errors: Errors, batch: Batch
    ) -> None:
        self._infer = infer
        self._service = service
        self._settings = settings
        self._errors = errors
        self._batch = batch
        self._threads = ThreadPoolExecutor(min(4, usable_cores()), thread_name_prefix="predict")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a request."""
        scope["bowsprit.predicts"] = True
        try:
            reply = await self._reply(scope, receive)
        except Exception as error:  # noqa: BLE001 - told in the answer, and logged where it is ours
            reply = self._errors.reply(error, scope["path"])
        await reply.send(send)

    async def _reply(self, scope: Scope, receive: Receive) -> Reply:
        predictor = named(self._service, self._settings.model_name, scope.get("path_params", _NONE))
        body, header_length = await read_body(scope, receive, self._settings.max_request_bytes)
        scope["bowsprit.received"] = len(body)
        asked = self._infer.asked(predictor, body, header_length)
        given = await self._answer(asked, len(body))
        scope["bowsprit.texts"] = len(asked.texts)
        return self._infer.reply(asked, given)

    async def _answer(self, asked: Asked, size: int) -> Answer:
        predictor, texts, selection = asked.predictor, asked.texts, asked.selection
        if sum(map(len, texts)) <= INLINE_CHARACTERS:
            scored = await self._batch.scored(predictor, texts, size)
            return answer_of(scored, predictor.labels, selection)
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, answer, predictor, texts, selection)
