"""A connection that does not wait for ever, nor take a request's head of any size."""

import asyncio
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

MAX_HEAD_BYTES = 64 << 10
"""Of the request line and headers."""


class Connection(HttpToolsProtocol):
    """uvicorn's, with an end to requests that come too slowly, or whose head is too long.

    The application sees a request once its head has come, and times its body itself: what it cannot see is
    watched here, the head, and what is still sent after the answer.
    """

    request_seconds = 10.0
    """Set by `limited`."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._in_head = True
        self._in_message = True
        self._head_bytes = 0
        self._last_request = False
        self._timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Gives the first request its time."""
        super().connection_made(transport)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends the watch."""
        self._unwatch()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Feeds the parser, and watches a request that has not come whole."""
        was_in_head = self._in_head
        super().data_received(data)
        if not self._in_head:
            self._head_bytes = 0
        else:
            # Where a head began within the data is not known.
            self._head_bytes += len(data) if was_in_head else 1
        if self.transport.is_closing():
            return
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(b"431 Request Header Fields Too Large", b"the headers are too large")
        elif self._in_message and self._timer is None:
            self._watch()

    def on_message_begin(self) -> None:
        """Keeps in mind that a request has begun."""
        super().on_message_begin()
        self._in_head = self._in_message = True

    def on_headers_complete(self) -> None:
        """The application takes over."""
        self._in_head = False
        super().on_headers_complete()
        if self._last_request:
            self.cycle.keep_alive = False

    def on_message_complete(self) -> None:
        """The request has come whole."""
        self._in_message = False
        self._unwatch()
        super().on_message_complete()

    def shutdown(self) -> None:
        """Ends an idle connection, and lets a request that has begun to come be the last."""
        if self._in_head and self._head_bytes:
            self._last_request = True
        else:
            super().shutdown()

    def _watch(self) -> None:
        # The application ends a body that comes too slowly, and has a little longer to say so.
        seconds = self.request_seconds + 1.0
        self._timer = self.loop.call_later(seconds, self._too_slow)

    def _unwatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        self._timer = None
        if self.transport.is_closing():
            return
        if self._in_head and self._head_bytes:
            self._refuse(b"408 Request Timeout", b"the request came too slowly")
        elif self.cycle is None or self.cycle.response_complete:
            self.transport.close()

    def _refuse(self, status: bytes, reason: bytes) -> None:
        body = b'{"error":"' + reason + b'"}'
        self.transport.write(
            b"HTTP/1.1 "
            + status
            + b"\r\ncontent-type: application/json\r\ncontent-length: "
            + str(len(body)).encode()
            + b"\r\nconnection: close\r\n\r\n"
            + body
        )
        self.transport.close()


def limited(request_seconds: float) -> type[Connection]:
    """The connections of a server in which a request must have come within so many seconds."""
    return type("LimitedConnection", (Connection,), {"request_seconds": request_seconds})
