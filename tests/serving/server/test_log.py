"""The server's log: whole lines, for people and for machines, and never in a request's way."""

import errno
import io
import json
import os
import re
import threading
import time
from datetime import UTC, datetime
from typing import Any

import pytest

from serving.server import log as log_module
from serving.server.log import MAX_WAITING, WRITE_BYTES, Access, Log


def access(**changes: Any) -> Access:
    fields: dict[str, Any] = {
        "timestamp": datetime.fromtimestamp(0, UTC),
        "method": "POST",
        "path": "/v2/models/m/infer",
        "status": 200,
        "seconds": 0.0001234567,
        "texts": 3,
        "received": 99,
        "client": "192.0.2.1",
    }
    return Access(**{**fields, **changes})


def test_a_request_is_one_json_object_a_line() -> None:
    """If it failed, log collectors could not read the log."""
    stream = io.StringIO()
    log = Log(stream, for_people=False)
    log.start()
    log.access(access())
    log.access(access(path='/"\n'))
    log.close()
    first, second = map(json.loads, stream.getvalue().splitlines())
    assert first == {
        "timestamp": "1970-01-01T00:00:00Z",
        "level": "info",
        "event": "request",
        "method": "POST",
        "path": "/v2/models/m/infer",
        "status": 200,
        "seconds": 0.0001234567,
        "texts": 3,
        "received": 99,
        "client": "192.0.2.1",
    }
    assert second["path"] == '/"\n'


def test_an_event_is_written_at_once_before_the_thread_runs() -> None:
    """If it failed, what ends a server before it runs would leave no line."""
    stream = io.StringIO()
    Log(stream, for_people=False).event("failed", "error", reason="é")
    found = json.loads(stream.getvalue())
    assert (found["level"], found["event"], found["reason"]) == ("error", "failed", "é")


def test_people_get_a_short_line() -> None:
    """If it failed, a person at a terminal would read JSON."""
    stream = io.StringIO()
    log = Log(stream, for_people=True)
    log.event("bundle_refused", "error", reason="cut")
    log.access(access())
    log.start()
    log.close()
    event, request = stream.getvalue().splitlines()
    assert re.fullmatch(r"\d\d:\d\d:\d\d \[error\] bundle_refused reason=cut", event)
    assert request.endswith("POST /v2/models/m/infer 200  3 texts, 0.12 ms, 192.0.2.1")


def test_requests_can_be_left_out_and_events_cannot() -> None:
    """If it failed, BOW_SERVE_ACCESS_LOG would do nothing, or too much."""
    stream = io.StringIO()
    log = Log(stream, for_people=False, with_access=False)
    log.start()
    log.access(access())
    log.event("ended")
    log.close()
    (line,) = stream.getvalue().splitlines()
    assert json.loads(line)["event"] == "ended"


def test_nothing_that_is_logged_begins_a_line_of_its_own_or_speaks_to_the_terminal() -> None:
    """If it failed, whoever sends a request could write what they like into the log."""
    stream = io.StringIO()
    log = Log(stream, for_people=True)
    log.start()
    log.access(access(path="/x\n12:00:00 bundle_served\x1b[2J"))
    log.event("bundle_refused", reason="a\rb\x9b")
    log.close()
    assert len(stream.getvalue().splitlines()) == 2
    assert "".join(stream.getvalue().splitlines()).isprintable()


@pytest.mark.parametrize("for_people", [True, False])
def test_a_name_that_is_not_utf8_does_not_end_the_log(for_people: bool) -> None:
    """If it failed, a bundle under such a name would be the last that the log tells of."""
    stream = io.StringIO()
    log = Log(stream, for_people=for_people)
    log.start()
    log.event("bundle_served", source="models/\udcff")
    log.event("ended")
    log.close()
    first, last = stream.getvalue().splitlines()
    assert "models/\\" in first
    assert "ended" in last


def test_people_get_the_traceback_of_a_bug_in_lines() -> None:
    """If it failed, what to report would be one long line."""
    stream = io.StringIO()
    Log(stream, for_people=True).event("bug", "error", path="/", traceback="Traceback:\n  File\n")
    assert stream.getvalue().splitlines()[1:] == ["Traceback:", "  File"]


class Pieces(io.StringIO):
    """Remembers what is written at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.pieces: list[str] = []

    def write(self, text: str) -> int:
        self.pieces.append(text)
        return len(text)


def test_lines_are_written_whole_in_pieces_that_a_pipe_does_not_mix() -> None:
    """If it failed, the lines of two workers would stand within each other."""
    stream = Pieces()
    log = Log(stream, for_people=False)
    for number in range(100):
        log.access(access(texts=number, path="/é東京" * 40))
    log.start()
    log.close()
    assert all(
        piece.endswith("\n") and len(piece.encode()) <= WRITE_BYTES for piece in stream.pieces if piece
    )
    assert [json.loads(line)["texts"] for line in "".join(stream.pieces).splitlines()] == list(range(100))


class Failing(io.StringIO):
    """A stream that takes nothing while an error is set."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.error: OSError | None = OSError(number, os.strerror(number))
        self.refused = 0

    def write(self, text: str) -> int:
        if self.error is not None:
            self.refused += 1
            raise self.error
        return super().write(text)


@pytest.mark.parametrize("number", [errno.EPIPE, errno.ENOSPC])
def test_a_log_that_nobody_takes_stops_nothing(number: int) -> None:
    """If it failed, a full disk under a log would end the server."""
    stream = Failing(number)
    log = Log(stream, for_people=False)
    log.event("listening")
    log.start()
    log.access(access())
    deadline = time.monotonic() + 10
    while stream.refused < 2 and time.monotonic() < deadline:
        time.sleep(0.02)
    assert stream.refused == 2
    stream.error = None
    log.event("ended")
    log.close()
    assert json.loads(stream.getvalue())["event"] == "ended"


def test_lines_that_are_not_taken_are_dropped_and_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it failed, a log that is read too slowly would fill the memory."""
    monkeypatch.setattr("serving.server.log.MAX_WAITING", 10)
    assert MAX_WAITING > 10
    stream = io.StringIO()
    log = Log(stream, for_people=False)
    for _ in range(15):
        log.access(access())
    log.start()
    log.close()
    found = [json.loads(line) for line in stream.getvalue().splitlines()]
    assert len([line for line in found if line["event"] == "request"]) == 10
    assert [line["lines"] for line in found if line["event"] == "lines_dropped"] == [5]


def test_the_thread_writes_without_being_closed() -> None:
    """If it failed, a running server's log would be empty."""
    stream = io.StringIO()
    log = Log(stream, for_people=False)
    log.start()
    log.access(access())
    deadline = time.monotonic() + 10
    while not stream.getvalue() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert "request" in stream.getvalue()
    log.close()


class Pipe(io.StringIO):
    """A pipe that is full until it may be written to."""

    def __init__(self) -> None:
        super().__init__()
        self.is_read = threading.Event()

    def write(self, text: str) -> int:
        self.is_read.wait(10)
        return super().write(text)


def test_a_reader_that_has_stopped_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it failed, a server whose log nobody reads would never end."""
    monkeypatch.setattr(log_module, "LAST_SECONDS", 0.02)
    pipe = Pipe()
    log = Log(pipe, for_people=False)
    log.start()
    log.access(access())
    begin = time.monotonic()
    assert not log.close()
    assert time.monotonic() - begin < 5
    pipe.is_read.set()
    assert log.close()
    assert len(pipe.getvalue().splitlines()) == 1


def test_a_slow_reader_gets_all_lines(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it failed, the last lines before the end would be lost where the log is long."""
    monkeypatch.setattr(log_module, "LAST_SECONDS", 0.2)

    class Slow(Pipe):
        def write(self, text: str) -> int:
            time.sleep(0.05)
            return io.StringIO.write(self, text)

    pipe = Slow()
    log = Log(pipe, for_people=False)
    log.start()
    for _ in range(500):
        log.access(access())
    assert log.close()
    assert len(pipe.getvalue().splitlines()) == 500
