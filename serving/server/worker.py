"""One process that answers requests until it is told to end."""

import asyncio
import contextlib
import ctypes
import logging
import os
import select
import signal
import socket
import struct
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import uvicorn
import uvloop

from serving.cores import usable_cores
from serving.errors import BowspritError, ExitCode
from serving.server.app import application
from serving.server.direct import Direct
from serving.server.direct_connection import limited
from serving.server.log import Log
from serving.server.metrics import Metrics
from serving.server.service import Service
from serving.server.settings import ServerSettings
from serving.server.workers import END

KEEP_ALIVE_SECONDS = 75
"""An idle connection is kept longer than load balancers keep theirs, so that they are the ones to end it."""
BACKLOG = 2048
ACCEPT_SECONDS = 0.1
"""In which the connections that were made before the end are accepted."""
LOOK_SECONDS = 0.05
"""Between looks whether the bundle is there, where that is waited for."""
_SO_ATTACH_FILTER = 26
"""Linux's, which Python does not name."""


def work(
    source: Path | str,
    settings: ServerSettings,
    listener: socket.socket,
    log: Log,
    parent: int | None = None,
    *,
    loads_first: bool = False,
) -> None:
    """Serves a bundle on a bound socket until SIGTERM or SIGINT.

    parent: the process that started this one as one of several; they end with it, and by END instead.
    loads_first: whether connections are left to other workers until the bundle is proven.

    Raises BowspritError where the bundle cannot be served.
    """
    logging.getLogger("uvicorn.error").addHandler(_ToLog(log))
    metrics = Metrics()
    threads = max(1, usable_cores() // settings.workers)
    service = Service(source, settings.provider_names(), log, metrics, threads=threads)
    app = application(service, settings, log, metrics)
    config = uvicorn.Config(
        app.every,
        http=limited(settings.request_seconds, metrics.answered, app.direct),
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
    code = ExitCode.BUG
    log.start()
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            server = _Server(config, service, log, settings.drain_seconds, parent, loads_first=loads_first)
            runner.run(_serve(server, service, app.direct, settings, listener))
        code = ExitCode.DONE
    except BowspritError as error:
        code = error.exit_code
        log.event("bundle_refused", "error", reason=str(error))
        raise
    finally:
        log.event("ended")
        if not log.close():
            os._exit(code)  # nothing can be told any more, and Python would wait for standard error as well


async def _serve(
    server: "_Server", service: Service, direct: Direct, settings: ServerSettings, listener: socket.socket
) -> None:
    def is_idle() -> bool:
        return direct.is_idle and not server.server_state.tasks

    loading = asyncio.create_task(service.run(settings.reload_seconds, is_idle))
    loading.add_done_callback(server.stop_after)
    await server.serve(sockets=[listener])
    loading.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await loading


class _Server(uvicorn.Server):
    """uvicorn's, which drains before it shuts down, and ends as one that did what it was asked."""

    def __init__(
        self,
        config: uvicorn.Config,
        service: Service,
        log: Log,
        drain_seconds: float,
        parent: int | None,
        *,
        loads_first: bool,
    ) -> None:
        super().__init__(config)
        self._service = service
        self._log = log
        self._drain_seconds = drain_seconds
        self._drained_at = float("inf")
        self._parent = parent
        self._loads_first = loads_first

    def stop_after(self, loading: asyncio.Task[None]) -> None:
        """Ends at once where the bundle could not be loaded."""
        if not loading.cancelled() and loading.exception() is not None:
            self.should_exit = True

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begins to accept connections, unless it is to end before its bundle is there."""
        while self._loads_first and self._service.predictor is None and not self.should_exit:
            await asyncio.sleep(LOOK_SECONDS)
            self.should_exit = self.should_exit or self._service.draining or self._is_orphan()
        if not self.should_exit:
            await super().startup(sockets)

    async def on_tick(self, counter: int) -> bool:
        """Looks ten times a second whether it is time to shut down."""
        if time.monotonic() >= self._drained_at or self._is_orphan():
            self.should_exit = True
        return await super().on_tick(counter)

    def _is_orphan(self) -> bool:
        return self._parent not in (None, os.getppid())

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Takes the connections that wait to be accepted, then accepts no more, and answers all of them.

        A worker whose bundle could not be loaded leaves the socket to the others, which share it.
        """
        if self._service.predictor is None and not self._service.draining:
            await super().shutdown(sockets)
            return
        for listener in sockets or []:
            _take_no_more(listener)
        await asyncio.sleep(ACCEPT_SECONDS)
        # A busy loop comes to its timers before its sockets.
        for _ in range(100):
            is_waited_at = select.select(sockets or [], [], [], 0)[0]
            await asyncio.sleep(0.01)
            if not is_waited_at:
                break
        await super().shutdown(sockets)
        if self.server_state.tasks and not self.force_exit:
            # They were cancelled, and have that to say.
            await asyncio.wait(self.server_state.tasks, timeout=1.0)

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Unlike uvicorn's, does not raise the signal once more at the end."""
        caught = (signal.SIGTERM, signal.SIGINT) if self._parent is None else (END,)
        before = {each: signal.signal(each, self.handle_exit) for each in caught}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:  # noqa: ARG002 - uvicorn's names
        """Begins to drain; a second signal waits for nothing."""
        if self._service.draining:
            self.should_exit = self.force_exit = True
        else:
            self._log.event("ending", seconds=self._drain_seconds, advice="a second signal ends it at once")
        self._service.draining = True
        self._drained_at = time.monotonic() + self._drain_seconds


def _take_no_more(listener: socket.socket) -> None:
    """Keeps new connections from being made, and those that wait to be accepted: closing would reset them."""
    if sys.platform != "linux":
        listener.listen(0)
        return
    # Drops packets that would open one (SYN); whoever sends one is refused when the socket is closed.
    instructions = ctypes.create_string_buffer(
        b"".join(
            struct.pack("HBBI", *each)
            for each in (
                (0x30, 0, 0, 13),  # load the byte at 13 of TCP's header, its flags
                (0x45, 0, 1, 0x02),  # if it has the bit SYN
                (0x06, 0, 0, 0),  # keep 0 bytes of the packet
                (0x06, 0, 0, 0xFFFF),  # else all
            )
        )
    )
    program = struct.pack("HP", 4, ctypes.addressof(instructions))
    try:
        listener.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)
    except OSError:  # a sandbox may not allow it: then at most one connection waits, and may be reset
        listener.listen(0)


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
