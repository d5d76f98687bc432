"""A corpus cut into mini-batches: prepared once, and gone through in another order each epoch."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path

import numpy as np

from job.corpus.ahead import made_ahead
from job.corpus.bags import Bags, concatenate
from job.corpus.shuffle import Run, buckets_for, in_file_order, shuffled
from job.training.batch import PackedBatch, pack


def runs_of(
    blocks: Iterable[Bags], num_ids: int, *, seed: int, shuffle: bool, scratch: Path | None = None
) -> Iterator[Run]:
    """The rows of a corpus of about `num_ids` ids, as `shuffled` gives them, or in their own order."""
    if not shuffle:
        return in_file_order(blocks)
    return shuffled(blocks, num_buckets=buckets_for(num_ids), seed=seed, scratch=scratch)


def prepare_batches(
    runs: Iterable[Run], *, batch_size: int, block_size: int, num_threads: int
) -> Iterator[PackedBatch]:
    """Cuts the rows into batches of `batch_size` (the last may be smaller), on the CPU.

    They come in their order, and no more than a few of them are made ahead of the one that is asked for.

    block_size: words of a block, at most.
    """
    calls = (partial(_make, rows, block_size) for rows in _cut(runs, batch_size))
    return made_ahead(calls, num_threads=num_threads)


def batch_order(num_batches: int, *, seed: int, epoch: int, shuffle: bool) -> Sequence[int]:
    """The order of the batches in an epoch (from 0): a pure function of seed and epoch."""
    if not shuffle:
        return range(num_batches)
    order: list[int] = (
        np.random.Generator(np.random.PCG64([seed, 1 + epoch])).permutation(num_batches).tolist()
    )
    return order


def _make(rows: Callable[[], Bags], block_size: int) -> PackedBatch:
    return pack(rows(), block_size=block_size)


def _cut(runs: Iterable[Run], batch_size: int) -> Iterator[Callable[[], Bags]]:
    """What gives the rows of each batch; what a run leaves over begins the next run's first batch."""
    left: list[Bags] = []
    num_left = 0
    for bags, order in runs:
        while len(order):
            rows, order = np.split(order, [batch_size - num_left])
            if not num_left and len(rows) == batch_size:
                yield partial(bags.take, rows)
                continue
            left.append(bags.take(rows))
            num_left += len(rows)
            if num_left == batch_size:
                yield partial(concatenate, left)
                left, num_left = [], 0
        del bags  # or it would stay in memory while the next one is made
    if left:
        yield partial(concatenate, left)
