"""Requests that are malformed, lie about their length, come too slowly or not to their end."""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from serving.predictor import Predictor
from tests.answer import Answer
from tests.system.malformed import (
    MAX_REQUEST_BYTES,
    MAX_TEXT_BYTES,
    MAX_TEXTS,
    draw_request,
    draw_stream,
)
from tests.system.server import INFER, Client, Server, call, log_probs_of, request, running

pytestmark = pytest.mark.system

REQUESTS, STREAMS, CUTS = 7_000, 1_500, 1_500
CLIENTS = 16
REQUEST_SECONDS = 1.0
MAX_GROWTH = 24 << 20
"""Of the server's memory, which rises and falls with the largest requests at one time."""

TEXTS = ["me gusta comer", "日本語 の 本", "", "👍🏽 lost at sea"]
GOOD = request(INFER, call(TEXTS))


class Abused:
    """A server under test, and what it should answer to `GOOD`."""

    def __init__(self, server: Server, predictor: Predictor) -> None:
        self.server = server
        self._expected = predictor.log_probs(TEXTS)

    async def connect(self) -> Client:
        return await Client.connect(self.server.port)

    async def is_well(self, client: Client) -> None:
        self.answers_well(await client.ask(GOOD))

    def answers_well(self, answer: Answer | None, name: str = "") -> None:
        assert answer is not None, name
        assert answer.status == 200, (name, answer)
        found = np.array(log_probs_of(answer), dtype=np.float32).reshape(self._expected.shape)
        np.testing.assert_array_equal(found, self._expected)


@pytest.fixture(scope="module", params=[1, 2], ids=["1 worker", "2 workers"])
def abused(
    request: pytest.FixtureRequest, bundle: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Abused]:
    limits = {
        "max_texts": MAX_TEXTS,
        "max_text_bytes": MAX_TEXT_BYTES,
        "max_request_bytes": MAX_REQUEST_BYTES,
        "request_seconds": REQUEST_SECONDS,
    }
    folder = tmp_path_factory.mktemp("abused")
    with running(bundle, folder, workers=request.param, **limits) as server:
        workers = server.workers()
        yield Abused(server, Predictor.load(bundle))
        assert server.workers() == workers, "a worker died"
        assert {event["event"] for event in server.events()} == {"listening", "bundle_served"}
        metrics = server.ask("/metrics").body.decode()
        assert 'status="400"' in metrics
        assert 'status="5' not in metrics
        assert server.end() == 0


def together(number: int, work: Callable[[int], Awaitable[None]], clients: int = CLIENTS) -> None:
    """Does pieces of work by their numbers, some at a time; none may take long."""

    async def client(numbers: Iterator[int]) -> None:
        for each in numbers:
            await asyncio.wait_for(work(each), 10)

    async def all_of_them() -> None:
        numbers = iter(range(number))
        await asyncio.gather(*(client(numbers) for _ in range(clients)))

    asyncio.run(all_of_them())


def abuse(abused: Abused, requests: int, streams: int, cuts: int, seed: int) -> Counter[int]:
    """Returns how often each status was answered."""
    statuses: Counter[int] = Counter()

    async def readable(number: int) -> None:
        """Some requests on one connection, or all at once, with good ones between."""
        generator = random.Random(seed * 1_000_003 + number)
        drawn = [draw_request(generator) for _ in range(10)]
        async with await abused.connect() as client:
            if number % 8 == 0:  # pipelined
                client.writer.write(b"".join(content for _, content in drawn))
            for kind, content in drawn:
                if number % 8:
                    client.writer.write(content)
                answer = await client.answer()
                assert answer is not None, (kind, content[:1000])
                assert 400 <= answer.status < 500, (kind, answer, content[:1000])
                if not content.startswith(b"HEAD"):
                    assert list(answer.json) == ["error"], (kind, answer)
                assert len(answer.body) < 10_000, (kind, answer)
                statuses[answer.status] += 1
            await abused.is_well(client)

    async def unreadable(number: int) -> None:
        """What cannot be read, alone or behind a good request."""
        generator = random.Random(seed * 1_000_033 + number)
        kind, content = draw_stream(generator)
        async with await abused.connect() as client:
            if number % 4 == 0:
                client.writer.write(GOOD + content)
                answer = await client.answer()
                assert answer is not None, kind
                assert answer.status == 200, (kind, answer)
            elif number % 4 == 1:
                await abused.is_well(client)
                client.writer.write(content)
            else:
                client.writer.write(content)
            try:
                answer = await client.answer()
            except ConnectionError:
                return  # it was still being sent
            if answer is not None:
                assert 400 <= answer.status < 500, (kind, content[:1000], answer)
                assert list(answer.json) == ["error"], (kind, answer)
                assert await client.is_closed(), (kind, content[:1000])
                statuses[answer.status] += 1

    async def cut(number: int) -> None:
        """A request that ends too early, by one who waits for an answer, leaves, or breaks off."""
        generator = random.Random(seed * 1_000_037 + number)
        content = generator.choice([GOOD, draw_request(generator)[1]])
        content = content[: generator.randrange(1, len(content))]
        async with await abused.connect() as client:
            client.writer.write(content)
            if generator.random() < 0.3:
                await asyncio.sleep(generator.random() * 0.02)
            match number % 3:
                case 0:
                    client.writer.write_eof()
                    answer = await client.answer()
                    if answer is not None:
                        assert 400 <= answer.status < 500, (content[:1000], answer)
                        statuses[answer.status] += 1
                case 1:
                    client.reset()

    together(requests // 10, readable)
    together(streams, unreadable)
    together(cuts, cut)
    return statuses


def test_malformed_requests_are_refused_and_leave_nothing_behind(abused: Abused) -> None:
    """If it failed, anybody could end the server, fill its memory, or make it answer wrongly."""
    # At first it rises to what so many refused connections, which linger for a second, take at a time.
    abuse(abused, REQUESTS // 10, STREAMS, CUTS // 2, seed=1)
    before = abused.server.resident_bytes()
    statuses = abuse(abused, REQUESTS, STREAMS, CUTS, seed=2)
    grown = abused.server.resident_bytes() - before
    print(f"{dict(statuses)}; memory grew by {grown / 2**20:.1f} MiB from {before / 2**20:.1f}")
    assert set(statuses) == {400, 404, 405, 413, 415, 431}
    assert grown < MAX_GROWTH


def test_slow_senders_are_ended(abused: Abused) -> None:
    """If it failed, a few clients that send a byte now and then would hold every connection."""
    beginnings = [
        (b"", None),
        (b"GET /", 408),
        (GOOD[:50], 408),
        (GOOD[:-40], 408),
        (request("/none", None, f"content-length: {1 << 40}", method="POST"), 404),
        (request(INFER, None, f"content-length: {1 << 40}", method="POST"), 413),
        (request(INFER, None, "transfer-encoding: chunked", method="POST"), 408),
        (request(INFER, None, "transfer-encoding: chunked", method="POST") + b"2\r\n{}\r\n0\r\nx: ", 408),
    ]

    async def slow(number: int) -> None:
        beginning, status = beginnings[number % len(beginnings)]
        start = asyncio.get_running_loop().time()
        async with await abused.connect() as client:
            client.writer.write(beginning)

            async def send_on() -> None:
                while beginning:
                    await asyncio.sleep(0.1)
                    client.writer.write(b"1")

            sending = asyncio.create_task(send_on())
            answer = await client.answer()
            assert (answer and answer.status) == status, (beginning, answer)
            assert await client.is_closed(), beginning
            sending.cancel()
        assert asyncio.get_running_loop().time() - start < REQUEST_SECONDS + 3

    together(8 * len(beginnings), slow, clients=8 * len(beginnings))


async def send_for_ever(client: Client, content: bytes, pause: float = 0.0) -> None:
    while True:
        client.writer.write(content)
        await client.writer.drain()
        await asyncio.sleep(pause)


def test_clients_that_do_not_take_their_answers_are_ended(abused: Abused) -> None:
    """If it failed, clients that never read would fill the server's memory with answers."""

    async def deaf(number: int) -> None:
        async with await abused.connect() as client:
            client.writer.transport.pause_reading()  # type: ignore[attr-defined]
            with pytest.raises(ConnectionError):
                await send_for_ever(client, request("/openapi.json") * 50, pause=0.01)

    before = abused.server.resident_bytes()
    together(8, deaf, clients=8)
    assert abused.server.resident_bytes() - before < MAX_GROWTH


def test_a_flood_of_pipelined_requests_does_not_pile_up(abused: Abused) -> None:
    """If it failed, one connection could make the server keep requests until its memory is full."""

    async def flood(number: int) -> None:
        async with await abused.connect() as client:
            answers = 0

            async def read() -> None:
                nonlocal answers
                with contextlib.suppress(ConnectionError):
                    while await client.answer():
                        answers += 1

            reading = asyncio.create_task(read())
            with pytest.raises(ConnectionError):
                await send_for_ever(client, request("/v2") * 2000)
            await reading
            assert answers

    before = abused.server.resident_bytes()
    together(8, flood, clients=8)
    assert abused.server.resident_bytes() - before < MAX_GROWTH


def test_unusual_requests_that_are_well_formed_are_answered(abused: Abused) -> None:
    """If it failed, clients would be refused that do what HTTP lets them do."""
    body = call(TEXTS)
    upgrade = ["connection: upgrade, http2-settings", "upgrade: h2c", "http2-settings: AAMAAABkAAQAAP__"]
    chunks = b"".join(b"1\r\n%c\r\n" % byte for byte in body) + b"0\r\nx-checksum: 1\r\n\r\n"
    unusual = {
        "upgrade": request(INFER, body, *upgrade),
        "expect": request(INFER, body, "expect: 100-continue"),
        "one byte a chunk": request(INFER, None, "transfer-encoding: chunked", method="POST") + chunks,
        "empty lines before": b"\r\n\r\n" + GOOD,
        "many headers": request(INFER, body, *(f"x-{number}: {'y' * 90}" for number in range(500))),
        "absolute": GOOD.replace(b"POST /", b"POST http://there/"),
        "escaped": GOOD.replace(b"/infer", b"/%69nfer"),
        "odd query": GOOD.replace(b"/infer", b'/infer?\\"<>'),
    }

    async def in_pieces(name: str, size: int) -> None:
        async with await abused.connect() as client:
            for _ in range(2):
                content = unusual[name]
                for place in range(0, len(content), size):
                    client.writer.write(content[place : place + size])
                    if size < len(content):
                        await asyncio.sleep(0)
                abused.answers_well(await client.answer(), name)
            # All of it at once, and no more to come.
            client.writer.write(unusual[name] * 20)
            client.writer.write_eof()
            for _ in range(20):
                abused.answers_well(await client.answer(), name)
            assert await client.is_closed()

    names = [(name, size) for name in unusual for size in (1 << 20, 100, 7)]
    together(len(names), lambda number: in_pieces(*names[number]))


def test_a_large_request_of_a_client_that_sends_no_more_is_answered(abused: Abused) -> None:
    """If it failed, clients that close their side after the request would get nothing."""

    async def large(number: int) -> None:
        async with await abused.connect() as client:
            client.writer.write(request(INFER, call(["me gusta " * 1_000] * 8)))
            client.writer.write_eof()
            answer = await client.answer()
            assert answer is not None
            assert answer.status == 200
            assert await client.is_closed()

    together(20, large)
