"""A request's body: read whole, within a number of bytes, and while the connection says that it may come."""

from collections.abc import Iterable
from typing import NamedTuple

from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope

from serving.server.protocol import HEADER_LENGTH

TOO_SLOW = "bowsprit.too_slow"
"""In the scope, where the connection has found that the request takes too long to come."""
CLIENT_LEFT = 499
"""Counted and logged where a client did not wait for its answer, which nobody gets."""
_HEADER_LENGTH = HEADER_LENGTH.encode()


class Announced(NamedTuple):
    """What a request's headers say of its body."""

    length: int | None
    """In bytes; None where it comes in chunks, or there is none."""
    header_length: str | None
    """What `Inference-Header-Content-Length` says, how much of it is JSON; None for all."""


def announced_by(headers: Iterable[tuple[bytes, bytes]]) -> Announced:
    """What headers, named in lower case, announce; raises HTTPException with 415 for an encoded body."""
    length: int | None = None
    header_length: str | None = None
    for name, value in headers:
        if name == b"content-length":
            length = int(value)
        elif name == _HEADER_LENGTH:
            header_length = value.decode("latin-1")
        elif name == b"content-encoding" and value.lower() not in (b"", b"identity"):
            found = value[:40].decode("latin-1")
            raise HTTPException(415, f"expected a body without Content-Encoding, found {found!r}")
    return Announced(length, header_length)


async def read_body(scope: Scope, receive: Receive, max_bytes: int) -> tuple[bytes, str | None]:
    """The body, and the header that says how much of it is JSON.

    Raises HTTPException with 408, 413 or 415 where it is too slow, too large, or encoded.

    What is left of a body that is too large is taken, and thrown away, while the client is told so: many
    would take a connection that closes for a failure of the network.
    """
    announced = announced_by(scope["headers"])
    if announced.length is not None and announced.length > max_bytes:
        raise _too_large(max_bytes, f"{announced.length:,}")
    body, has_more = await _part(scope, receive)
    if has_more:
        # Grown in place: in a list, many small parts would take many times their bytes.
        grown = bytearray(body)
        while has_more and len(grown) <= max_bytes:
            part, has_more = await _part(scope, receive)
            grown += part
        body = bytes(grown)
    if len(body) > max_bytes:
        raise _too_large(max_bytes, "more")
    return body, announced.header_length


async def _part(scope: Scope, receive: Receive) -> tuple[bytes, bool]:
    message = await receive()
    if message["type"] == "http.disconnect":
        raise HTTPException(CLIENT_LEFT, "the client left")
    has_more = message.get("more_body", False)
    if has_more and TOO_SLOW in scope:
        raise HTTPException(408, "the request came too slowly", {"connection": "close"})
    return message.get("body", b""), has_more


def _too_large(max_bytes: int, found: str) -> HTTPException:
    return HTTPException(413, f"expected at most {max_bytes:,} bytes, found {found}")
