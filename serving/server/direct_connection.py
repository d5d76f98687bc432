"""A connection that takes predictions asked for in one piece past the application."""

from collections.abc import Callable
from typing import Any

from starlette.exceptions import HTTPException
from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from serving.server.body import Announced, announced_by
from serving.server.connection import Connection
from serving.server.direct import Direct
from serving.server.replies import Reply

HEAD_BEGIN = b"POST "
"""Behind empty lines, which the parser passes over, HEAD_END would be found too early."""
HEAD_END = b"\r\n\r\n"


class DirectConnection(Connection):
    """Answers a request directly where a piece of data is that request, whole, and nothing else.

    All others are the application's: those that come in pieces or several at once, and long ones. An answer
    that is due goes before anything else that happens to the connection.
    """

    direct: Direct
    """Set by `limited`."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._piece: bytes | None = None
        self._held: Announced | None = None
        self._is_due = False
        self._closes = False

    def data_received(self, data: bytes) -> None:
        """Reads a piece of data."""
        if self._is_due:
            self.direct.flush()
            if self._is_due:  # the answer was lost, and the next one would be taken for it
                self.transport.abort()
            if self.transport.is_closing():
                return
        self._piece = None if self._in_message else data
        super().data_received(data)
        self._piece = None
        if self._held is not None:
            held, self._held = self._held, None
            self._answer_directly(data, held)

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client sends no more."""
        self._send_due()
        return super().eof_received()

    def on_headers_complete(self) -> None:
        """Holds the request, or lets the application have it."""
        self._held = self._announced()
        if self._held is None:
            super().on_headers_complete()
        else:
            self._in_head = False
            self._closes = not self.parser.should_keep_alive()

    def on_body(self, body: bytes) -> None:
        """Passes over the body of what is held: it stands in the piece."""
        if self._held is None:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The request has come whole."""
        if self._held is None:
            super().on_message_complete()
        else:
            self._in_message = False
            self._unwatch()

    def shutdown(self) -> None:
        """The server ends."""
        self._send_due()
        super().shutdown()

    def _announced(self) -> Announced | None:
        """What the headers say of a request that may be answered directly; None of others."""
        piece, self._piece = self._piece, None
        if (
            piece is None
            or self.url != self.direct.target
            or not piece.startswith(HEAD_BEGIN)
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
        length = announced.length
        if length is None or length > self.direct.max_bytes:
            return None
        is_whole = piece.find(HEAD_END) + len(HEAD_END) + length == len(piece)
        return announced if is_whole else None

    def _answer_directly(self, piece: bytes, announced: Announced) -> None:
        assert announced.length is not None
        body = piece[len(piece) - announced.length :]
        client = self.client[0] if self.client else ""
        self._is_due = True
        is_alone = len(self.connections) == 1
        self.direct.answer(body, announced.header_length, client, self._send, is_alone=is_alone)

    def _is_answering(self) -> bool:
        return self._is_due or super()._is_answering()

    def _send_due(self) -> None:
        if self._is_due:
            self.direct.flush()

    def _send(self, reply: Reply) -> bool:
        self._is_due = False
        if self.transport.is_closing():
            return False
        closes = self._closes or self._is_last_request or self.direct.draining
        head = [STATUS_LINE[reply.status]]
        head += [b"%s: %s\r\n" % header for header in self.server_state.default_headers]
        head += [reply.head(), b"connection: close\r\n\r\n" if closes else b"\r\n", reply.content]
        self.transport.write(b"".join(head))
        if self._closes:
            self.transport.close()  # as the client has asked, which sends no more
        elif closes:
            self._end_behind_answer()
        self.on_response_complete()
        return True


def limited(request_seconds: float, refused: Callable[[int], None], direct: Direct) -> type[DirectConnection]:
    """The connections of a server in which a request must have come within so many seconds."""
    fields = {"request_seconds": request_seconds, "refused": staticmethod(refused), "direct": direct}
    return type("LimitedConnection", (DirectConnection,), fields)
