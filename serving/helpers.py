"""Threads that take a share of the pieces of a long list."""

import contextlib
import os
import queue
import threading
import weakref
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

LEAST = 4
"""Pieces for each thread, at least: to wake one takes as long as a piece or two."""


class _Job(NamedTuple):
    call: Callable[[int], None]
    left: deque[int]
    """Pieces that nobody has begun."""
    begun: list[None]
    """An entry for each helper that takes part, from before its first piece on."""
    ended: queue.SimpleQueue[BaseException | None]
    """What stopped each of them, when it has ended."""


class Helpers:
    """At most so many threads beside the one that asks. Several may ask at a time.

    They start when they are first needed, and in a process that was forked since once more: threads are not
    copied. They end with this object.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self._jobs = queue.SimpleQueue[_Job | None]()
        self._lock = threading.Lock()
        self._process: int | None = None
        self._num_started = 0

    def share(self, call: Callable[[int], None], pieces: int) -> None:
        """Calls `call` with every number below `pieces`; no call is under way when it returns, or raises.

        Raises what one of them has raised; some pieces are not begun then.
        """
        number = min(self._number, pieces // LEAST - 1)
        if number < 1:
            for piece in range(pieces):
                call(piece)
            return
        job = _Job(call, deque(range(pieces)), [], queue.SimpleQueue())
        for _ in range(min(number, self._start())):
            self._jobs.put(job)
        try:
            _take(job)
        finally:
            job.left.clear()
            errors = [job.ended.get() for _ in range(len(job.begun))]
        for error in errors:
            if error is not None:
                raise error

    def _start(self) -> int:
        """Starts them, if that is still to do; returns how many there are: the system may allow fewer."""
        with self._lock:
            if self._process != os.getpid():
                self._process = os.getpid()
                self._num_started = 0
                self._jobs = queue.SimpleQueue()
                weakref.finalize(self, _end, self._jobs, self._number)
                with contextlib.suppress(RuntimeError):
                    for _ in range(self._number):
                        threading.Thread(target=_help, args=[self._jobs], name="predict", daemon=True).start()
                        self._num_started += 1
            return self._num_started


def _help(jobs: "queue.SimpleQueue[_Job | None]") -> None:
    while _take_part(jobs.get()):
        pass


def _end(jobs: "queue.SimpleQueue[_Job | None]", number: int) -> None:
    for _ in range(number):
        jobs.put(None)


def _take_part(job: _Job | None) -> bool:
    """Whether there was a job; nothing of it is kept while the next one is waited for."""
    if job is None:
        return False
    job.begun.append(None)
    try:
        _take(job)
    except BaseException as error:  # noqa: BLE001 - raised where it was asked for
        job.left.clear()
        job.ended.put(error)
    else:
        job.ended.put(None)
    return True


def _take(job: _Job) -> None:
    """Does piece after piece, until none is left."""
    while True:
        try:
            piece = job.left.popleft()
        except IndexError:
            return
        job.call(piece)
