"""Mini-batches prepared once and kept: what a training step needs so that it neither sorts nor searches."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from job.corpus import CHUNK_ROWS, Corpus, Ids, take_rows
from job.scratch import scratch_array


@dataclass(frozen=True, kw_only=True)
class WordBlock:
    """Some of the words of a batch, and the rows in which they stand: u words."""

    words: Tensor
    """Their ids, ascending: int32 [u]."""
    rows: Tensor
    """The row of every token, ascending within a word: int32 [n]."""
    offsets: Tensor
    """The word at place j is in `rows[offsets[j]:offsets[j + 1]]`: int32 [u + 1]."""

    def to(self, device: torch.device) -> "WordBlock":
        """The same block on a device."""
        return WordBlock(
            words=self.words.to(device), rows=self.rows.to(device), offsets=self.offsets.to(device)
        )


@dataclass(frozen=True, kw_only=True)
class Batch:
    """B rows as a sparse count matrix in both directions: by row, and by word."""

    ids: Tensor
    """The word ids of every row's tokens: int32 [nnz]."""
    offsets: Tensor
    """Row i is `ids[offsets[i]:offsets[i + 1]]`: int32 [B + 1]."""
    labels: Tensor
    """int64 [B]."""
    blocks: tuple[WordBlock, ...]
    """Every word that occurs is in one of them."""

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device."""
        return Batch(
            ids=self.ids.to(device),
            offsets=self.offsets.to(device),
            labels=self.labels.to(device),
            blocks=tuple(block.to(device) for block in self.blocks),
        )


def row_order(
    num_rows: int, *, seed: int, shuffle: bool, scratch: Path | None = None
) -> npt.NDArray[np.int64]:
    """Which rows stand together in a batch: fixed for the whole run, a pure function of the seed.

    With `scratch`, a folder, the array is there; raises PlatformError as `scratch_array` does.
    """
    order = scratch_array(num_rows, np.int64, scratch)
    for first in range(0, num_rows, CHUNK_ROWS):
        order[first : first + CHUNK_ROWS] = np.arange(first, min(num_rows, first + CHUNK_ROWS))
    if shuffle:
        np.random.Generator(np.random.PCG64([seed, 0])).shuffle(order)
    return order


def batch_order(num_batches: int, *, seed: int, epoch: int, shuffle: bool) -> list[int]:
    """The order of the batches in an epoch (from 0): a pure function of seed and epoch."""
    if not shuffle:
        return list(range(num_batches))
    order: list[int] = (
        np.random.Generator(np.random.PCG64([seed, 1 + epoch])).permutation(num_batches).tolist()
    )
    return order


def prepare_batches(
    corpus: Corpus,
    *,
    batch_size: int,
    block_size: int,
    seed: int,
    shuffle: bool,
    num_threads: int,
    scratch: Path | None = None,
) -> Iterator[Batch]:
    """Cuts the corpus into batches of `batch_size` rows (the last may be smaller), on the CPU.

    They come in their order, and no more than a few of them are made ahead of the one that is asked for.

    block_size: words of a block, at most.
    scratch: a folder for what memory need not hold. Raises PlatformError where that has no room.
    """
    order = row_order(corpus.num_rows, seed=seed, shuffle=shuffle, scratch=scratch)
    parts = (order[first : first + batch_size] for first in range(0, len(order), batch_size))
    calls = (partial(prepare_batch, corpus, rows, block_size=block_size) for rows in parts)
    return _made_ahead(calls, num_threads=num_threads)


def prepare_batch(corpus: Corpus, rows: npt.NDArray[np.int64], *, block_size: int) -> Batch:
    """One batch of the named rows."""
    ids, offsets = take_rows(corpus.ids, corpus.offsets, rows)
    row_of_token = np.repeat(np.arange(len(rows), dtype=np.int32), np.diff(offsets))
    by_word = sort_order(ids)
    sorted_ids, sorted_rows = ids[by_word], row_of_token[by_word]
    is_first = np.ones(len(ids), dtype=bool)
    np.not_equal(sorted_ids[1:], sorted_ids[:-1], out=is_first[1:])
    starts = np.append(np.flatnonzero(is_first), len(ids))
    words = sorted_ids[starts[:-1]]
    return Batch(
        ids=torch.from_numpy(ids),
        offsets=torch.from_numpy(offsets.astype(np.int32)),
        labels=torch.from_numpy(corpus.labels[rows]),
        blocks=tuple(
            _block(words[first : first + block_size], sorted_rows, starts[first : first + block_size + 1])
            for first in range(0, len(words), block_size)
        ),
    )


def sort_order(ids: Ids) -> npt.NDArray[np.int64]:
    """The stable order that sorts non-negative ids, [n]: half by half, since numpy sorts 16 bits by radix.

    >>> sort_order(np.array([70_000, 3, 70_000, 1], np.int32)).tolist()
    [3, 1, 0, 2]
    """
    order = np.argsort((ids & 0xFFFF).astype(np.uint16), kind="stable")
    if len(ids) and int(ids.max()) > 0xFFFF:
        order = order[np.argsort((ids >> 16).astype(np.uint16)[order], kind="stable")]
    return order


def _block(words: Ids, rows: Ids, starts: npt.NDArray[np.int64]) -> WordBlock:
    return WordBlock(
        words=torch.from_numpy(words),
        rows=torch.from_numpy(rows[starts[0] : starts[-1]]),
        offsets=torch.from_numpy((starts - starts[0]).astype(np.int32)),
    )


def in_order(batches: Sequence[Batch], *, seed: int, epoch: int, shuffle: bool) -> Iterator[Batch]:
    """The batches of one epoch; those that are not at hand are fetched ahead of the step that needs them."""
    order = batch_order(len(batches), seed=seed, epoch=epoch, shuffle=shuffle)
    if isinstance(batches, list):
        yield from (batches[index] for index in order)
        return
    yield from _made_ahead((partial(batches.__getitem__, index) for index in order), num_threads=1)


def _made_ahead(calls: Iterable[Callable[[], Batch]], *, num_threads: int) -> Iterator[Batch]:
    """What the calls return, in their order; at most `num_threads` more are held, made or being made."""
    with ThreadPoolExecutor(num_threads) as pool:
        pending: deque[Future[Batch]] = deque()
        for call in calls:
            pending.append(pool.submit(call))
            if len(pending) > num_threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
