"""Several processes on one port: started, watched, and told to end together."""

import contextlib
import os
import shutil
import signal
import socket
import sys
import tempfile
import time
import traceback
from collections.abc import Iterable
from pathlib import Path

from serving.errors import BowspritError, ExitCode, PlatformError
from serving.server.log import Log
from serving.server.settings import ServerSettings

RESTART_SECONDS = 1.0
"""Between the end of a worker that failed and the start of another."""
END = signal.SIGUSR1
"""By which the workers are told to end; they ignore SIGTERM and SIGINT."""


class Workers:
    """The worker processes. They are forked, before anything here has started a thread."""

    def __init__(
        self, source: Path | str, settings: ServerSettings, listener: socket.socket, log: Log
    ) -> None:
        self._source = source
        self._settings = settings
        self._listener = listener
        self._log = log
        self._started: set[int] = set()
        self._has_served = False
        """Whether any of them has had its bundle: before that, where one cannot serve it, nothing can."""
        self._ending = False

    def run(self) -> ExitCode:
        """Keeps the workers running until SIGTERM or SIGINT; returns how the server ended.

        Raises PlatformError where there is no folder for what they share.
        """
        # Read by prometheus_client when a worker imports it: their counters are kept together there.
        try:
            folder = tempfile.mkdtemp(prefix="bowsprit-metrics-")
        except OSError as error:
            raise PlatformError(
                "expected a temporary folder that can be written, for the metrics of several workers "
                f"({error.strerror or error}); name one by TMPDIR, or set BOW_SERVE_WORKERS=1"
            ) from error
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder
        signal.signal(signal.SIGTERM, self._end)
        signal.signal(signal.SIGINT, self._end)
        try:
            for _ in range(self._settings.workers):
                self._start(loads_first=False)
            return self._watch()
        finally:
            shutil.rmtree(folder, ignore_errors=True)

    def _watch(self) -> ExitCode:
        ended_by = ExitCode.DONE
        while self._started:
            pid, status = os.wait()
            if pid not in self._started:
                continue  # an orphan, which the system gives to the first process of a container
            self._started.remove(pid)
            code = os.waitstatus_to_exitcode(status)
            self._has_served = self._has_served or bool(_live_metrics("*"))
            for path in _live_metrics(pid):
                path.unlink(missing_ok=True)
            if self._ending:
                continue
            if code in _FAILURES and not self._has_served:
                ended_by = _FAILURES[code]
                self._end()
                continue
            self._log.event("worker_died", "error", worker=pid, exit_code=code)
            time.sleep(RESTART_SECONDS)
            # Till it has its bundle the others take the connections; where there are none, these wait.
            self._start(loads_first=True)
        return ended_by

    def _start(self, *, loads_first: bool) -> None:
        # A signal between the fork and what remembers it would miss the new worker.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
        if not self._ending:
            parent = os.getpid()
            pid = os.fork()
            if pid == 0:
                os._exit(self._be_worker(parent, before, loads_first=loads_first))
            self._started.add(pid)
        signal.pthread_sigmask(signal.SIG_SETMASK, before)

    def _be_worker(self, parent: int, mask: Iterable[signal.Signals | int], *, loads_first: bool) -> int:
        """A worker's whole life; returns its exit code."""
        # A terminal sends Ctrl-C to the workers too, and some supervisors SIGTERM: the parent tells them.
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        try:
            from serving.server.worker import work

            work(self._source, self._settings, self._listener, self._log, parent, loads_first=loads_first)
        except BowspritError as error:
            return error.exit_code  # the log says why
        except BaseException:  # noqa: BLE001 - whatever it is, this process ends here
            sys.stderr.write(traceback.format_exc())
            return ExitCode.BUG
        finally:
            sys.stderr.flush()
        return ExitCode.DONE

    def _end(self, *_: object) -> None:
        self._ending = True
        # The workers' copies go on accepting while they drain.
        self._listener.close()
        for pid in self._started:
            # One that has ended is known as such a moment later.
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, END)


_FAILURES = {int(code): code for code in ExitCode if code}


def _live_metrics(pid: int | str) -> list[Path]:
    """The files of what only a running process may say; it has one from its first bundle on."""
    return list(Path(os.environ["PROMETHEUS_MULTIPROC_DIR"]).glob(f"gauge_live*_{pid}.db"))
