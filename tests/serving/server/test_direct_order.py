"""Predictions asked for in one piece: in order, none lost, and none after the end."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from serving.answer import Answer, answer_of
from serving.server.accounts import Accounts
from serving.server.direct_connection import DirectConnection
from serving.server.log import Access
from tests.serving.server.direct_case import Case, counts, get, in_a_loop, post
from tests.serving.server.server import Server, request

ONE, TWO, LIVE = post(request("w1", id="1")), post(request("w2", id="2")), get("/v2/health/live")
NUL = post(request("a\0b"))
ENCODED = post(request("w1"), "Content-Encoding: gzip")
LAST = post(request("w1"), "Connection: close")


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (ONE + TWO, [200, 200]),
        (ONE + LIVE + TWO, [200, 200, 200]),
        (LIVE + ONE + LIVE, [200, 200, 200]),
        (NUL + ONE, [400, 200]),
        (ONE + ENCODED + TWO, [200, 415, 200]),
        (LAST + ONE, [200]),
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


def test_the_only_connections_request_is_answered_at_once(server: Server) -> None:
    """If it failed, a client would wait for requests that nobody can send."""

    async def test(case: Case) -> None:
        alone = Case(case.server, is_alone=True)
        with alone.transport.socket, alone.transport.client:
            alone.gets(ONE)
            assert alone.transport.written.startswith(b"HTTP/1.1 200 OK")
            # But where others wait they are classified together.
            case.gets(ONE)
            alone.gets(TWO)
            assert not case.transport.written
            assert await alone.statuses() == [200, 200]
            assert await case.statuses() == [200]

    in_a_loop(server, test)


@pytest.mark.parametrize("pieces", [[ONE], [ONE[:5], ONE[5:]]])
def test_a_request_that_has_come_is_not_too_slow(server: Server, pieces: list[bytes]) -> None:
    """If it failed, a connection would be closed soon after its first request, under the next one maybe."""

    async def test(case: Case) -> None:
        for piece in pieces:
            case.gets(piece)
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
        assert not case.transport.is_closed  # what is still sent is taken, or the answer may be lost
        assert case.transport.is_reading_now

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


def test_an_answer_that_cannot_be_made_takes_no_other_with_it(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it failed, a mistake of ours in one answer would cost all that were classified with it."""
    broken = iter([True])

    def once(*given: Any) -> Answer:
        if next(broken, False):
            raise OSError("no more memory")
        return answer_of(*given)

    monkeypatch.setattr("serving.server.direct.answer_of", once)

    async def test(case: Case) -> None:
        beside = Case(case.server)
        with beside.transport.socket, beside.transport.client:
            case.gets(ONE)
            beside.gets(TWO)
            assert await case.statuses() == [500]
            assert await beside.statuses() == [200]

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
