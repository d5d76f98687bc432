"""Predictions asked for in one piece: the same answers as by the application, and the same records."""

import asyncio
from pathlib import Path

import pytest

from serving.predictor import Predictor
from serving.server.infer import INLINE_CHARACTERS
from serving.server.settings import server_settings
from serving.session import Float32
from tests.serving.server.direct_case import Case, binary, counts, in_a_loop, post
from tests.serving.server.server import INFER, Server, request

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
    "empty lines": b"\r\n\r\n" + post(request("w1")),
}


NEVER_DIRECT = [
    REQUESTS[name] for name in ("encoded", "another model", "a query", "another method", "empty lines")
]


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
            assert len(await case.answers()) == 1

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


def test_a_request_behind_empty_lines_is_answered_once_it_is_whole(server: Server) -> None:
    """If it failed, what of its body came later would be taken for the next request."""

    async def test(case: Case) -> None:
        body = request("w1").ljust(200)
        whole = post(body)
        case.gets(b"\r\n\r\n" + whole[: len(body)])
        await asyncio.sleep(0.01)
        assert not case.transport.written
        case.gets(whole[len(body) :])
        assert await case.statuses() == [200]

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
