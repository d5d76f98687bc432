"""What the server answers with, and how an error becomes an answer."""

import traceback
from collections.abc import Mapping
from typing import NamedTuple

import orjson
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Send

from serving.errors import DataError
from serving.server.log import TRACEBACK, Log
from serving.server.protocol import JSON, TooLargeError

BUNDLE_HEADER = "bowsprit-bundle"
MAX_ERROR = 1000
"""Characters of an answer that says what is wrong: what a client sent may be part of it."""


class Reply(NamedTuple):
    """An answer, ready to be sent."""

    status: int
    content: bytes
    headers: Mapping[str, str]

    def head(self) -> bytes:
        """Its headers on the wire."""
        lines = "".join([f"{name}: {value}\r\n" for name, value in self.headers.items()])
        return b"%scontent-length: %d\r\n" % (lines.encode("latin-1"), len(self.content))

    async def send(self, send: Send) -> None:
        """Sends it."""
        headers = [(name.encode(), value.encode("latin-1")) for name, value in self.headers.items()]
        headers.append((b"content-length", b"%d" % len(self.content)))
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": self.content})


def json_reply(value: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Reply:
    """An answer in JSON."""
    return Reply(status, orjson.dumps(value), {"content-type": JSON, **(headers or {})})


class Errors:
    """Makes answers of errors; one of ours is logged."""

    def __init__(self, log: Log) -> None:
        self._log = log

    def reply(self, error: Exception, path: str) -> Reply:
        """What the client is told: the client's mistakes with 4xx, ours with 500."""
        match error:
            case TooLargeError():
                return json_reply({"error": str(error)[:MAX_ERROR]}, 413)
            case DataError():
                return json_reply({"error": str(error)[:MAX_ERROR]}, 400)
            case HTTPException():
                return json_reply({"error": error.detail}, error.status_code, error.headers)
        trace = "".join(traceback.format_exception(error))
        self._log.event("bug", "error", path=path, **{TRACEBACK: trace})
        return json_reply({"error": "an error of ours: please report it, with the server's log"}, 500)

    async def handle(self, request: Request, error: Exception) -> Response:
        """The same for Starlette."""
        found = self.reply(error, request.url.path)
        return Response(found.content, found.status, dict(found.headers))
