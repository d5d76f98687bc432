"""A connection's order: what is answered, in whose turn, and what ends it."""

import asyncio
import time
from collections.abc import Awaitable, Callable

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.server import ServerState

from serving.server import connection
from serving.server.connection import MAX_WAITING, QUIET_LOOKS, Connection
from tests.serving.server.transport import Transport

GET = b"GET /%s HTTP/1.1\r\n\r\n"
POST = b"POST /%s HTTP/1.1\r\ncontent-length: 3\r\n\r\nabc"
CHUNKED = b"POST /%s HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n"
UPGRADE = b"POST /%s HTTP/1.1\r\nconnection: upgrade\r\nupgrade: h2c\r\ncontent-length: 3\r\n\r\nabc"


class Case:
    """A connection to an application that answers each request with its path and body, once it may."""

    def __init__(self, request_seconds: float = 10.0) -> None:
        self.transport = Transport()
        self.refused: list[int] = []
        self.may_answer = asyncio.Event()
        self.may_answer.set()
        config = uvicorn.Config(self._app, interface="asgi3", ws="none", lifespan="off", log_config=None)
        fields = {"request_seconds": request_seconds, "refused": staticmethod(self.refused.append)}
        kind = type("LimitedConnection", (Connection,), fields)
        self.connection = kind(config=config, server_state=ServerState(), app_state={})
        self.connection.connection_made(self.transport)

    async def _app(self, scope: Scope, receive: Receive, send: Send) -> None:
        body, has_more = b"", not scope["path"].startswith("/early")
        while has_more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return
            body += message["body"]
            has_more = message["more_body"]
        await self.may_answer.wait()
        content = scope["path"].encode() + body
        headers = [(b"content-length", str(len(content)).encode())]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": content})

    def gets(self, data: bytes) -> None:
        self.connection.data_received(data)

    async def answers(self) -> list[bytes]:
        """The status of each answer so far, and the end of its body."""
        self.may_answer.set()
        for _ in range(20 * MAX_WAITING):
            await asyncio.sleep(0)
        return [
            answer[:3] + b" " + answer[-4:].strip()
            for answer in self.transport.written.split(b"HTTP/1.1 ")[1:]
        ]


def in_a_loop(test: Callable[[Case], Awaitable[None]], request_seconds: float = 10.0) -> None:
    async def run() -> None:
        case = Case(request_seconds)
        with case.transport.socket, case.transport.client:
            await test(case)
            assert not case.transport.written_late
        case.connection.connection_lost(None)

    asyncio.run(run())


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\0\0\0", [b'400 se"}']),
        (GET % b"1", [b"200 /1"]),
        (GET % b"1" + POST % b"2", [b"200 /1", b"200 2abc"]),
        (GET % b"1" + b"\0", [b"200 /1"]),
        (CHUNKED % b"1" + b"z\r\n", [b'400 se"}']),
        (GET % b"1" + CHUNKED % b"2" + b"z\r\n", [b"200 /1", b'400 se"}']),
        (GET % b"1" + POST % b"2" + CHUNKED % b"3" + b"z\r\n", [b"200 /1", b"200 2abc", b'400 se"}']),
        (b"CONNECT there:80 HTTP/1.1\r\n\r\n", [b'400 se"}']),
    ],
)
@pytest.mark.parametrize("size", [1, 7, 1000])
def test_what_cannot_be_read_is_answered_in_its_turn(data: bytes, expected: list[bytes], size: int) -> None:
    """If it failed, good requests would get the answer to a bad one behind them, or none."""

    async def test(case: Case) -> None:
        case.may_answer.clear()
        for place in range(0, len(data), size):
            case.gets(data[place : place + size])
            await asyncio.sleep(0)
        assert await case.answers() == expected
        is_bad = b"\0" in data or b"z\r\n" in data or b"CONNECT" in data
        assert case.transport.has_ended == is_bad
        assert case.transport.is_closed or case.transport.is_reading_now  # what is still sent is taken
        assert case.refused == [400] * (expected[-1][:3] == b"400")

    in_a_loop(test)


@pytest.mark.parametrize("size", [1, 7, 1000])
def test_the_offer_of_another_protocol_is_ignored(size: int) -> None:
    """If it failed, Java's client for one would lose its first request's body, and wait for ever."""

    async def test(case: Case) -> None:
        data = UPGRADE % b"1" + GET % b"2" + UPGRADE % b"3" + POST % b"4"
        for place in range(0, len(data), size):
            case.gets(data[place : place + size])
        assert await case.answers() == [b"200 1abc", b"200 /2", b"200 3abc", b"200 4abc"]
        assert not case.transport.has_ended

    in_a_loop(test)


@pytest.mark.parametrize(("version", "expected"), [(b"1.0", 0), (b"1.1", 1)])
def test_only_clients_that_know_it_are_told_to_continue(version: bytes, expected: int) -> None:
    """If it failed, a client of HTTP/1.0 would take the invitation for its answer."""

    async def test(case: Case) -> None:
        head = b"POST /1 HTTP/%s\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n"
        case.gets(head % version)
        await asyncio.sleep(0.01)
        case.gets(b"abc")
        assert (await case.answers())[-1] == b"200 1abc"
        assert case.transport.written.count(b"HTTP/1.1 100 Continue\r\n") == expected

    in_a_loop(test)


def test_an_answer_before_the_body_has_come_is_not_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it failed, the system would reset the connection, and a client that still sends get no answer."""
    monkeypatch.setattr(connection, "LINGER_SECONDS", 0.05)

    async def test(case: Case) -> None:
        case.gets(b"POST /early HTTP/1.1\r\nconnection: close\r\ncontent-length: 6\r\n\r\nabc")
        assert await case.answers() == [b"200 arly"]
        assert case.transport.has_ended
        case.gets(b"def" + GET % b"2")
        assert not case.transport.is_closed
        await asyncio.sleep(0.1)
        assert case.transport.is_closed
        assert await case.answers() == [b"200 arly"]

    in_a_loop(test)


@pytest.mark.parametrize("behind", [b"", GET % b"2", GET % b"2" + POST % b"3"])
def test_requests_behind_the_last_answer_are_taken_and_left(
    behind: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it failed, the system would reset the connection, and a client that still sends lose the answer."""
    monkeypatch.setattr(connection, "LINGER_SECONDS", 0.05)

    async def test(case: Case) -> None:
        case.may_answer.clear()
        case.gets(b"GET /1 HTTP/1.1\r\nconnection: close\r\n\r\n" + behind)
        assert await case.answers() == [b"200 /1"]
        for _ in range(3):
            assert case.transport.has_ended
            assert not case.transport.is_closed
            assert case.transport.is_reading_now
            case.gets(GET % b"4")
        await asyncio.sleep(0.1)
        assert case.transport.is_closed
        assert await case.answers() == [b"200 /1"]

    in_a_loop(test)


@pytest.mark.parametrize("behind", [b"", POST % b"2"])
def test_the_answer_to_a_client_that_has_gone_is_dropped(
    behind: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    """If it failed, a client that leaves while it is answered would put a traceback into the log."""

    async def test(case: Case) -> None:
        case.may_answer.clear()
        case.gets(POST % b"1" + behind)
        await asyncio.sleep(0)
        case.transport.abort()
        case.connection.connection_lost(ConnectionResetError())
        assert await case.answers() == []

    in_a_loop(test)
    assert caplog.messages == []


def test_a_request_that_has_begun_keeps_its_connection() -> None:
    """If it failed, the clock of idle connections would end one whose next request is being sent."""

    async def test(case: Case) -> None:
        case.may_answer.clear()
        case.gets(GET % b"1" + (GET % b"2")[:9])
        assert await case.answers() == [b"200 /1"]
        assert case.connection.timeout_keep_alive_task is None
        case.gets((GET % b"2")[9:])
        assert await case.answers() == [b"200 /1", b"200 /2"]
        assert case.connection.timeout_keep_alive_task is not None

    in_a_loop(test)


def test_a_client_may_take_its_answer_slowly_but_not_stop() -> None:
    """If it failed, slow clients would get half an answer, or one that stops hold its connection for ever."""

    async def test(case: Case) -> None:
        assert case.transport.high_water == 0  # so it is told of all that is not taken at once
        case.gets(GET % b"1")
        assert await case.answers() == [b"200 /1"]
        for _ in range(40):
            case.transport.socket.send(b"x" * 1000)  # in the system's hands
        case.connection.pause_writing()
        for _ in range(30):
            await asyncio.sleep(0.02)
            case.transport.client.recv(1000)
        assert not case.transport.is_closed
        await asyncio.sleep(0.5)
        assert case.transport.is_closed

    in_a_loop(test, request_seconds=0.2)


def test_only_so_many_requests_wait() -> None:
    """If it failed, one connection could fill the memory with requests."""

    async def test(case: Case) -> None:
        case.may_answer.clear()
        case.gets(GET % b"1" * (MAX_WAITING * 5))
        assert not case.transport.is_reading_now
        assert await case.answers() == [b"200 /1"] * (MAX_WAITING + 1)
        assert case.transport.has_ended
        assert case.transport.written.count(b"connection: close") == 1

    in_a_loop(test)


def test_a_client_that_sends_no_more_is_answered() -> None:
    """If it failed, those that close their side at once would get nothing."""

    async def test(case: Case) -> None:
        case.may_answer.clear()
        case.gets(POST % b"1" + POST % b"2")
        await asyncio.sleep(0)
        assert case.connection.eof_received()
        assert await case.answers() == [b"200 1abc", b"200 2abc"]
        assert case.transport.is_closed  # nothing can be behind them

    in_a_loop(test)


def test_at_the_end_a_connection_is_closed_when_it_has_been_quiet(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it failed, a request that was on its way would be lost, or idle connections hold the server up."""
    monkeypatch.setattr(connection, "LOOK_SECONDS", 0.01)

    async def test(case: Case) -> None:
        case.connection.shutdown()
        # The machine stands still for longer than all looks take, client and all.
        time.sleep(0.02 * QUIET_LOOKS)
        await asyncio.sleep(0.02)
        assert not case.transport.has_ended
        case.transport.client.send(b"GET")  # which the system holds, and the loop has not come to
        await asyncio.sleep(0.02 * QUIET_LOOKS)
        assert not case.transport.has_ended
        case.transport.socket.recv(3)
        case.gets(GET % b"1")
        assert await case.answers() == [b"200 /1"]
        assert b"connection: close" in case.transport.written

    in_a_loop(test)

    async def test_quiet(case: Case) -> None:
        case.connection.shutdown()
        await asyncio.sleep(0.02 * QUIET_LOOKS)
        assert case.transport.has_ended

    in_a_loop(test_quiet)


@pytest.mark.parametrize(
    ("before", "expected"),
    [
        (b"", []),
        (b"GET /", [b'408 ly"}']),
        (POST % b"1", [b"200 1abc"]),
        (POST % b"1" + b"GET /", [b"200 1abc", b'408 ly"}']),
    ],
)
def test_a_head_that_comes_too_slowly_is_ended(before: bytes, expected: list[bytes]) -> None:
    """If it failed, a few slow clients would hold all connections, or fast ones would be cut."""

    async def test(case: Case) -> None:
        case.gets(before)
        await case.answers()
        await asyncio.sleep(0.15)
        assert await case.answers() == expected
        assert case.transport.has_ended == (before != POST % b"1")

    in_a_loop(test, request_seconds=-0.9)  # a second is added
