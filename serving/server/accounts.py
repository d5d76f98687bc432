"""What is done around each request: counted, logged, and the client sent elsewhere while the server ends."""

import asyncio
import time
from datetime import UTC, datetime

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.server.body import CLIENT_LEFT
from serving.server.log import Access, Log
from serving.server.metrics import Metrics
from serving.server.replies import json_reply
from serving.server.service import Service

MAX_PATH = 500
"""Characters of a path that are logged."""
PROBES = frozenset({"/v2/health/live", "/v2/health/ready", "/metrics"})
"""Asked every few seconds by what watches the server: logged only where the answer is out of the ordinary."""


class Accounts:
    """What is kept of the requests that were answered: numbers for Prometheus, and lines of the log."""

    def __init__(self, log: Log, metrics: Metrics) -> None:
        self._log = log
        self._metrics = metrics

    def add(self, line: Access, *, predicts: bool) -> None:
        """Counts a request, and logs it."""
        if predicts:
            self._metrics.seconds.observe(line.seconds)
        self._metrics.answered(line.status)
        if line.path not in PROBES or line.status >= 400:
            self._log.access(line)


class Counted:
    """An ASGI application around others: the one that predicts, and the one for all other paths."""

    def __init__(
        self,
        infer: ASGIApp,
        infer_path: str,
        others: ASGIApp,
        service: Service,
        accounts: Accounts,
    ) -> None:
        self._infer = infer
        self._infer_path = infer_path
        self._others = others
        self._service = service
        self._accounts = accounts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Runs the application for the path."""
        start = time.perf_counter()
        status = CLIENT_LEFT
        path: str = scope["path"]
        predicts = path == self._infer_path and scope["method"] == "POST"

        async def answered(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if self._service.draining:
                    message["headers"].append((b"connection", b"close"))
            await send(message)

        try:
            await (self._infer if predicts else self._others)(scope, receive, answered)
        except asyncio.CancelledError:
            # By the server, where the time for ending is over.
            if status != CLIENT_LEFT:
                raise
            await json_reply({"error": "the server is ending; ask again"}, 503).send(answered)
        finally:
            line = _line(scope, status, time.perf_counter() - start)
            self._accounts.add(line, predicts=scope.get("bowsprit.predicts", False))


def _line(scope: Scope, status: int, seconds: float) -> Access:
    client = scope.get("client")
    return Access(
        timestamp=datetime.now(UTC),
        method=scope["method"],
        path=scope["path"][:MAX_PATH],
        status=status,
        seconds=seconds,
        texts=scope.get("bowsprit.texts", 0),
        received=scope.get("bowsprit.received", 0),
        client=client[0] if client else "",
    )
