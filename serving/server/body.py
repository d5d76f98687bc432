"""A request's body: read whole, within a number of bytes and of seconds."""

import asyncio

from starlette.exceptions import HTTPException
from starlette.requests import Request


async def read_body(request: Request, max_bytes: int, seconds: float) -> bytes:
    """The body; raises HTTPException with 408, 413 or 415 where it is too slow, too large, or encoded.

    What is left of a body that is too large is taken, and thrown away, while the client is told so: many
    would take a connection that closes for a failure of the network.
    """
    encoding = request.headers.get("content-encoding")
    if encoding not in (None, "", "identity"):
        raise HTTPException(415, f"expected a body without Content-Encoding, found {encoding[:40]!r}")
    length = request.headers.get("content-length")
    if length is not None and int(length) > max_bytes:
        raise _too_large(max_bytes, f"{int(length):,}")
    try:
        async with asyncio.timeout(seconds):
            return await _whole(request, max_bytes)
    except TimeoutError:
        raise HTTPException(408, "the request came too slowly", {"connection": "close"}) from None


async def _whole(request: Request, max_bytes: int) -> bytes:
    body, has_more = await _part(request)
    if has_more:
        # Grown in place: in a list, many small parts would take many times their bytes.
        grown = bytearray(body)
        while has_more and len(grown) <= max_bytes:
            part, has_more = await _part(request)
            grown += part
        body = bytes(grown)
    if len(body) > max_bytes:
        raise _too_large(max_bytes, "more")
    return body


async def _part(request: Request) -> tuple[bytes, bool]:
    message = await request.receive()
    if message["type"] == "http.disconnect":
        raise HTTPException(400, "the client left")
    return message.get("body", b""), message.get("more_body", False)


def _too_large(max_bytes: int, found: str) -> HTTPException:
    return HTTPException(413, f"expected at most {max_bytes:,} bytes, found {found}")
