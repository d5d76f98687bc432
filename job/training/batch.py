"""A mini-batch: what a training step needs so that it neither sorts nor searches, and how it is kept."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor

from job.corpus.bags import Bags, Ids

_TORCH = {"uint16": torch.uint16, "int32": torch.int32, "float32": torch.float32}


@dataclass(frozen=True, kw_only=True)
class WordBlock:
    """Some of the words of a batch, and the rows in which they stand: u words."""

    words: Tensor
    """Their ids, ascending: int32 [u]."""
    rows: Tensor
    """The row of every token, ascending within a word: int32 [n]."""
    offsets: Tensor
    """The word at place j is in `rows[offsets[j]:offsets[j + 1]]`: int32 [u + 1]."""
    values: Tensor | None
    """What each token counts there: float32 [n]; None where each counts once."""
    pieces: Tensor | None = None
    """Where the words are cut into q pieces, those of `rows`: int32 [q + 1]; `offsets` then are of pieces."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """B rows as a sparse count matrix in both directions: by row, and by word."""

    ids: Tensor
    """The words of every row's tokens, by id; if there is one block, by their place in it: int32 [nnz]."""
    pieces: Tensor | None = None
    """Where the rows are cut into q pieces, those of `ids`: int32 [q + 1]; `offsets` then are of pieces."""
    offsets: Tensor
    """Row i is `ids[offsets[i]:offsets[i + 1]]`: int32 [B + 1]."""
    values: Tensor | None
    """What each token counts: float32 [nnz]; None where each counts once."""
    labels: Tensor
    """int64 [B]."""
    weights: Tensor | None = None
    """How much each row counts: float32 [B]; None where each counts once."""
    count: Tensor | None = None
    """The rows without padding, float32 [1]; None where there is none."""
    blocks: tuple[WordBlock, ...]
    """Every word that occurs is in one of them."""

    @property
    def num_rows(self) -> int:
        """How many rows there are: B."""
        return len(self.labels)

    @property
    def num_tokens(self) -> int:
        """Of all rows: nnz."""
        return self.ids.numel()

    @property
    def is_one_block(self) -> bool:
        """Whether the cache holds the rows of all words that occur."""
        return len(self.blocks) == 1


@dataclass(frozen=True)
class Parts:
    """What a packed batch holds, one after the other."""

    kinds: tuple[tuple[torch.dtype, int], ...]
    """The type of each part, and how many numbers it has."""
    has_values: bool
    """Whether the tokens' values follow the blocks, by row and by word."""
    has_weights: bool
    """Whether the last is the rows' weights."""

    @property
    def num_tokens(self) -> int:
        """Of all rows: nnz."""
        return self.kinds[0][1]

    @property
    def num_rows(self) -> int:
        """How many rows there are: B."""
        return self.kinds[1][1]

    @property
    def num_words(self) -> int:
        """How many words occur, in the first block."""
        return self.kinds[3][1] if self.num_tokens else 0

    @property
    def num_bytes(self) -> int:
        """Of all parts: each begins at a multiple of four bytes."""
        return sum(_aligned(dtype.itemsize * length) for dtype, length in self.kinds)


@dataclass(frozen=True, kw_only=True)
class PackedBatch:
    """A batch as it is kept: one piece of memory, about two thirds as large, that is copied in one go.

    Numbers take 16 bits where they fit, of what only grows the steps are kept, and for a word's id its place
    among the batch's words.
    """

    data: Tensor
    """All parts: uint8 [bytes]."""
    parts: Parts

    def to(self, device: torch.device) -> "PackedBatch":
        """The same batch on a device; where its memory is pinned, without waiting for that."""
        return PackedBatch(data=self.data.to(device, non_blocking=True), parts=self.parts)

    def unpack(self) -> Batch:
        """The batch, on the device that it is on."""
        places, lengths, labels, *blocks = self._parts()
        values = by_word = weights = None
        if self.parts.has_weights:
            *blocks, weights = blocks
        if self.parts.has_values:
            *blocks, values, by_word = blocks
        words = [steps.cumsum(0, dtype=torch.int32) for steps in blocks[::3]]
        sizes = [len(rows) for rows in blocks[2::3]]
        values_of = [None] * len(words) if by_word is None else torch.split(by_word, sizes)
        return Batch(
            ids=places if len(words) == 1 else torch.cat([places[:0], *words]).index_select(0, places),
            offsets=_offsets(lengths),
            values=values,
            labels=labels.long(),
            weights=weights,
            blocks=tuple(
                WordBlock(words=some, rows=rows, offsets=_offsets(counts), values=each)
                for some, counts, rows, each in zip(words, blocks[1::3], blocks[2::3], values_of, strict=True)
            ),
        )

    def _parts(self) -> Iterator[Tensor]:
        """The parts, each int32 or float32."""
        start = 0
        for dtype, length in self.parts.kinds:
            size = length * dtype.itemsize
            part = self.data[start : start + size].view(dtype)
            yield part if dtype is torch.float32 else part.int()
            start += _aligned(size)


def _offsets(lengths: Tensor) -> Tensor:
    return F.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))


def _aligned(size: int) -> int:
    """A part's size with what keeps the next one, which may be of int32, at a multiple of four bytes."""
    return -(-size // 4) * 4


def pack(bags: Bags, *, block_size: int) -> PackedBatch:
    """The batch of some rows; a block holds at most `block_size` words."""
    row_of_token = np.repeat(np.arange(bags.num_rows, dtype=np.int32), np.diff(bags.offsets))
    by_word = sort_order(bags.ids)
    sorted_ids, sorted_rows = bags.ids[by_word], row_of_token[by_word]
    is_first = np.ones(len(sorted_ids), dtype=bool)
    np.not_equal(sorted_ids[1:], sorted_ids[:-1], out=is_first[1:])
    starts = np.append(np.flatnonzero(is_first), len(sorted_ids))
    words = sorted_ids[starts[:-1]]
    places = np.empty(len(by_word), np.int32)
    places[by_word] = np.cumsum(is_first, dtype=np.int32) - 1
    parts = [places, np.diff(bags.offsets), bags.labels]
    for first in range(0, len(words), block_size):
        ends = starts[first : first + block_size + 1]
        steps = np.diff(words[first : first + block_size], prepend=0)
        parts += [steps, np.diff(ends), sorted_rows[ends[0] : ends[-1]]]
    narrow: list[npt.NDArray[Any]] = [_narrow(part) for part in parts]
    if bags.values is not None:
        narrow += [bags.values, bags.values[by_word]]
    if bags.weights is not None:
        narrow.append(bags.weights)
    kinds = Parts(
        tuple((_TORCH[part.dtype.name], len(part)) for part in narrow),
        has_values=bags.values is not None,
        has_weights=bags.weights is not None,
    )
    data = np.empty(kinds.num_bytes, np.uint8)
    start = 0
    for part in narrow:
        data[start : start + part.nbytes] = part.view(np.uint8)
        start += _aligned(part.nbytes)
    return PackedBatch(data=torch.from_numpy(data), parts=kinds)


def _narrow(values: npt.NDArray[np.integer]) -> npt.NDArray[np.uint16] | npt.NDArray[np.int32]:
    """The same non-negative numbers in 16 bits where they fit."""
    return values.astype(np.uint16) if values.max(initial=0) < 1 << 16 else values.astype(np.int32)


def sort_order(ids: Ids) -> npt.NDArray[np.int64]:
    """The stable order that sorts non-negative ids, [n]: half by half, since numpy sorts 16 bits by radix.

    >>> sort_order(np.array([70_000, 3, 70_000, 1], np.int32)).tolist()
    [3, 1, 0, 2]
    """
    order = np.argsort((ids & 0xFFFF).astype(np.uint16), kind="stable")
    if len(ids) and int(ids.max()) > 0xFFFF:
        order = order[np.argsort((ids >> 16).astype(np.uint16)[order], kind="stable")]
    return order
