"""Mini-batches prepared once and kept: what a training step needs so that it neither sorts nor searches."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from job.corpus import Corpus, take_rows


@dataclass(frozen=True, kw_only=True)
class Batch:
    """B rows as a sparse count matrix over the U words that occur in them, in both directions."""

    features: Tensor
    """The ids of the words that occur, ascending: int32 [U]."""
    words: Tensor
    """By row: the place in `features` of every token: int32 [nnz]."""
    offsets: Tensor
    """Row i is `words[offsets[i]:offsets[i + 1]]`: int32 [B + 1]."""
    rows: Tensor
    """By word: the row of every token, ascending within a word: int32 [nnz]."""
    feature_offsets: Tensor
    """The word at place j is in `rows[feature_offsets[j]:feature_offsets[j + 1]]`: int32 [U + 1]."""
    labels: Tensor
    """int64 [B]."""

    def to(self, device: torch.device) -> "Batch":
        """The same batch on a device."""
        return Batch(
            features=self.features.to(device),
            words=self.words.to(device),
            offsets=self.offsets.to(device),
            rows=self.rows.to(device),
            feature_offsets=self.feature_offsets.to(device),
            labels=self.labels.to(device),
        )


def row_order(num_rows: int, *, seed: int, shuffle: bool) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    """Which rows stand together in a batch: fixed for the whole run, a pure function of the seed."""
    if not shuffle:
        return np.arange(num_rows)
    return np.random.Generator(np.random.PCG64([seed, 0])).permutation(num_rows)


def batch_order(num_batches: int, *, seed: int, epoch: int, shuffle: bool) -> list[int]:
    """The order of the batches in an epoch (from 0): a pure function of seed and epoch."""
    if not shuffle:
        return list(range(num_batches))
    order: list[int] = (
        np.random.Generator(np.random.PCG64([seed, 1 + epoch])).permutation(num_batches).tolist()
    )
    return order


def prepare_batches(
    corpus: Corpus, *, batch_size: int, seed: int, shuffle: bool, num_threads: int
) -> list[Batch]:
    """Cuts the corpus into batches of `batch_size` rows (the last may be smaller), on the CPU."""
    order = row_order(corpus.num_rows, seed=seed, shuffle=shuffle)
    parts = [order[start : start + batch_size] for start in range(0, len(order), batch_size)]
    with ThreadPoolExecutor(num_threads) as pool:
        return list(pool.map(lambda rows: prepare_batch(corpus, rows), parts))


def prepare_batch(corpus: Corpus, rows: np.ndarray[tuple[int], np.dtype[np.int64]]) -> Batch:
    """One batch of the named rows."""
    ids, offsets = take_rows(corpus.ids, corpus.offsets, rows)
    row_of_token = np.repeat(np.arange(len(rows), dtype=np.int32), np.diff(offsets))
    by_word = np.argsort(ids, kind="stable")
    sorted_ids = ids[by_word]
    is_first = np.ones(len(ids), dtype=bool)
    np.not_equal(sorted_ids[1:], sorted_ids[:-1], out=is_first[1:])
    words = np.empty(len(ids), dtype=np.int32)
    words[by_word] = np.cumsum(is_first, dtype=np.int32) - 1
    starts = np.flatnonzero(is_first)
    return Batch(
        features=torch.from_numpy(sorted_ids[starts]),
        words=torch.from_numpy(words),
        offsets=torch.from_numpy(offsets.astype(np.int32)),
        rows=torch.from_numpy(row_of_token[by_word]),
        feature_offsets=torch.from_numpy(np.append(starts, len(ids)).astype(np.int32)),
        labels=torch.from_numpy(corpus.labels[rows]),
    )


def in_order(batches: list[Batch], *, seed: int, epoch: int, shuffle: bool) -> Iterator[Batch]:
    """The batches of one epoch."""
    for index in batch_order(len(batches), seed=seed, epoch=epoch, shuffle=shuffle):
        yield batches[index]
