"""A connection that does not wait for ever, takes no more than it should, and loses no request at the end."""

import fcntl
import struct
import termios
from asyncio import TimerHandle, Transport
from collections.abc import Callable
from http import HTTPStatus
from typing import Any

import httptools
from uvicorn._types import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, Scope
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from serving.server.body import TOO_SLOW
from serving.server.joining import JoiningTransport

MAX_HEAD_BYTES = 64 << 10
"""Of the request line and headers, and of what follows the last chunk of a body. What the system gives at a
time, up to 256 KiB, is read first."""
MAX_WAITING = 100
"""Requests that came before the one ahead of them was answered; the connection is closed behind them."""
LINGER_SECONDS = 1.0
"""For which a client may still send after its last answer."""
QUIET_LOOKS = 10
LOOK_SECONDS = 0.1
"""When the server ends: for how many looks in a row a connection must be quiet before it is closed. The clock
alone would not do: where the whole machine stands still for a moment, no client can have sent anything."""


class Connection(HttpToolsProtocol):
    """uvicorn's, with its own end to requests that cannot be read, are too slow, or whose head is too long.

    The application sees a request once its head has come. Watched here are the head, the body, of which the
    application is told when it takes too long, what is still sent after the answer, and answers that are not
    taken.
    """

    request_seconds: float
    refused: Callable[[int], None]
    """Called with the status where the application never sees a request. `direct_connection.limited` sets
    both."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._in_message = False
        self._in_head = False
        self._head_bytes = 0
        self._has_advanced = False
        self._is_upgrade = False
        self._is_last_request = False
        self._reads_no_more = False
        self._sends_no_more = False
        self._timer: TimerHandle | None = None
        self._answer_timer: TimerHandle | None = None

    def connection_made(self, transport: Transport) -> None:  # type: ignore[override]
        """Gives the first request its time."""
        super().connection_made(transport)
        # So that whatever the client does not take at once is watched until it has.
        transport.set_write_buffer_limits(high=0)
        self._joined = JoiningTransport(transport, self._end_behind_answer)
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends the watch."""
        self._unwatch()
        self.resume_writing()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Feeds the parser, and watches a request that has not come whole."""
        if self._reads_no_more:
            if self._is_answering():
                self.flow.pause_reading()  # each answer resumes it
            return
        self._has_advanced = False
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserUpgrade as upgrade:
            self._stay_with_http(data[upgrade.args[0] :])
            return
        except httptools.HttpParserError:
            self._refuse(HTTPStatus.BAD_REQUEST, "expected a request of HTTP/1.1, found something else")
            return
        if not self._in_message:
            return
        # Where a head began within the data is not known.
        self._head_bytes = 1 if self._has_advanced else self._head_bytes + len(data)
        if self._head_bytes > MAX_HEAD_BYTES:
            self._refuse(HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE, "the headers are too large")
        elif self._timer is None:
            self._watch()

    def eof_received(self) -> bool:  # type: ignore[override]
        """The client sends no more, and may still read: what came whole is answered."""
        if self._in_message and not self._reads_no_more:
            self._refuse(HTTPStatus.BAD_REQUEST, "the request ends before its end")
        elif self._is_answering():
            self.cycle.keep_alive = False
        self._reads_no_more = self._sends_no_more = True
        return self._is_answering()

    def on_message_begin(self) -> None:
        """Keeps in mind that a request has begun."""
        self._unset_keepalive_if_required()
        super().on_message_begin()
        self._in_head = self._in_message = True
        self._head_bytes = 0

    def on_headers_complete(self) -> None:
        """The application takes over."""
        if len(self.pipeline) >= MAX_WAITING:
            raise OverflowError
        self._has_advanced = True
        if self.parser.should_upgrade() and self.parser.get_method() != b"CONNECT":
            self._is_upgrade = True
            return
        if self.expect_100_continue and self.parser.get_http_version() == "1.0":
            self.expect_100_continue = False  # such a client would take that for its answer
        super().on_headers_complete()
        self.cycle.transport = self._joined  # type: ignore[assignment]
        self._in_head = False
        if self._is_last_request:
            self.cycle.keep_alive = False

    def on_body(self, body: bytes) -> None:
        """What is between the parts of a body need not be kept."""
        self._has_advanced = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """The request has come whole."""
        if self._is_upgrade:
            return
        self._in_message = False
        self._unwatch()
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Sends what has no body, such as the answer to HEAD."""
        self._joined.flush()
        super().on_response_complete()
        if self._in_head:
            self._unset_keepalive_if_required()  # it is not idle: its next request is being read

    def shutdown(self) -> None:
        """Lets a request that has begun to come, or may be on its way, be the last."""
        self._is_last_request = True
        if self._is_answering():
            super().shutdown()
        else:
            self.loop.call_later(LOOK_SECONDS, self._end_if_quiet, 1)

    def pause_writing(self) -> None:
        """The client does not take its answer as fast as it comes."""
        super().pause_writing()
        self._watch_answer()

    def resume_writing(self) -> None:
        """It has taken most of it."""
        super().resume_writing()
        if self._answer_timer is not None:
            self._answer_timer.cancel()
            self._answer_timer = None

    def _is_answering(self) -> bool:
        return self.cycle is not None and not self.cycle.response_complete and not self.cycle.disconnected

    def _stay_with_http(self, rest: bytes) -> None:
        """Takes a request that offers another protocol as one that does not: the parser leaves its body."""
        if not self._is_upgrade:
            self._refuse(HTTPStatus.BAD_REQUEST, "this is no proxy")
            return
        self._is_upgrade = False
        version = self.parser.get_http_version().encode()
        head = [b"%s %s HTTP/%s" % (self.parser.get_method(), self.url, version)]
        head += [b"%s: %s" % header for header in self.headers if header[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self.data_received(b"\r\n".join([*head, b"", rest]))

    def _refuse(self, status: HTTPStatus, reason: str) -> None:
        """Answers what came last, in its turn, and reads no more."""
        self._reads_no_more = True
        self._unwatch()
        if not self._is_answering():
            # What is not of a head belongs to a request that has its answer.
            if self._in_head or not self._in_message:
                self._answer(status, reason)
            self._close()
            return
        self.flow.pause_reading()
        self.cycle.keep_alive = False
        if not self.cycle.more_body or self.cycle.response_started:
            return  # the client is told with that answer to connect again
        if self.pipeline:
            self.pipeline[0] = (self.cycle, self._refusal(status, reason))
            return
        self._answer(status, reason)
        self.cycle.disconnected = True
        self.cycle.message_event.set()
        self._close()

    def _end_behind_answer(self) -> None:
        """Ends the connection; what is behind the answer gets none."""
        self._reads_no_more = True
        self._unwatch()
        self.pipeline.clear()
        self._close()

    def _close(self) -> None:
        """Takes what is still sent: the system would reset the connection, and the client lose the answer."""
        self.flow.resume_reading()
        self.parser = self.cycle = self.scope = None  # type: ignore[assignment]
        self.headers, self.url = [], b""
        if self.transport.is_closing():
            return
        self.transport.write_eof()
        self.loop.call_later(0 if self._sends_no_more else LINGER_SECONDS, self.transport.close)

    def _answer(self, status: HTTPStatus, reason: str) -> None:
        self.refused(status)
        headers, body = _told(reason)
        lines = [b"%s: %s\r\n" % header for header in [*self.server_state.default_headers, *headers]]
        self.transport.write(b"".join([STATUS_LINE[status], *lines, b"\r\n", body]))

    def _refusal(self, status: HTTPStatus, reason: str) -> ASGI3Application:
        """What is run in the application's place."""

        async def refuse(_scope: Scope, _receive: ASGIReceiveCallable, send: ASGISendCallable) -> None:
            self.refused(status)
            headers, body = _told(reason)
            await send(
                {"type": "http.response.start", "status": status, "headers": headers, "trailers": False}
            )
            await send({"type": "http.response.body", "body": body, "more_body": False})

        return refuse

    def _watch(self) -> None:
        self._timer = self.loop.call_later(self.request_seconds, self._too_slow)

    def _unwatch(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _too_slow(self) -> None:
        self._timer = None
        if self.transport.is_closing():
            return
        if self.flow.read_paused:
            self._watch()  # it is not the client that is slow: nothing is read until the last answer is sent
        elif self._in_head:
            self._refuse(HTTPStatus.REQUEST_TIMEOUT, "the request came too slowly")
        elif self._is_answering():
            # The application waits for more, and answers that it came too slowly.
            self.cycle.scope[TOO_SLOW] = True  # type: ignore[literal-required]
            self.cycle.message_event.set()
            self._watch()
        else:
            self.transport.close()

    def _watch_answer(self) -> None:
        self._answer_timer = self.loop.call_later(self.request_seconds, self._end_if_untaken, self._untaken())

    def _end_if_untaken(self, before: int) -> None:
        if self._untaken() < before:
            self._watch_answer()
        else:
            self.transport.abort()

    def _untaken(self) -> int:
        """Bytes of answers that the client has not taken: those that wait here, and those the system has."""
        descriptor = self.transport.get_extra_info("socket").fileno()
        (sent,) = struct.unpack("i", fcntl.ioctl(descriptor, termios.TIOCOUTQ, bytes(4)))
        return self.transport.get_write_buffer_size() + int(sent)

    def _end_if_quiet(self, looks: int) -> None:
        if self.transport.is_closing() or self._is_answering():
            return  # the answer will be the last
        if self._in_message or self._has_unread():
            looks = 0
        if looks < QUIET_LOOKS:
            self.loop.call_later(LOOK_SECONDS, self._end_if_quiet, looks + 1)
        else:
            self.transport.close()

    def _has_unread(self) -> bool:
        """Whether the system holds what the client has sent meanwhile."""
        descriptor = self.transport.get_extra_info("socket").fileno()
        return any(fcntl.ioctl(descriptor, termios.FIONREAD, bytes(4)))


def _told(reason: str) -> tuple[list[tuple[bytes, bytes]], bytes]:
    """Headers and body of an answer that says why."""
    body = b'{"error":"%s"}' % reason.encode()
    length = str(len(body)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", length), (b"connection", b"close")]
    return headers, body
