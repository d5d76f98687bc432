"""One process that answers requests until it is told to end."""

import asyncio
import contextlib
import logging
import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import uvicorn
import uvloop

from serving.server.app import Application
from serving.server.connection import limited
from serving.server.log import Log
from serving.server.metrics import Metrics
from serving.server.service import Service
from serving.server.settings import ServerSettings

KEEP_ALIVE_SECONDS = 75
"""An idle connection is kept longer than load balancers keep theirs, so that they are the ones to end it."""
BACKLOG = 2048


def work(source: Path | str, settings: ServerSettings, listener: socket.socket, log: Log) -> None:
    """Serves a bundle on a bound socket until SIGTERM or SIGINT.

    Raises BowspritError where the bundle cannot be served.
    """
    logging.getLogger("uvicorn.error").addHandler(_ToLog(log))
    metrics = Metrics()
    service = Service(source, settings.provider_names(), log, metrics)
    app = Application(service, settings, log, metrics).asgi()
    config = uvicorn.Config(
        app,
        http=limited(settings.request_seconds, metrics.answered),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=max(1, round(settings.grace_seconds)),
    )
    log.start()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(_serve(_Server(config, service, settings.drain_seconds), service, settings, listener))
    finally:
        log.event("ended")
        log.close()


async def _serve(
    server: "_Server", service: Service, settings: ServerSettings, listener: socket.socket
) -> None:
    loading = asyncio.create_task(service.run(settings.reload_seconds))
    loading.add_done_callback(server.stop_after)
    await server.serve(sockets=[listener])
    loading.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await loading


class _Server(uvicorn.Server):
    """uvicorn's, which drains before it shuts down, and ends as one that did what it was asked."""

    def __init__(self, config: uvicorn.Config, service: Service, drain_seconds: float) -> None:
        super().__init__(config)
        self._service = service
        self._drain_seconds = drain_seconds
        self._drained_at = float("inf")
        self._parent = os.getppid()

    def stop_after(self, loading: asyncio.Task[None]) -> None:
        """Ends at once where the bundle could not be loaded."""
        if not loading.cancelled() and loading.exception() is not None:
            self.should_exit = True

    async def on_tick(self, counter: int) -> bool:
        """Looks ten times a second whether it is time to shut down."""
        if time.monotonic() >= self._drained_at or os.getppid() != self._parent:
            self.should_exit = True
        return await super().on_tick(counter)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Takes the connections that wait to be accepted, then accepts no more, and answers all of them."""
        for listener in sockets or []:
            listener.listen(0)
        for _ in range(3):
            await asyncio.sleep(0)
        await super().shutdown(sockets)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Unlike uvicorn's, does not raise the signal once more at the end."""
        before = {
            each: signal.signal(each, self.handle_exit)
            for each in (signal.SIGTERM, signal.SIGINT)
            if signal.getsignal(each) is not signal.SIG_IGN
        }
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's names
        """Begins to drain; a second signal ends that, and a third does not wait for anything."""
        if not self._service.draining:
            self._service.draining = True
            self._drained_at = time.monotonic() + self._drain_seconds
        elif not self.should_exit:
            self.should_exit = True
        else:
            self.force_exit = True


class _ToLog(logging.Handler):
    """What uvicorn warns of, as events."""

    def __init__(self, log: Log) -> None:
        super().__init__(logging.WARNING)
        self._log = log

    def emit(self, record: logging.LogRecord) -> None:
        """Logs it."""
        message = record.getMessage()
        if record.exc_info and record.exc_info[1] is not None:
            message += f": {record.exc_info[1]!r}"
        self._log.event("http", "error" if record.levelno >= logging.ERROR else "warning", message=message)
