"""`Batch`: requests that wait together get what each would get alone."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from serving.answer import Scored
from serving.errors import DataError
from serving.predictor import Predictor
from serving.server.batch import MAX_BYTES, Batch
from serving.session import Float32
from tests.serving.conftest import WORDS


@pytest.fixture(scope="module")
def predictor(trained: Path) -> Predictor:
    return Predictor.load(trained)


@pytest.fixture
def sizes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many texts the model was given at a time."""
    found: list[int] = []
    ask = Predictor.log_probs

    def counted(self: Predictor, texts: list[str]) -> Float32:
        found.append(len(texts))
        return ask(self, texts)

    monkeypatch.setattr(Predictor, "log_probs", counted)
    return found


def together(requests: list[tuple[Predictor, list[str]]], size: int = 100) -> list[Float32 | BaseException]:
    """What each of some requests, of `size` bytes, gets that come in one turn of the event loop."""

    async def run() -> list[Float32 | BaseException]:
        batch = Batch()
        asked = [_log_probs(batch, predictor, texts, size) for predictor, texts in requests]
        return await asyncio.gather(*asked, return_exceptions=True)

    return asyncio.run(run())


async def _log_probs(batch: Batch, predictor: Predictor, texts: list[str], size: int) -> Float32:
    found, best = await batch.scored(predictor, texts, size)
    assert best == found.argmax(axis=1).tolist()
    return found


def test_each_request_gets_its_own_rows_to_the_last_bit(predictor: Predictor, sizes: list[int]) -> None:
    """If it failed, a client would get another's answer, or one that hangs on who else asked."""
    requests = [
        [f"{WORDS[(row * 7 + number) % 303]} {WORDS[row]} unknown" for number in range(row % 4)]
        for row in range(20)
    ]
    expected = [predictor.log_probs(texts) for texts in requests]
    sizes.clear()
    found = together([(predictor, texts) for texts in requests])
    assert sizes == [sum(map(len, requests))]
    for own, theirs in zip(found, expected, strict=True):
        assert isinstance(own, np.ndarray)
        assert own.shape == theirs.shape
        assert (own == theirs).all()


def test_what_waits_can_be_asked_for_at_once(predictor: Predictor, sizes: list[int]) -> None:
    """If it failed, a connection's second answer could go before its first."""

    async def run() -> list[Float32]:
        batch, found = Batch(), list[Float32]()

        def take(scored: Scored) -> Callable[[], None]:
            return lambda: found.append(scored.log_probs)

        batch.add(predictor, ["w1"], 100, take, pytest.fail)
        assert not found
        batch.flush()
        assert sizes == [1]
        batch.add(predictor, ["w2"], 100, take, pytest.fail)
        await asyncio.sleep(0)
        assert sizes == [1, 1]
        return found

    first, second = asyncio.run(run())
    assert (first == predictor.log_probs(["w1"])).all()
    assert (second == predictor.log_probs(["w2"])).all()


def test_a_bad_text_spoils_its_own_request_alone(predictor: Predictor) -> None:
    """If it failed, one client's mistake would be every client's error."""
    first, bad, last = together([(predictor, ["w1"]), (predictor, ["w2", "\0"]), (predictor, ["w3"])])
    assert isinstance(bad, DataError)
    assert "text 1: holds a NUL" in str(bad)
    assert isinstance(first, np.ndarray)
    assert (first == predictor.log_probs(["w1"])).all()
    assert isinstance(last, np.ndarray)
    assert (last == predictor.log_probs(["w3"])).all()


def test_requests_to_two_bundles_are_not_mixed(predictor: Predictor, tutorial: Path) -> None:
    """If it failed, a reload would answer some requests by a bundle that their answers do not name."""
    other = Predictor.load(tutorial)
    found = together([(predictor, ["w1"]), (other, ["creo"]), (predictor, ["w2"])])
    shapes = [each.shape for each in found if isinstance(each, np.ndarray)]
    assert shapes == [(1, 5), (1, 2), (1, 5)]


def test_what_is_classified_at_a_time_is_bounded(predictor: Predictor, sizes: list[int]) -> None:
    """If it failed, many requests at once would hold all others up for as long as they take together."""
    requests = [(predictor, ["w1"] * 5) for _ in range(10)]
    together(requests, MAX_BYTES // 3)
    assert sizes == [15, 15, 15, 5]
    sizes.clear()
    together(requests[:3], MAX_BYTES + 1)
    assert sizes == [5, 5, 5]


def test_all_answers_are_made_before_the_first_is_sent(predictor: Predictor) -> None:
    """If it failed, answers would be made and sent in turns, which takes a twentieth longer."""

    async def run() -> list[str]:
        batch, done = Batch(), list[str]()

        def take(scored: Scored) -> Callable[[], None]:
            done.append("made")
            return lambda: done.append("sent")

        for _ in range(2):
            batch.add(predictor, ["w1"], 100, take, pytest.fail)
        batch.flush()
        return done

    assert asyncio.run(run()) == ["made", "made", "sent", "sent"]


def test_a_request_that_was_cancelled_takes_nothing_from_others(predictor: Predictor) -> None:
    """If it failed, a client that leaves would cost others their answers."""

    async def run() -> tuple[bool, Float32]:
        batch = Batch()
        left = asyncio.ensure_future(_log_probs(batch, predictor, ["w1"], 100))
        stays = asyncio.ensure_future(_log_probs(batch, predictor, ["w2"], 100))
        await asyncio.sleep(0)
        left.cancel()
        return left.cancelled(), await stays

    _, found = asyncio.run(run())
    assert (found == predictor.log_probs(["w2"])).all()
