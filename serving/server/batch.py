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
    found: "asyncio.Future[Float32]"


class Batch:
    """What waits to be classified in this turn of the event loop."""

    def __init__(self, is_alone: Callable[[], bool]) -> None:
        """is_alone: whether no other request is being answered, so that there is nothing to wait for."""
        self._is_alone = is_alone
        self._waiting: list[_Waiting] = []

    async def log_probs(self, predictor: Predictor, texts: list[str]) -> Float32:
        """The log-probabilities [N, K] of a request's texts; raises what `Predictor.log_probs` does."""
        if self._is_alone() or len(texts) > MAX_TEXTS // 2:
            return predictor.log_probs(texts)
        loop = asyncio.get_running_loop()
        if not self._waiting:
            # Behind the requests that have been read in this turn: they are asked for theirs first.
            loop.call_soon(self._classify)
        found: asyncio.Future[Float32] = loop.create_future()
        self._waiting.append(_Waiting(predictor, texts, found))
        return await found

    def _classify(self) -> None:
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
        _answer(some)


def _answer(some: list[_Waiting]) -> None:
    """Classifies the texts of some requests at once, or, where that fails, apart: each has its own error."""
    try:
        log_probs = some[0].predictor.log_probs([text for each in some for text in each.texts])
    except Exception as error:  # noqa: BLE001 - raised again where the request is answered
        if len(some) > 1:
            for each in some:
                _answer([each])
        elif not some[0].found.done():
            some[0].found.set_exception(error)
        return
    start = 0
    for each in some:
        end = start + len(each.texts)
        if not each.found.done():  # its request may have been cancelled
            each.found.set_result(log_probs[start:end])
        start = end
