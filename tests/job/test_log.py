import io
import json
import logging
import re
import sys
import warnings
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest
import structlog

from job.log import configure


class Terminal(io.StringIO):
    """Standard error as a terminal shows it; a pseudo-terminal would test the same `isatty`."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """Without it one test's logging would speak in the next test."""
    handlers = list(logging.getLogger().handlers)
    yield
    logging.captureWarnings(capture=False)
    logging.getLogger().handlers[:] = handlers
    structlog.reset_defaults()


def on_stream(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Makes `stream` the standard error, from within the test: pytest lays its own over a fixture's."""
    monkeypatch.setattr(sys, "stderr", stream)
    monkeypatch.delenv("NO_COLOR", raising=False)
    return stream


def test_json_lines_hold_time_level_event_and_fields(capsys: pytest.CaptureFixture[str]) -> None:
    """If it failed, a log collector could not order or filter a run's events."""
    configure("json")
    structlog.get_logger().info("epoch_ended", epoch=1, loss=0.5, path="Ünï\ncode")
    (line,) = capsys.readouterr().err.splitlines()
    event = json.loads(line)
    assert list(event) == ["timestamp", "level", "event", "epoch", "loss", "path"]
    assert event["level"] == "info"
    assert (event["event"], event["epoch"], event["loss"]) == ("epoch_ended", 1, 0.5)
    assert event["path"] == "Ünï\ncode"
    written = datetime.fromisoformat(event["timestamp"])
    assert timedelta(0) <= datetime.now(UTC) - written < timedelta(minutes=1)


def test_a_number_that_json_lacks_is_written_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    """If it failed, the very line that reports a diverged loss could not be parsed."""
    configure("json")
    structlog.get_logger().error("training_diverged", loss=float("nan"), largest=float("-inf"))
    line = capsys.readouterr().err
    assert not re.search(r"NaN|Infinity", line)
    event = json.loads(line)
    assert (event["loss"], event["largest"]) == ("nan", "-inf")


def test_auto_is_json_when_nobody_watches(capsys: pytest.CaptureFixture[str]) -> None:
    """If it failed, a container's log would not be machine-readable by default."""
    configure("auto")
    structlog.get_logger().info("started")
    assert json.loads(capsys.readouterr().err)["event"] == "started"


def test_auto_is_the_console_format_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it failed, a person at a terminal would read JSON."""
    terminal = on_stream(Terminal(), monkeypatch)
    configure("auto")
    structlog.get_logger().info("started", rows=3)
    text = re.sub(r"\x1b\[[0-9;]*m", "", terminal.getvalue())
    assert text != terminal.getvalue()
    assert re.fullmatch(r"\d\d:\d\d:\d\d started rows=3\n", text)


def test_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it failed, who asked for no colours would get escape codes."""
    terminal = on_stream(Terminal(), monkeypatch)
    monkeypatch.setenv("NO_COLOR", "1")
    configure("console")
    structlog.get_logger().warning("training_on_cpu", reason="no NVIDIA driver")
    assert terminal.getvalue()[9:] == "[warning] training_on_cpu reason='no NVIDIA driver'\n"


def test_a_file_gets_no_colours(capsys: pytest.CaptureFixture[str]) -> None:
    """If it failed, a console-format log kept in a file would be full of escape codes."""
    configure("console")
    structlog.get_logger().info("started")
    assert "\x1b" not in capsys.readouterr().err


def test_events_go_to_the_standard_error_of_the_moment(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it failed, log lines would tear a progress bar, which replaces standard error while it shows."""
    first, second = io.StringIO(), io.StringIO()
    on_stream(first, monkeypatch)
    configure("json")
    bound = structlog.get_logger().bind(run="r")
    bound.info("before")
    on_stream(second, monkeypatch)
    bound.info("after")
    assert "before" in first.getvalue()
    assert "after" not in first.getvalue()
    assert json.loads(second.getvalue())["event"] == "after"


@pytest.mark.parametrize("log_format", ["console", "json"])
def test_an_exception_is_told_without_its_local_variables(
    capsys: pytest.CaptureFixture[str], log_format: str
) -> None:
    """If it failed, a bug's traceback would be lost, or would carry secrets held in variables."""
    configure(log_format)  # type: ignore[arg-type]
    secrets = {"password": "hunter2"}
    try:
        secrets["user"]
    except KeyError:
        structlog.get_logger().exception("bug")
    written = capsys.readouterr().err
    assert "KeyError: 'user'" in written
    assert "hunter2" not in written


def test_what_libraries_say_is_an_event_too(capsys: pytest.CaptureFixture[str]) -> None:
    """If it failed, one library's warning would break a log that is read as JSON lines."""
    configure("json")
    configure("json")
    logging.getLogger("fsspec").warning("slow %s", "disk")
    logging.getLogger("fsspec").info("unimportant")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=True)
        warnings.warn("old", UserWarning, stacklevel=1)
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert [event["event"] for event in events] == ["library_message", "library_message"]
    assert (events[0]["library"], events[0]["message"]) == ("fsspec", "slow disk")
    assert "UserWarning: old" in events[1]["message"]
