"""A request's body: read whole, within a number of bytes and of seconds."""

import asyncio

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import Message


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
    message = await _received(request, seconds)
    body: bytes = message.get("body", b"")
    if not message.get("more_body", False):
        if len(body) > max_bytes:
            raise _too_large(max_bytes, "more")
        return body
    return await _rest(request, [body], max_bytes, seconds)


async def _rest(request: Request, parts: list[bytes], max_bytes: int, seconds: float) -> bytes:
    deadline = asyncio.get_running_loop().time() + seconds
    size = len(parts[0])
    more = True
    while more:
        message = await _received(request, deadline - asyncio.get_running_loop().time())
        part: bytes = message.get("body", b"")
        size += len(part)
        if size > max_bytes:
            raise _too_large(max_bytes, "more")
        parts.append(part)
        more = message.get("more_body", False)
    return b"".join(parts)


async def _received(request: Request, seconds: float) -> Message:
    try:
        async with asyncio.timeout(seconds):
            message = await request.receive()
    except TimeoutError:
        raise HTTPException(408, "the request came too slowly", {"connection": "close"}) from None
    if message["type"] == "http.disconnect":
        raise HTTPException(400, "the client left")
    return message


def _too_large(max_bytes: int, found: str) -> HTTPException:
    return HTTPException(413, f"expected at most {max_bytes:,} bytes, found {found}")
