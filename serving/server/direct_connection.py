"""A connection that takes predictions asked for in one piece past the application."""

from collections.abc import Callable
from http import HTTPStatus
from typing import Any

from starlette.exceptions import HTTPException
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from serving.server.body import Announced, announced_by
from serving.server.connection import Connection
from serving.server.direct import Direct
from serving.server.replies import Reply


class DirectConnection(Connection):
    """Holds the first request of each piece of data until the piece is read, if it may be answered directly.

    If it has come whole by then, it is; else the application takes over. An answer that is due goes before
    anything else that happens to the connection.
    """

    direct: Direct
    """Set by `limited`."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._may_hold = False
        self._held: Announced | None = None
        self._parts: list[bytes] = []
        self._is_due = False
        self._closes = False

    def data_received(self, data: bytes) -> None:
        """Reads a piece of data."""
        self._may_hold = True
        super().data_received(data)
        if self._held is not None:
            self._hand_over()

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client sends no more."""
        self._send_due()
        return super().eof_received()

    def on_message_begin(self) -> None:
        """Another request follows."""
        self._send_due()
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Holds the request, or lets the application have it."""
        self._held = self._announced() if self._may_hold else None
        self._may_hold = False
        if self._held is None:
            super().on_headers_complete()
        else:
            self._in_head = False
            self._has_advanced = True
            self._closes = not self.parser.should_keep_alive()

    def on_body(self, body: bytes) -> None:
        """Keeps a part of what is held."""
        if self._held is None:
            super().on_body(body)
        else:
            self._has_advanced = True
            self._parts.append(body)

    def on_message_complete(self) -> None:
        """Answers what is held."""
        if self._held is None:
            super().on_message_complete()
            return
        self._in_message = False
        self._unwatch()
        held, self._held = self._held, None
        body = b"".join(self._parts)
        self._parts.clear()
        self._is_due = True
        self.direct.answer(body, held.header_length, self.client[0] if self.client else "", self._send)

    def shutdown(self) -> None:
        """The server ends."""
        self._send_due()
        super().shutdown()

    def _announced(self) -> Announced | None:
        """What the headers say of a request that may be answered directly; None of others."""
        if (
            self.url != self.direct.target
            or self.parser.get_method() != b"POST"
            or self.parser.get_http_version() != "1.1"
            or self.parser.should_upgrade()
            or self.expect_100_continue
            or self.flow.write_paused
            or self._is_answering()
        ):
            return None
        try:
            announced = announced_by(self.headers)
        except HTTPException:
            return None  # for the application to say
        is_short = announced.length is not None and announced.length <= self.direct.max_bytes
        return announced if is_short else None

    def _hand_over(self) -> None:
        """Lets the application have a request of which only a part has come."""
        self._held = None
        parts, self._parts = self._parts, []
        if self._reads_no_more:
            return
        super().on_headers_complete()
        for each in parts:
            super().on_body(each)

    def _is_answering(self) -> bool:
        return self._is_due or super()._is_answering()

    def _refuse(self, status: HTTPStatus, reason: str) -> None:
        self._send_due()
        super()._refuse(status, reason)

    def _send_due(self) -> None:
        if self._is_due:
            self.direct.flush()

    def _send(self, reply: Reply) -> bool:
        self._is_due = False
        if self.transport.is_closing():
            return False
        closes = self._closes or self._is_last_request or self.direct.is_last
        head = [STATUS_LINE[reply.status]]
        head += [b"%s: %s\r\n" % header for header in self.server_state.default_headers]
        head += [reply.head(), b"connection: close\r\n\r\n" if closes else b"\r\n", reply.content]
        self.transport.write(b"".join(head))
        if closes:
            self.transport.close()
        self.on_response_complete()
        return True


def limited(request_seconds: float, refused: Callable[[int], None], direct: Direct) -> type[DirectConnection]:
    """The connections of a server in which a request must have come within so many seconds."""
    fields = {"request_seconds": request_seconds, "refused": staticmethod(refused), "direct": direct}
    return type("LimitedConnection", (DirectConnection,), fields)
