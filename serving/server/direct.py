"""Predictions that are asked for in one piece: answered without a task, a scope and messages of ASGI.

These take as long as classifying a short text. The answers are those of `serving.server.infer_path`.
"""

import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial

from serving.answer import Scored, answer_of
from serving.server.accounts import Accounts
from serving.server.batch import Batch
from serving.server.body import CLIENT_LEFT
from serving.server.infer import INLINE_CHARACTERS, Infer
from serving.server.log import Access
from serving.server.naming import named
from serving.server.replies import Errors, Reply
from serving.server.service import Service
from serving.server.settings import ServerSettings


class Direct:
    """From the body of a request to its answer, for the connections of a server."""

    def __init__(
        self,
        infer: Infer,
        service: Service,
        settings: ServerSettings,
        errors: Errors,
        batch: Batch,
        accounts: Accounts,
        path: str,
    ) -> None:
        """path: that of the requests that are taken."""
        self._infer = infer
        self._service = service
        self._model_name = settings.model_name
        self._errors = errors
        self._batch = batch
        self._accounts = accounts
        self._path = path
        self.target = path.encode()
        """As it stands in their heads."""
        # No text has more characters than its request has bytes.
        self.max_bytes = min(INLINE_CHARACTERS, settings.max_request_bytes)
        """Of their bodies."""

    @property
    def draining(self) -> bool:
        """Whether the server is about to end, so that clients are to connect elsewhere."""
        return self._service.draining

    @property
    def is_idle(self) -> bool:
        """Whether no answer is waited for."""
        return self._batch.is_empty

    def flush(self) -> None:
        """Sends the answers that wait for others to be classified with."""
        self._batch.flush()

    def answer(
        self,
        body: bytes,
        header_length: str | None,
        client: str,
        send: Callable[[Reply], bool],
        *,
        is_alone: bool,
    ) -> None:
        """Hands the answer to a request to `send`, in the event loop's next turn at the latest.

        header_length: the header `Inference-Header-Content-Length`; None where there is none.
        send: says whether the client was still there.
        is_alone: whether there is no other connection, whose request could be classified with it.
        """
        start = time.perf_counter()
        num_texts = 0

        def end(reply: Reply) -> None:
            try:
                status = reply.status if send(reply) else CLIENT_LEFT
                seconds = time.perf_counter() - start
                line = Access(
                    timestamp=datetime.now(UTC),
                    method="POST",
                    path=self._path,
                    status=status,
                    seconds=seconds,
                    texts=num_texts,
                    received=len(body),
                    client=client,
                )
                self._accounts.add(line, predicts=True)
            except Exception as error:  # noqa: BLE001 - logged; other requests wait for the same turn
                self._errors.reply(error, self._path)

        def found(scored: Scored) -> Callable[[], None]:
            nonlocal num_texts
            try:
                given = answer_of(scored, asked.predictor.labels, asked.selection)
                reply = self._infer.reply(asked, given)
                num_texts = len(asked.texts)
            except Exception as error:  # noqa: BLE001 - told in the answer, and logged
                reply = self._errors.reply(error, self._path)
            return partial(end, reply)

        def failed(error: Exception) -> None:
            end(self._errors.reply(error, self._path))

        try:
            predictor = named(self._service, self._model_name, {})
            asked = self._infer.asked(predictor, body, header_length)
        except Exception as error:  # noqa: BLE001 - told in the answer, and logged where it is ours
            failed(error)
        else:
            self._batch.add(predictor, asked.texts, len(body), found, failed, is_alone=is_alone)
