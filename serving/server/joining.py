"""An answer's head and the beginning of its body, in one packet."""

from asyncio import Transport
from collections.abc import Callable


class JoiningTransport:
    """A transport that sends an answer's head and the beginning of its body at once, in one packet.

    uvicorn writes them one after the other, and each write is a call of the system, a good part of what a
    short request costs.
    """

    def __init__(self, transport: Transport, close: Callable[[], None]) -> None:
        """close: ends the connection behind an answer."""
        self._transport = transport
        self._close = close
        self._head: bytes | None = None
        self.is_closing = transport.is_closing

    def write(self, data: bytes) -> None:
        """Sends, or holds the head back; drops what comes for a client that has gone.

        uvicorn stops the last request of a connection that is lost, and not one that others wait behind.
        """
        if self.is_closing():
            return
        if self._head is not None:
            head, self._head = self._head, None
            self._transport.writelines((head, data))
        elif data.startswith(b"HTTP/1.1 ") and not data.startswith(b"HTTP/1.1 1"):
            self._head = data
        else:
            self._transport.write(data)

    def flush(self) -> None:
        """Sends a head that no body followed."""
        if self._head is not None:
            self.write(b"")

    def close(self) -> None:
        """Sends what is held back, and ends the connection."""
        self.flush()
        self._close()
