"""A connection's other side, without a network."""

import asyncio
import socket


class Transport(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        self.socket, self.client = socket.socketpair()
        super().__init__({"socket": self.socket})
        self.written = b""
        self.written_late = b""
        """After the end, which no answer may be."""
        self.has_ended = False
        """Whether no more is sent."""
        self.is_closed = False
        """Whether nothing is read any more either."""
        self.is_reading_now = True

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self._check_alive()
        if self.has_ended:
            self.written_late += data
        else:
            self.written += data

    def write_eof(self) -> None:
        self._check_alive()
        self.has_ended = True

    def _check_alive(self) -> None:
        if self.is_closed:  # as uvloop's says
            raise RuntimeError("unable to perform operation on <TCPTransport>; the handler is closed")

    def close(self) -> None:
        self.has_ended = self.is_closed = True

    abort = close

    def is_closing(self) -> bool:
        return self.is_closed

    def pause_reading(self) -> None:
        self.is_reading_now = False

    def resume_reading(self) -> None:
        self.is_reading_now = True

    def set_write_buffer_limits(self, high: int | None = None, low: int | None = None) -> None:
        self.high_water = high

    def get_write_buffer_size(self) -> int:
        return len(self.written)
