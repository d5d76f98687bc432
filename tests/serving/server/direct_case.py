"""A connection that answers directly, to a real server's parts, without a network."""

import asyncio
import json
import re
import struct
from collections.abc import Awaitable, Callable

import uvicorn
from uvicorn.server import ServerState

from serving.server.direct_connection import limited
from tests.serving.server.server import INFER, Server
from tests.serving.server.transport import Transport


def post(body: bytes, *headers: str, path: str = INFER, length: bool = True) -> bytes:
    lines = [f"POST {path} HTTP/1.1", *headers, *([f"Content-Length: {len(body)}"] if length else [])]
    return "\r\n".join([*lines, "", ""]).encode() + body


def get(path: str) -> bytes:
    return f"GET {path} HTTP/1.1\r\n\r\n".encode()


def binary(*texts: str) -> tuple[bytes, str]:
    """A body with a binary tensor, and the header that it needs."""
    content = b"".join(struct.pack("<I", len(text.encode())) + text.encode() for text in texts)
    tensor = {"name": "text", "shape": [len(texts)], "datatype": "BYTES"}
    head = json.dumps({"inputs": [tensor | {"parameters": {"binary_data_size": len(content)}}]}).encode()
    return head + content, f"Inference-Header-Content-Length: {len(head)}"


class Case:
    """A connection to a real server's parts; there is another one, unless it is said to be alone."""

    def __init__(self, server: Server, request_seconds: float = 10.0, *, is_alone: bool = False) -> None:
        self.server = server
        self.state = ServerState()
        self.transport = Transport()
        config = uvicorn.Config(server.app, interface="asgi3", ws="none", lifespan="off", log_config=None)
        kind = limited(request_seconds, server.metrics.answered, server.direct)
        self.connection = kind(config=config, server_state=self.state, app_state={})
        self.connection.connection_made(self.transport)
        if not is_alone:
            other = kind(config=config, server_state=self.state, app_state={})
            self.state.connections.add(other)

    def gets(self, data: bytes) -> None:
        self.connection.data_received(data)

    async def answers(self) -> list[bytes]:
        """All that was answered, once nothing is left to do."""
        for _ in range(5):
            await asyncio.sleep(0)
        while self.state.tasks:
            await asyncio.sleep(0.001)
        return [b"HTTP/1.1 " + each for each in self.transport.written.split(b"HTTP/1.1 ")[1:]]

    async def statuses(self) -> list[int]:
        return [int(each[9:12]) for each in await self.answers()]


def in_a_loop(server: Server, test: Callable[[Case], Awaitable[None]], request_seconds: float = 10.0) -> None:
    async def run() -> None:
        case = Case(server, request_seconds)
        with case.transport.socket, case.transport.client:
            await test(case)
            assert not case.transport.written_late
            case.connection.connection_lost(None)

    asyncio.run(run())


def counts(server: Server) -> dict[str, float]:
    """Prometheus' counters, but for times."""
    found = re.findall(
        r"^(bowsprit_\w+(?:total|count)\S*) (\S+)$", server.metrics.text().decode(), re.MULTILINE
    )
    return {name: float(value) for name, value in found}
