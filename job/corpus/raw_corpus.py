"""A data set as it was read: its tokens and labels are numbered, and no vocabulary is chosen yet."""

from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from job.corpus.bags import Bags


@dataclass(frozen=True, kw_only=True)
class RawCorpus:
    """N rows, block by block: their ids are places in `tokens`, their labels places in `label_names`."""

    tokens: pa.StringArray
    """The distinct tokens, [D], in the order in which they first appear."""
    counts: npt.NDArray[np.int64]
    """How often each of them was seen in all blocks, [D]."""
    label_names: list[str]
    """The distinct labels, in the order in which they first appear."""
    blocks: Iterable[Bags]
    """An id of -1 is a token that was dropped while counting."""
    num_rows: int
    """N."""
    num_tokens: int
    """In all blocks."""
    kept: npt.NDArray[np.bool_] | None = None
    """Which rows of the blocks are the corpus's own; None where all are."""

    def __iter__(self) -> Iterator[Bags]:
        return self._kept(self.blocks)

    def drain(self) -> Iterator[Bags]:
        """The same blocks for the last time: none stays in memory once the next is asked for."""
        if self.kept is None and isinstance(self.blocks, deque):
            return _popped(self.blocks)
        return iter(self)

    def labels(self) -> npt.NDArray[np.int32]:
        """The label of every row, [N]."""
        return np.concatenate([block.labels.astype(np.int32, copy=False) for block in self])

    @property
    def has_weights(self) -> bool:
        """Whether rows count more or less than once in training."""
        first = next(iter(self.blocks), None)
        return first is not None and first.weights is not None

    def label_sums(self) -> dict[str, float]:
        """What the rows of each label weigh together, by its name: their number where each counts once.

        The sums go row by row, so that it does not matter how rows are cut into blocks.
        """
        sums = np.zeros(len(self.label_names))
        for block in self:
            np.add.at(sums, block.labels, 1 if block.weights is None else block.weights)
        return dict(zip(self.label_names, sums.tolist(), strict=True))

    def token_counts(self) -> npt.NDArray[np.int64]:
        """How often each of `tokens` was seen in the corpus's own rows, whatever they weigh, [D]."""
        if self.kept is None:
            return self.counts
        counts = np.zeros(len(self.tokens) + 1, np.int64)
        for block in self:
            counts += np.bincount(block.ids + 1, minlength=len(counts))
        return counts[1:]

    def take(self, kept: npt.NDArray[np.bool_]) -> "RawCorpus":
        """Some of the rows of a whole corpus, [N], in their order; everything keeps its number."""
        assert self.kept is None
        return replace(self, kept=kept, num_rows=int(kept.sum()))

    def _kept(self, blocks: Iterable[Bags]) -> Iterator[Bags]:
        first = 0
        for block in blocks:
            last = first + block.num_rows
            yield block if self.kept is None else block.take(np.flatnonzero(self.kept[first:last]))
            first = last


def _popped(blocks: deque[Bags]) -> Iterator[Bags]:
    while blocks:
        yield blocks.popleft()
