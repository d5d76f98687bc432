"""An ASGI application, called without a network."""

import asyncio
from collections.abc import Iterable, Mapping
from typing import Any

from starlette.types import ASGIApp, Message

from tests.answer import Answer


def call(
    app: ASGIApp,
    method: str,
    path: str,
    parts: Iterable[bytes] = (b"",),
    headers: Mapping[str, str] | None = None,
) -> Answer:
    """A request whose body comes in parts; a client that leaves where they end early."""
    waiting = list(parts)
    sent: list[Message] = []

    async def receive() -> Message:
        if not waiting:
            return {"type": "http.disconnect"}
        return {"type": "http.request", "body": waiting.pop(0), "more_body": bool(waiting)}

    async def send(message: Message) -> None:
        sent.append(message)

    scope = {
        "type": "http",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "root_path": "",
        "scheme": "http",
        "http_version": "1.1",
        "headers": [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()],
        "client": ("192.0.2.1", 1),
        "server": ("192.0.2.2", 80),
    }
    asyncio.run(_run(app, scope, receive, send))
    start = sent[0]
    head = {name.decode().lower(): value.decode() for name, value in start["headers"]}
    body = b"".join(each.get("body", b"") for each in sent[1:])
    return Answer(status=start["status"], headers=head, body=body)


async def _run(app: ASGIApp, *arguments: Any) -> None:
    await app(*arguments)
