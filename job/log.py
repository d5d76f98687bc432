"""Logging: events with fields on standard error, for people or as JSON lines. Only main calls `configure`."""

import logging
import math
import os
import sys
from collections.abc import Mapping
from typing import Literal, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

LogFormat = Literal["auto", "console", "json"]

COMMON: list[Processor] = [
    structlog.processors.add_log_level,
    structlog.processors.StackInfoRenderer(),
]


_run: dict[str, str] = {}
"""The field `run`, once the run has a name. Not a context variable: the threads that read data, and what
libraries say in them, would lack it."""


def requested_format(environ: Mapping[str, str]) -> LogFormat:
    """What BOW_LOG_FORMAT asks for; `auto` where that is none, which `load_settings` refuses."""
    match environ.get("BOW_LOG_FORMAT", "").strip():
        case "console":
            return "console"
        case "json":
            return "json"
    return "auto"


def configure(log_format: LogFormat) -> bool:
    """Send structlog's events, and what libraries log or warn of, to standard error.

    `auto` is the console format when standard error is a terminal, JSON lines otherwise. Returns whether it
    is for people.
    """
    _run.clear()
    as_json = log_format == "json" or (log_format == "auto" and not sys.stderr.isatty())
    structlog.configure(
        processors=COMMON + (_json() if as_json else _console()),
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=_Stderr,
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    if not any(isinstance(handler, _ToStructlog) for handler in root.handlers):
        root.addHandler(_ToStructlog(logging.WARNING))
    logging.captureWarnings(capture=True)
    return not as_json


def name_run(name: str) -> None:
    """From here on, every JSON line says which run it is of."""
    _run["run"] = name


def write(stream: TextIO, text: str) -> None:
    """Writes what a run has to say; where nobody takes it any more, the run goes on without.

    A closed pipe or a full disk under a log file must not cost hours of training.
    """
    try:
        stream.write(text)
        stream.flush()
    except OSError:
        # What is buffered would fail again, at the latest when Python exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


class _Stderr:
    """Writes to what `sys.stderr` is at that moment: a progress bar replaces it while it is on the screen."""

    def __init__(self, *_names: str) -> None:
        pass

    def msg(self, line: str) -> None:
        write(sys.stderr, line + "\n")

    debug = info = warning = error = critical = exception = msg


class _ToStructlog(logging.Handler):
    """Passes on what libraries log, so that a JSON log holds nothing but JSON lines."""

    def emit(self, record: logging.LogRecord) -> None:
        structlog.get_logger().log(
            record.levelno, "library_message", library=record.name, message=record.getMessage().strip()
        )


def _json() -> list[Processor]:
    return [
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _plain_fields,
        structlog.processors.JSONRenderer(),
    ]


def _console() -> list[Processor]:
    colors = sys.stderr.isatty() and not os.environ.get("NO_COLOR")
    return [
        structlog.processors.TimeStamper(fmt="%H:%M:%S", utc=False),
        _hide_info_level,
        structlog.dev.ConsoleRenderer(
            colors=colors,
            pad_event_to=0,
            pad_level=False,
            sort_keys=False,
            # The default prints every local variable once rich is installed: secrets among them.
            exception_formatter=structlog.dev.plain_traceback,
        ),
    ]


def _plain_fields(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """The time, the level, the event and the run first; and no bare NaN or Infinity: JSON has none."""
    head = {name: event.pop(name) for name in ("timestamp", "level", "event") if name in event} | _run
    fields = {
        name: str(value) if isinstance(value, float) and not math.isfinite(value) else value
        for name, value in event.items()
    }
    return head | fields


def _hide_info_level(_logger: WrappedLogger, _method: str, event: EventDict) -> EventDict:
    """On the console only what is out of the ordinary says its level."""
    if event.get("level") == "info":
        del event["level"]
    return event
