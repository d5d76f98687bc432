"""Threads that take a share of the pieces of a long list."""

import os
import queue
import threading
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from typing import NamedTuple

LEAST = 4
"""Pieces for each thread, at least: to wake one takes as long as a piece or two."""


class _Job(NamedTuple):
    call: Callable[[int], None]
    left: deque[int]
    """Pieces that nobody has begun."""
    ended: queue.SimpleQueue[BaseException | None]
    """What each piece that a helper took has raised."""


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

    def share(self, call: Callable[[int], None], pieces: int) -> None:
        """Calls `call` with every number below `pieces`, and returns when all calls have.

        Raises what one of them has raised; some pieces are not begun then.
        """
        number = min(self._number, pieces // LEAST - 1)
        if number < 1:
            for piece in range(pieces):
                call(piece)
            return
        self._start()
        job = _Job(call, deque(range(pieces)), queue.SimpleQueue())
        for _ in range(number):
            self._jobs.put(job)
        own = 0
        try:
            for piece in _taken(job.left):
                own += 1
                call(piece)
            for _ in range(pieces - own):
                error = job.ended.get()
                if error is not None:
                    raise error
        finally:
            job.left.clear()

    def _start(self) -> None:
        with self._lock:
            if self._process != os.getpid():
                self._process = os.getpid()
                self._jobs = queue.SimpleQueue()
                for _ in range(self._number):
                    threading.Thread(target=_help, args=[self._jobs], name="predict", daemon=True).start()
                weakref.finalize(self, _end, self._jobs, self._number)


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
    for piece in _taken(job.left):
        try:
            job.call(piece)
        except BaseException as error:  # noqa: BLE001 - raised where it was asked for
            job.ended.put(error)
        else:
            job.ended.put(None)
    return True


def _taken(left: deque[int]) -> Iterator[int]:
    """Takes piece after piece, until none is left."""
    while True:
        try:
            piece = left.popleft()
        except IndexError:
            return
        yield piece
