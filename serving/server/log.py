"""The server's log: events and requests as lines on standard error, written away from the requests."""

import collections
import sys
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal, NamedTuple, TextIO

import msgspec

from serving.printable import printable

MAX_WAITING = 100_000
"""Lines; more are dropped, and counted, where standard error takes them too slowly."""
TRACEBACK = "traceback"
"""The one field that people get in its own lines."""
WRITE_SECONDS = 0.02
LAST_SECONDS = 1.0
"""In which some of the last lines must be read."""
WRITE_BYTES = 4096
"""A pipe takes so many bytes in one piece, so that lines of several processes do not mix."""
WRITE_LINES = 16
"""That are made at once: about as many as are written at once."""

Level = Literal["info", "warning", "error"]


class Event(NamedTuple):
    """Something that happened once."""

    timestamp: datetime
    level: Level
    name: str
    fields: dict[str, object]


class Access(msgspec.Struct, frozen=True, kw_only=True):
    """A request that was answered, as its line in JSON says it."""

    timestamp: datetime
    level: Level = "info"
    event: str = "request"
    method: str
    path: str
    status: int
    seconds: float
    texts: int
    received: int
    """Bytes of the request's body."""
    client: str


class Log:
    """Lines wait in memory until the thread writes them; before `start`, they are written at once."""

    def __init__(self, stream: TextIO, *, for_people: bool, with_access: bool = True) -> None:
        self._stream = stream
        self._for_people = for_people
        self._with_access = with_access
        self._waiting: collections.deque[Event | Access] = collections.deque()
        self._dropped = 0
        self._encoder = msgspec.json.Encoder()
        self._end = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Begins to write in the background."""
        self._thread = threading.Thread(target=self._write_on, name="log", daemon=True)
        self._thread.start()

    def close(self) -> bool:
        """Writes what is left, and returns whether it could: not where its reader has stopped reading."""
        if self._thread is not None:
            self._end.set()
            left = -1
            while self._thread.is_alive() and left != len(self._waiting):
                left = len(self._waiting)
                self._thread.join(LAST_SECONDS)
            if self._thread.is_alive():
                return False
            self._thread = None
        return True

    def event(self, name: str, level: Level = "info", **fields: object) -> None:
        """Logs something that happened once."""
        self._waiting.append(Event(datetime.now(UTC), level, name, fields))
        if self._thread is None:
            self._write()

    def access(self, line: Access) -> None:
        """Logs a request."""
        if not self._with_access:
            return
        if len(self._waiting) < MAX_WAITING:
            self._waiting.append(line)
        else:
            self._dropped += 1

    def _write_on(self) -> None:
        while not self._end.wait(WRITE_SECONDS):
            self._write()
        self._write()

    def _write(self) -> None:
        if self._dropped:
            dropped, self._dropped = self._dropped, 0
            self.event("lines_dropped", "warning", lines=dropped)
        while self._waiting:
            some = [self._waiting.popleft() for _ in range(min(len(self._waiting), WRITE_LINES))]
            lines: list[bytes] = []
            size = 0
            for line in self._lines(some):
                if lines and size + len(line) > WRITE_BYTES:
                    self._put(lines)
                    lines, size = [], 0
                lines.append(line)
                size += len(line)
            self._put(lines)

    def _put(self, lines: list[bytes]) -> None:
        try:
            self._stream.write(b"".join(lines).decode())
            self._stream.flush()
        except (OSError, ValueError):
            pass  # nobody reads the log, and requests are to be answered all the same

    def _lines(self, some: Sequence[Event | Access]) -> list[bytes]:
        if self._for_people:
            return [_for_people(line).encode(errors="backslashreplace") for line in some]
        # All at once: Python's own steps, line by line, would hold up the thread that answers.
        objects = [line if isinstance(line, Access) else _as_object(line) for line in some]
        return self._encoder.encode_lines(objects).splitlines(keepends=True)


def _as_object(event: Event) -> dict[str, object]:
    # A name of a file may hold what is not UTF-8.
    fields = {
        name: value.encode(errors="backslashreplace").decode() if isinstance(value, str) else value
        for name, value in event.fields.items()
    }
    return {"timestamp": event.timestamp, "level": event.level, "event": event.name} | fields


def _for_people(line: Event | Access) -> str:
    moment = line.timestamp.astimezone().strftime("%H:%M:%S")
    if isinstance(line, Access):
        return (
            f"{moment} {line.method} {printable(line.path)} {line.status}  {line.texts} texts, "
            f"{line.seconds * 1000:.2f} ms, {line.client}\n"
        )
    level = "" if line.level == "info" else f"[{line.level}] "
    told = {name: printable(str(value)) for name, value in line.fields.items() if name != TRACEBACK}
    fields = "".join(f" {name}={value}" for name, value in told.items())
    trace = f"\n{line.fields[TRACEBACK]}".rstrip() if TRACEBACK in line.fields else ""
    return f"{moment} {level}{line.name}{fields}{trace}\n"


def standard_error_log(log_format: str, *, with_access: bool) -> Log:
    """The log on standard error: for people where it is a terminal, unless a format is asked for."""
    as_json = log_format == "json" or (log_format == "auto" and not sys.stderr.isatty())
    return Log(sys.stderr, for_people=not as_json, with_access=with_access)
