"""Threads that take a share of the pieces of a long list."""

import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait

LEAST = 4
"""Pieces for each thread, at least: to wake one takes as long as a piece or two."""


class Helpers:
    """At most so many threads beside the one that asks. Several may ask at a time.

    They start when they are first needed, and in a process that was forked since once more: threads are not
    copied. They end with this object.
    """

    def __init__(self, number: int) -> None:
        self._number = number
        self._process: int | None = None
        self._threads: ThreadPoolExecutor

    def share(self, call: Callable[[int], None], pieces: int) -> None:
        """Calls `call` with every number below `pieces`; no call is under way when it returns, or raises.

        Raises what one of them has raised; some pieces are not begun then.
        """
        left = deque(range(pieces))

        def take() -> None:
            while True:
                try:
                    piece = left.popleft()
                except IndexError:
                    return
                call(piece)

        helpers = self._asked(take, min(self._number, pieces // LEAST - 1))
        try:
            take()
        finally:
            left.clear()
            wait([each for each in helpers if not each.cancel()])
        for each in helpers:
            if not each.cancelled():
                each.result()

    def _asked(self, take: Callable[[], None], number: int) -> list[Future[None]]:
        """So many threads, or fewer where the system allows no more of them."""
        asked: list[Future[None]] = []
        try:
            for _ in range(number):
                if self._process != os.getpid():
                    self._threads = ThreadPoolExecutor(self._number, "predict")
                    self._process = os.getpid()  # last, for others who ask meanwhile
                asked.append(self._threads.submit(take))
        except RuntimeError:
            self._number = len(asked)  # what is asked of a thread that does not start stays in memory
        return asked
