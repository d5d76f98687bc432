"""Work that other threads do ahead of the one that needs it."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def made_ahead(calls: Iterable[Callable[[], T]], *, num_threads: int) -> Iterator[T]:
    """What the calls return, in their order; at most `num_threads` more are held, made or being made."""
    with ThreadPoolExecutor(num_threads) as pool:
        pending: deque[Future[T]] = deque()
        for call in calls:
            pending.append(pool.submit(call))
            if len(pending) > num_threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
