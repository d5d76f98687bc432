"""Mini-batches of one shape: what a GPU can be told once and repeat (recorded.py).

A batch is filled up with rows of no weight, which hold tokens of a word that is none: its weights are in the
row 0 of the tables, which the others follow, and stay zero. And bags are summed in two levels, first pieces
of them, then the pieces: a GPU sums a bag in one thread, and the most frequent word of a batch has thousands
of tokens.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from job.training.batch import Batch, PackedBatch, Parts, WordBlock

PIECE = 128
"""Tokens of a piece, at most: a word that fills a large batch has about as many pieces."""
_ALIGNMENT = 8
"""Bytes at a multiple of which each part begins, as its longest numbers must."""


@dataclass(frozen=True, kw_only=True)
class Shape:
    """How much there is room for in every batch: in one more row and one more word than any of them has."""

    num_rows: int
    num_tokens: int
    num_words: int
    has_values: bool
    has_weights: bool

    @classmethod
    def of(cls, batches: Iterable[Parts]) -> "Shape":
        """The smallest that fits all of some batches, each of one block of words; there must be one batch."""
        all_parts = list(batches)
        return cls(
            num_rows=1 + max(parts.num_rows for parts in all_parts),
            num_tokens=max(1, *(parts.num_tokens for parts in all_parts)),
            num_words=1 + max(parts.num_words for parts in all_parts),
            has_values=any(parts.has_values for parts in all_parts),
            has_weights=any(parts.has_weights for parts in all_parts),
        )

    @property
    def num_bytes(self) -> int:
        """Of a batch."""
        return sum(_aligned(dtype.itemsize * length) for dtype, length in self._kinds().values())

    def parts(self, data: Tensor) -> dict[str, Tensor]:
        """The parts of a batch by name, all of one piece of memory: uint8 [num_bytes]."""
        parts, start = {}, 0
        for name, (dtype, length) in self._kinds().items():
            size = dtype.itemsize * length
            parts[name] = data[start : start + size].view(dtype)
            start += _aligned(size)
        return parts

    def _kinds(self) -> dict[str, tuple[torch.dtype, int]]:
        # Bags of n tokens in all have at most n / PIECE whole pieces, and one that is not whole each.
        row_pieces = self.num_tokens // PIECE + self.num_rows
        word_pieces = self.num_tokens // PIECE + self.num_words
        kinds = {
            "labels": (torch.int64, self.num_rows),
            "words": (torch.int64, self.num_words),
            "count": (torch.float32, 1),
            "weights": (torch.float32, self.num_rows),
            "ids": (torch.int32, self.num_tokens),
            "id_pieces": (torch.int32, row_pieces + 1),
            "offsets": (torch.int32, self.num_rows + 1),
            "rows": (torch.int32, self.num_tokens),
            "row_pieces": (torch.int32, word_pieces + 1),
            "word_offsets": (torch.int32, self.num_words + 1),
        }
        if self.has_values:
            kinds["values"] = kinds["word_values"] = (torch.float32, self.num_tokens)
        return kinds


@dataclass(frozen=True, kw_only=True)
class PaddedBatch:
    """A batch with its padding, in one piece of memory."""

    data: Tensor
    """uint8 [bytes]."""
    shape: Shape
    num_rows: int
    """Without padding."""
    num_tokens: int
    """Without padding."""

    def batch(self) -> Batch:
        """The same memory as a batch for a step on tables that have the row 0 of no word."""
        parts = self.shape.parts(self.data)
        return Batch(
            ids=parts["ids"],
            pieces=parts["id_pieces"],
            offsets=parts["offsets"],
            values=parts.get("values"),
            labels=parts["labels"],
            weights=parts["weights"],
            count=parts["count"],
            blocks=(
                WordBlock(
                    words=parts["words"],
                    rows=parts["rows"],
                    pieces=parts["row_pieces"],
                    offsets=parts["word_offsets"],
                    values=parts.get("word_values"),
                ),
            ),
        )


def padded(packed: PackedBatch, shape: Shape) -> PaddedBatch:
    """A batch of at most one block, padded to a shape, on its device, which is not waited for."""
    batch = packed.unpack()
    device = batch.labels.device
    data = torch.zeros(shape.num_bytes, dtype=torch.uint8, device=device)
    parts = shape.parts(data)
    num_rows, num_tokens = batch.num_rows, batch.num_tokens
    parts["labels"][:num_rows] = batch.labels
    parts["count"].fill_(num_rows)
    parts["weights"][:num_rows] = 1.0 if batch.weights is None else batch.weights
    parts["ids"].fill_(shape.num_words - 1)
    parts["rows"].fill_(shape.num_rows - 1)
    word_offsets = batch.offsets[:1]
    for block in batch.blocks:
        word_offsets = block.offsets
        parts["words"][: len(block.words)] = block.words + 1
        parts["ids"][:num_tokens] = batch.ids
        parts["rows"][:num_tokens] = block.rows
        if batch.values is not None and block.values is not None:
            parts["values"][:num_tokens] = batch.values
            parts["word_values"][:num_tokens] = block.values
    for offsets, pieces, bags in (
        (batch.offsets, "id_pieces", "offsets"),
        (word_offsets, "row_pieces", "word_offsets"),
    ):
        _cut(_filled_up(offsets, shape.num_tokens, len(parts[bags])), parts[pieces], parts[bags])
    return PaddedBatch(data=data, shape=shape, num_rows=num_rows, num_tokens=num_tokens)


def _filled_up(offsets: Tensor, num_tokens: int, length: int) -> Tensor:
    """The offsets of as many bags as there is room for: the first one added holds all padding."""
    return F.pad(offsets, (0, length - len(offsets)), value=num_tokens)


def _cut(offsets: Tensor, pieces: Tensor, bags: Tensor) -> None:
    """Cuts bags into pieces of at most `PIECE` tokens.

    offsets: of g bags, int32 [g + 1]. Written are `pieces`, the offsets of q pieces, int32 [q + 1], of which
    the last are empty; and `bags`, [g + 1]: those of bag i are from `bags[i]` until before `bags[i + 1]`.
    """
    lengths = offsets.diff()
    bags.copy_(F.pad(((lengths + (PIECE - 1)) // PIECE).cumsum(0, dtype=torch.int32), (1, 0)))
    number = torch.arange(len(pieces), dtype=torch.int32, device=pieces.device)
    # The last bag that begins with this piece or before it: bags without a token have no piece.
    bag = (torch.searchsorted(bags, number, right=True, out_int32=True) - 1).clamp_(max=len(bags) - 1)
    starts = offsets.index_select(0, bag) + PIECE * (number - bags.index_select(0, bag))
    pieces.copy_(torch.minimum(starts, offsets[-1]))


def _aligned(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
