"""Requests that wait at the same moment are classified together.

The model takes about as long for eight short texts as for one: most of that is its steps, not the texts. And
of many texts, those of like length can be taken together, so that none is padded to another one's length.
"""

import asyncio
from collections.abc import Callable
from typing import NamedTuple

from serving.answer import Scored
from serving.predictor import Predictor

MAX_BYTES = 32 << 10
"""Of requests that are classified at a time: more take as long together as apart, and the first one's client
would wait for the last one's texts."""
Found = Callable[[Scored], Callable[[], None]]
"""Takes what the model says of a request's texts, and returns what is to be called to send the answer."""


class _Waiting(NamedTuple):
    predictor: Predictor
    texts: list[str]
    size: int
    found: Found
    failed: Callable[[Exception], None]


class Batch:
    """What waits to be classified in this turn of the event loop."""

    def __init__(self) -> None:
        self._waiting: list[_Waiting] = []

    def add(
        self,
        predictor: Predictor,
        texts: list[str],
        size: int,
        found: Found,
        failed: Callable[[Exception], None],
        *,
        is_alone: bool = False,
    ) -> None:
        """Calls one of two functions in the event loop's next turn at the latest; neither raises anything.

        size: bytes of the request, as a measure of how long its texts take.
        found: with what the model says of a request's texts.
        failed: with what `Predictor.log_probs` raises for them.
        is_alone: whether no other request can come in this turn.
        """
        request = _Waiting(predictor, texts, size, found, failed)
        if is_alone and not self._waiting:
            _answer([request])
            return
        if not self._waiting:
            # Behind the requests that are read in this turn: they are asked for theirs first.
            asyncio.get_running_loop().call_soon(self.flush)
        self._waiting.append(request)

    async def scored(self, predictor: Predictor, texts: list[str], size: int) -> Scored:
        """What the model says of the texts of a request of so many bytes.

        Raises what `Predictor.log_probs` does.
        """
        waits: asyncio.Future[Scored] = asyncio.get_running_loop().create_future()

        def found(scored: Scored) -> Callable[[], None]:
            def give() -> None:
                if not waits.done():  # its request may have been cancelled
                    waits.set_result(scored)

            return give

        def failed(error: Exception) -> None:
            if not waits.done():
                waits.set_exception(error)

        self.add(predictor, texts, size, found, failed)
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
            if some and (size + each.size > MAX_BYTES or each.predictor is not some[0].predictor):
                _answer(some)
                some, size = [], 0
            some.append(each)
            size += each.size
        if some:
            _answer(some)


def _answer(some: list[_Waiting]) -> None:
    """Classifies the texts of some requests at once, or, where that fails, apart: each has its own error."""
    try:
        texts = [text for each in some for text in each.texts]
        log_probs, best = Scored.of(some[0].predictor.log_probs(texts))
    except Exception as error:  # noqa: BLE001 - handed to whom the request is answered by
        if len(some) > 1:
            for each in some:
                _answer([each])
        else:
            some[0].failed(error)
        return
    sends = []
    start = 0
    for each in some:
        end = start + len(each.texts)
        sends.append(each.found(Scored(log_probs[start:end], best[start:end])))
        start = end
    # Behind all of them: in turns, what makes answers and the system, which sends them, would push each other
    # out of the processor's cache, a twentieth of the whole time.
    for send in sends:
        send()
