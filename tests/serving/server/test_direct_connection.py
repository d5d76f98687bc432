"""Predictions asked for in one piece: the same answers as by the application, in order, and none lost."""

import asyncio
import json
import re
import struct
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
import uvicorn
from uvicorn.server import ServerState

from serving.predictor import Predictor
from serving.server.accounts import Accounts
from serving.server.direct_connection import DirectConnection, limited
from serving.server.infer import INLINE_CHARACTERS
from serving.server.log import Access
from serving.server.settings import server_settings
from serving.session import Float32
from tests.serving.server.server import INFER, Server, request
from tests.serving.server.transport import Transport


def post(body: bytes, *headers: str, path: str = INFER, length: bool = True) -> bytes:
    lines = [f"POST {path} HTTP/1.1", *headers, *([f"Content-Length: {len(body)}"] if length else [])]
    return "\r\n".join([*lines, "", ""]).encode() + body


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\n\r\n".encode()


def binary(*texts: str) -> tuple[bytes, str]:
    """A body with a binary tensor, and the header that it needs."""
    content = b"".join(struct.pack("<I", len(text.encode())) + text.encode() for text in texts)
    tensor = {"name": "text", "shape": [len(texts)], "datatype": "BYTES"}
    head = json.dumps({"inputs": [tensor | {"parameters": {"binary_data_size": len(content)}}]}).encode()
    return head + content, f"Inference-Header-Content-Length: {len(head)}"


class Case:
    """A connection to a real server's parts."""

    def __init__(self, server: Server, request_seconds: float = 10.0) -> None:
        self.server = server
        self.state = ServerState()
        self.transport = Transport()
        config = uvicorn.Config(server.app, interface="asgi3", ws="none", lifespan="off", log_config=None)
        kind = limited(request_seconds, server.metrics.answered, server.direct)
        self.connection = kind(config=config, server_state=self.state, app_state={})
        self.connection.connection_made(self.transport)

    def gets(self, data: bytes) -> None:
        self.connection.data_received(data)

    async def answers(self) -> list[bytes]:
        """All that was answered, once nothing is left to do."""
        for _ in range(5):
            await asyncio.sleep(0)
        while self.state.tasks:
            await asyncio.sleep(0.001)
        return [b"HTTP/1.1 " + each for each in self.transport.written.split(b"HTTP/1.1 ")[1:]]

    async def statuses(self) -> list[int]:
        return [int(each[9:12]) for each in await self.answers()]


def in_a_loop(server: Server, test: Callable[[Case], Awaitable[None]], request_seconds: float = 10.0) -> None:
    async def run() -> None:
        case = Case(server, request_seconds)
        with case.transport.socket, case.transport.client:
            await test(case)
            assert not case.transport.written_late
            case.connection.connection_lost(None)

    asyncio.run(run())


@pytest.fixture
def server(trained: Path) -> Server:
    made = Server(trained, server_settings({"BOW_SERVE_MAX_TEXTS": "3", "BOW_SERVE_MAX_TEXT_BYTES": "50"}))
    made.load()
    return made


REQUESTS = {
    "one text": post(request("w1 w2 café")),
    "no text": post(request()),
    "texts": post(request("w1", "", "w3 東京 unknown", id="7")),
    "a column": post(request("w1", "w2").replace(b"[2]", b"[2, 1]")),
    "the best two": post(request("w1", parameters={"top_k": 2})),
    "a label alone": post(request("w1", outputs=[{"name": "label"}])),
    "binary": post(*binary("w1", "w2 東京")),
    "binary out": post(request("w1", parameters={"binary_data_output": True})),
    "no JSON": post(b"{"),
    "nothing": post(b""),
    "NUL": post(request("a\0b")),
    "too many texts": post(request("a", "b", "c", "d")),
    "a long text": post(request("a" * 51)),
    "a wrong parameter": post(request("w1", parameters={"top_k": 0})),
    "a lying header": post(request("w1"), "Inference-Header-Content-Length: 9999"),
    "encoded": post(request("w1"), "Content-Encoding: gzip"),
    "the last": post(request("w1"), "Connection: close"),
    "another model": post(request("w1"), path="/v2/models/other/infer"),
    "a query": post(request("w1"), path=f"{INFER}?a=b"),
    "another method": post(request("w1")).replace(b"POST", b"PUT"),
}


NEVER_DIRECT = [REQUESTS[name] for name in ("encoded", "another model", "a query", "another method")]


@pytest.mark.parametrize("data", REQUESTS.values(), ids=REQUESTS)
@pytest.mark.parametrize("draining", [False, True])
def test_the_answer_is_that_of_the_application(server: Server, data: bytes, draining: bool) -> None:
    """If it failed, what a client gets would hang on how the network cuts its request."""
    server.service.draining = draining
    found: list[tuple[bytes, bool]] = []

    for pieces in ([data], [data[:20], data[20:]], [data[:-1], data[-1:]], [bytes([each]) for each in data]):

        async def test(case: Case, pieces: list[bytes] = pieces) -> None:
            for piece in pieces:
                case.gets(piece)
            direct = pieces == [data] and data not in NEVER_DIRECT
            assert bool(case.state.tasks) != direct
            (answer,) = await case.answers()
            head, _, body = answer.partition(b"\r\n\r\n")
            found.append((b"\r\n".join([*sorted(head.split(b"\r\n")), b"", body]), case.transport.has_ended))

        in_a_loop(server, test)
    assert found == [found[0]] * 4
    lines = [line for line in server.lines() if line["event"] == "request"]
    told = [{name: line[name] for name in line.keys() - {"timestamp", "seconds", "client"}} for line in lines]
    assert told == [told[0]] * 4


def counts(server: Server) -> dict[str, float]:
    """Prometheus' counters, but for times."""
    found = re.findall(
        r"^(bowsprit_\w+(?:total|count)\S*) (\S+)$", server.metrics.text().decode(), re.MULTILINE
    )
    return {name: float(value) for name, value in found}


@pytest.mark.parametrize("data", [REQUESTS["texts"], REQUESTS["NUL"]])
def test_the_metrics_are_those_of_the_application(trained: Path, data: bytes) -> None:
    """If it failed, the busiest path would be missing from the figures that people watch."""
    found: list[dict[str, float]] = []
    for pieces in ([data], [data[:-1], data[-1:]]):
        server = Server(trained, server_settings({}))
        server.load()

        async def test(case: Case, pieces: list[bytes] = pieces) -> None:
            for piece in pieces:
                case.gets(piece)
            await case.answers()

        in_a_loop(server, test)
        found.append(counts(server))
    assert found[0] == found[1]
    assert found[0]["bowsprit_request_seconds_count"] == 1


def test_a_request_in_one_piece_needs_no_task_and_others_do(server: Server) -> None:
    """If it failed, each short request would take half as long again."""

    async def test(case: Case) -> None:
        case.gets(REQUESTS["one text"])
        assert not case.state.tasks
        assert await case.statuses() == [200]
        assert case.state.total_requests == 1
        for other in (
            REQUESTS["one text"][:-1],
            post(request("w1", id="x" * INLINE_CHARACTERS)),
            post(
                b"%x\r\n%b\r\n0\r\n\r\n" % (len(request("w1")), request("w1")),
                "Transfer-Encoding: chunked",
                length=False,
            ),
            post(request("w1"), "Expect: 100-continue"),
            post(request("w1")).replace(b"HTTP/1.1", b"HTTP/1.0"),
        ):
            beside = Case(case.server)
            with beside.transport.socket, beside.transport.client:
                beside.gets(other)
                assert len(beside.state.tasks) == 1
                if not other.endswith(b"}"):
                    beside.gets(b"}")
                assert (await beside.statuses())[-1] == 200

    in_a_loop(server, test)


def test_requests_of_one_moment_are_classified_together(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it failed, many clients at once would wait for as many runs of the model."""
    sizes: list[int] = []
    ask = Predictor.log_probs

    def counted(self: Predictor, texts: list[str]) -> Float32:
        sizes.append(len(texts))
        return ask(self, texts)

    monkeypatch.setattr(Predictor, "log_probs", counted)

    async def test(case: Case) -> None:
        beside = Case(case.server)
        with beside.transport.socket, beside.transport.client:
            case.gets(post(request("w1")))
            beside.gets(post(request("w2", "w3")))
            assert not case.transport.written
            assert await case.statuses() == await beside.statuses() == [200]
            assert sizes == [3]

    in_a_loop(server, test)


ONE, TWO, LIVE = post(request("w1", id="1")), post(request("w2", id="2")), get("/v2/health/live")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (ONE + TWO, [200, 200]),
        (ONE + LIVE + TWO, [200, 200, 200]),
        (LIVE + ONE + LIVE, [200, 200, 200]),
        (REQUESTS["NUL"] + ONE, [400, 200]),
        (ONE + REQUESTS["encoded"] + TWO, [200, 415, 200]),
        (REQUESTS["the last"] + ONE, [200]),
    ],
)
@pytest.mark.parametrize("size", [1, 50, 10_000])
def test_answers_come_in_the_order_of_the_requests(
    server: Server, data: bytes, expected: list[int], size: int
) -> None:
    """If it failed, a client would take one request's answer for another's."""

    async def test(case: Case) -> None:
        for place in range(0, len(data), size):
            case.gets(data[place : place + size])
        answers = await case.answers()
        assert [int(each[9:12]) for each in answers] == expected
        numbers = [int(each.partition(b'"id":"')[2][:1]) for each in answers if b'"id":"' in each]
        assert numbers == sorted(numbers)

    in_a_loop(server, test)


def test_what_cannot_be_read_is_answered_behind_what_can(server: Server) -> None:
    """If it failed, a good request would get the answer to a bad one behind it."""

    async def test(case: Case) -> None:
        case.gets(ONE)
        case.gets(b"\0\0\0\0")
        assert await case.statuses() == [200, 400]
        assert case.transport.has_ended
        beside = Case(case.server)
        with beside.transport.socket, beside.transport.client:
            beside.gets(ONE + b"\0\0\0\0")
            assert await beside.statuses() == [200]
            assert beside.transport.has_ended

    in_a_loop(server, test)


def test_an_answer_is_sent_before_the_next_request_is_read(server: Server) -> None:
    """If it failed, the connection would be taken for idle while its next request is answered."""

    async def test(case: Case) -> None:
        case.gets(ONE)
        case.gets(LIVE[:5])
        assert case.transport.written.startswith(b"HTTP/1.1 200 OK")
        assert case.connection.timeout_keep_alive_task is None
        case.gets(LIVE[5:])
        assert await case.statuses() == [200, 200]

    in_a_loop(server, test)


def test_a_request_that_has_come_is_not_too_slow(server: Server) -> None:
    """If it failed, a connection would be closed soon after a request whose head came in pieces."""

    async def test(case: Case) -> None:
        case.gets(ONE[:5])
        case.gets(ONE[5:])
        await asyncio.sleep(0.05)
        assert await case.statuses() == [200]
        assert not case.transport.has_ended

    in_a_loop(server, test, request_seconds=0.01)


def test_a_client_that_sends_no_more_gets_its_answer(server: Server) -> None:
    """If it failed, those that close their side at once would get nothing."""

    async def test(case: Case) -> None:
        case.gets(ONE)
        case.connection.eof_received()
        assert await case.statuses() == [200]

    in_a_loop(server, test)


def test_the_end_of_the_server_comes_after_the_answer(server: Server) -> None:
    """If it failed, requests would be lost whenever a server is replaced."""

    async def test(case: Case) -> None:
        case.gets(ONE)
        case.connection.shutdown()
        assert await case.statuses() == [200]
        assert not case.transport.has_ended  # another may be on its way
        case.gets(TWO)
        answers = await case.answers()
        assert len(answers) == 2
        assert b"connection: close\r\n" in answers[1]
        assert case.transport.has_ended

    in_a_loop(server, test)


@pytest.mark.parametrize("pieces", [[ONE, TWO], [ONE + TWO], [ONE[:9], ONE[9:], TWO]])
def test_what_follows_the_last_answer_is_neither_answered_nor_counted(
    server: Server, pieces: list[bytes]
) -> None:
    """If it failed, a server that ends would work on answers that it can no longer send."""
    server.service.draining = True

    async def test(case: Case) -> None:
        for piece in pieces:
            case.gets(piece)
        (answer,) = await case.answers()
        assert b"connection: close\r\n" in answer
        assert case.transport.has_ended

    in_a_loop(server, test)
    assert counts(server)["bowsprit_texts_total"] == 1


def test_one_answer_that_is_lost_takes_no_other_with_it(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it failed, all who asked in the same moment would wait for ever."""
    add = Accounts.add
    broken = iter([True])

    def once(self: Accounts, line: Access, *, predicts: bool) -> None:
        if next(broken, False):
            raise OSError("no space left")
        add(self, line, predicts=predicts)

    monkeypatch.setattr(Accounts, "add", once)

    async def test(case: Case) -> None:
        beside = Case(case.server)
        with beside.transport.socket, beside.transport.client:
            case.gets(ONE)
            beside.gets(TWO)
            assert await case.statuses() == await beside.statuses() == [200]

    in_a_loop(server, test)
    assert [line["event"] for line in server.lines() if line["event"] in ("bug", "request")] == [
        "bug",
        "request",
    ]


def test_an_answer_that_was_lost_ends_its_connection(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it failed, the next answer would be taken for it."""

    async def test(case: Case) -> None:
        monkeypatch.setattr(DirectConnection, "_send", lambda *_: 1 / 0)
        case.gets(ONE)
        await asyncio.sleep(0)
        case.gets(TWO)
        assert case.transport.has_ended
        assert await case.answers() == []

    in_a_loop(server, test)


def test_a_client_that_has_left_is_counted_as_one(server: Server) -> None:
    """If it failed, a client's leaving would be an error of ours, or an answer that nobody got."""

    async def test(case: Case) -> None:
        case.gets(ONE)
        case.transport.close()
        case.connection.connection_lost(None)
        assert await case.answers() == []
        assert counts(server)['bowsprit_requests_total{status="499"}'] == 1

    asyncio.run(_without_end(server, test))


async def _without_end(server: Server, test: Callable[[Case], Awaitable[None]]) -> None:
    case = Case(server)
    with case.transport.socket, case.transport.client:
        await test(case)


def test_a_connection_stays_for_the_next_request_but_not_for_ever(server: Server) -> None:
    """If it failed, each request would need a connection, or idle ones would stay."""

    async def test(case: Case) -> None:
        for number in range(1, 4):
            case.gets(ONE)
            assert await case.statuses() == [200] * number
        assert not case.transport.has_ended
        assert case.connection.timeout_keep_alive_task is not None

    in_a_loop(server, test)


def test_a_client_that_takes_no_answers_is_left_to_the_application(server: Server) -> None:
    """If it failed, a client that only sends could fill the memory with its answers."""

    async def test(case: Case) -> None:
        case.connection.pause_writing()
        case.gets(ONE)
        assert len(case.state.tasks) == 1
        await asyncio.sleep(0.01)
        assert not case.transport.written
        case.connection.resume_writing()
        assert await case.statuses() == [200]

    in_a_loop(server, test)


def test_a_bug_is_told_as_one_and_logged(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it failed, a mistake of ours would leave a client without an answer."""
    monkeypatch.setattr("serving.server.direct.answer_of", lambda *_: 1 / 0)

    async def test(case: Case) -> None:
        case.gets(ONE)
        assert await case.statuses() == [500]

    in_a_loop(server, test)
    (line,) = (line for line in server.lines() if line["event"] == "bug")
    assert "ZeroDivisionError" in line["traceback"]
