"""Requests that wait at the same moment are classified together.

The model takes about as long for eight short texts as for one: most of that is its steps, not the texts.
"""

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from serving.predictor import Predictor
from serving.session import Float32

MAX_TEXTS = 32
"""That are classified at a time: more take as long together as apart, and other requests wait meanwhile."""


class _Waiting(NamedTuple):
    predictor: Predictor
    texts: list[str]
    found: Callable[[Float32], None]
    failed: Callable[[Exception], None]


class Batch:
    """What waits to be classified in this turn of the event loop."""

    def __init__(self) -> None:
        self._waiting: list[_Waiting] = []

    def add(
        self,
        predictor: Predictor,
        texts: list[str],
        found: Callable[[Float32], None],
        failed: Callable[[Exception], None],
        *,
        is_alone: bool = False,
    ) -> None:
        """Calls one of two functions, which raise nothing, in the event loop's next turn at the latest.

        found: with the log-probabilities [N, K] of a request's texts.
        failed: with what `Predictor.log_probs` raises for them.
        is_alone: whether no other request can come in this turn.
        """
        request = _Waiting(predictor, texts, found, failed)
        if len(texts) > MAX_TEXTS // 2 or (is_alone and not self._waiting):
            _answer([request])
            return
        if not self._waiting:
            # Behind the requests that are read in this turn: they are asked for theirs first.
            asyncio.get_running_loop().call_soon(self.flush)
        self._waiting.append(request)

    async def log_probs(self, predictor: Predictor, texts: list[str]) -> Float32:
        """The log-probabilities [N, K] of a request's texts; raises what `Predictor.log_probs` does."""
        waits: asyncio.Future[Float32] = asyncio.get_running_loop().create_future()

        def found(log_probs: Float32) -> None:
            if not waits.done():  # its request may have been cancelled
                waits.set_result(log_probs)

        def failed(error: Exception) -> None:
            if not waits.done():
                waits.set_exception(error)

        self.add(predictor, texts, found, failed)
        return await waits

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits."""
        return not self._waiting

    def flush(self) -> None:
        """Classifies what waits now."""
        waiting, self._waiting = self._waiting, []
        some: list[_Waiting] = []
        size = 0
        for each in waiting:
            # Another bundle may have taken the first one's place.
            if some and (size + len(each.texts) > MAX_TEXTS or each.predictor is not some[0].predictor):
                _answer(some)
                some, size = [], 0
            some.append(each)
            size += len(each.texts)
        if some:
            _answer(some)


def _answer(some: list[_Waiting]) -> None:
    """Classifies the texts of some requests at once, or, where that fails, apart: each has its own error."""
    try:
        log_probs = some[0].predictor.log_probs([text for each in some for text in each.texts])
    except Exception as error:  # noqa: BLE001 - handed to whom the request is answered by
        if len(some) > 1:
            for each in some:
                _answer([each])
        else:
            some[0].failed(error)
        return
    start = 0
    for each in some:
        end = start + len(each.texts)
        each.found(log_probs[start:end])
        start = end
