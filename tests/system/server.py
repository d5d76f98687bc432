"""A server in a process of its own, as `python -m serving serve` starts it, and a client for raw bytes."""

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import httptools

from tests.answer import Answer
from tests.system.conftest import REPOSITORY

INFER = "/v2/models/bowsprit/infer"


class Server:
    """A running server, whose log is in a file."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.log = log
        self.port = 0

    def events(self, name: str = "") -> list[dict[str, Any]]:
        """The log's lines, those of one name; a line that is being written is left out."""
        lines = self.log.read_bytes().split(b"\n")[:-1]
        # What Python itself says, such as a traceback, is no JSON, and a failure.
        return [event for event in map(json.loads, lines) if name in ("", event["event"])]

    def wait_for(self, name: str, number: int = 1, seconds: float = 30) -> list[dict[str, Any]]:
        """Waits until so many events of a name are in the log."""
        deadline = time.monotonic() + seconds
        while len(found := self.events(name)) < number:
            assert self.process.poll() is None, self.log.read_text()
            assert time.monotonic() < deadline, self.log.read_text()[-4000:]
            time.sleep(0.02)
        return found

    def ask(self, path: str, body: bytes | None = None) -> Answer:
        """One request on a connection of its own."""
        return asyncio.run(self.asked(path, body))

    async def asked(self, path: str, body: bytes | None = None) -> Answer:
        """The same within a loop."""
        async with await Client.connect(self.port) as client:
            return await client.ask(request(path, body, "connection: close"))

    def workers(self) -> list[int]:
        """The processes that answer."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        return [int(pid) for pid in children] or [self.process.pid]

    def resident_bytes(self) -> int:
        """The memory that all of them have, the largest part of which may be shared."""
        pages = sum(int(Path(f"/proc/{pid}/statm").read_text().split()[1]) for pid in self.workers())
        return pages * os.sysconf("SC_PAGE_SIZE")

    def end(self, sig: int = signal.SIGTERM, seconds: float = 30) -> int:
        """Sends a signal; returns the exit code."""
        self.process.send_signal(sig)
        return self.process.wait(seconds)


@contextmanager
def running(
    bundle: Path | str,
    folder: Path,
    *,
    environ: dict[str, str] | None = None,
    until: str = "bundle_served",
    **settings: object,
) -> Iterator[Server]:
    """A server whose workers are ready, or have logged another event.

    settings: its `BOW_SERVE_` variables in lower case.
    """
    given = {"port": 0, "log_format": "json", "access_log": "false", "drain_seconds": 0} | settings
    variables = {f"BOW_SERVE_{name.upper()}": str(value) for name, value in given.items()}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("BOW_")}
    log = folder / "server.log"
    with log.open("wb") as stderr:
        process = subprocess.Popen(
            [sys.executable, "-m", "serving", "serve", str(bundle)],
            cwd=REPOSITORY,
            env=inherited | variables | (environ or {}),
            stderr=stderr,
        )
    server = Server(process, log)
    try:
        server.port = server.wait_for("listening")[0]["port"]
        server.wait_for(until, int(str(given.get("workers", 1))) if until != "listening" else 1)
        yield server
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


class Client:
    """A connection."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer
        self._finished: list[Answer] = []
        self._parser = httptools.HttpResponseParser(self)
        self._headers: dict[str, str] = {}
        self._body = b""

    @classmethod
    async def connect(cls, port: int) -> Self:
        return cls(*await asyncio.open_connection("127.0.0.1", port))

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        """Leaves at once, and says so to nobody."""
        self.writer.transport.abort()

    async def ask(self, content: bytes) -> Answer:
        """Sends bytes, and waits for an answer; raises ConnectionError where there is none."""
        self.writer.write(content)
        answer = await self.answer()
        if answer is None:
            raise ConnectionResetError("the connection was closed without an answer")
        return answer

    async def answer(self) -> Answer | None:
        """The next answer; None where the server closes the connection instead."""
        while not self._finished:
            data = await self._reader.read(1 << 20)
            if not data:
                return None
            self._parser.feed_data(data)
        return self._finished.pop(0)

    async def is_closed(self) -> bool:
        """Waits for the connection's end; False where more comes before it."""
        try:
            return await self._reader.read(1) == b""
        except ConnectionError:
            return True

    # Called by the parser.
    def on_message_begin(self) -> None:
        self._headers, self._body = {}, b""

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode().lower()] = value.decode()

    def on_body(self, body: bytes) -> None:
        self._body += body

    def on_message_complete(self) -> None:
        status = self._parser.get_status_code()
        if status >= 200:
            self._finished.append(Answer(status=status, headers=self._headers, body=self._body))


def request(path: str, body: bytes | None = None, *headers: str, method: str = "") -> bytes:
    """The bytes of a request: POST with a body, else GET."""
    lines = [f"{method or ('GET' if body is None else 'POST')} {path} HTTP/1.1", "host: here", *headers]
    if body is not None:
        lines.append(f"content-length: {len(body)}")
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + (body or b"")


def call(texts: Sequence[str], **fields: object) -> bytes:
    """The JSON of a request for texts."""
    tensor = {"name": "text", "shape": [len(texts)], "datatype": "BYTES", "data": list(texts)}
    return json.dumps({"inputs": [tensor]} | fields, ensure_ascii=False).encode()


def log_probs_of(answer: Answer) -> Any:
    """The log-probabilities of an answer in JSON, row after row."""
    (found,) = [each["data"] for each in answer.json["outputs"] if each["name"] == "log_probs"]
    return found
