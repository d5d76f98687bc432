"""From blocks of texts to one numbering of their tokens and labels; where the blocks are kept is open."""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from job.corpus.bags import Bags, Ids, Values
from job.corpus.memory import give_back_freed_memory
from job.corpus.raw_corpus import RawCorpus
from job.dataset import Rows
from job.features.numbering import Numbering
from job.features.tokens import TokenBlock, tokenize
from serving.features.specification import PLAIN, FeatureSpec

MIN_WAITING = 1 << 20
"""Entries of the blocks' dictionaries that are waited for at least."""


@dataclass(frozen=True, kw_only=True)
class RowBlock:
    """One block of a data set, tokenized: what a reading thread hands on."""

    tokens: TokenBlock
    labels: pa.DictionaryArray
    """[n], dictionary-encoded."""
    sample: pa.StringArray
    """The block's first texts, as they were."""
    weights: Values | None = None
    """How much each row counts in training, [n]; None where each counts once."""


def tokenize_rows(rows: Rows, *, sample: int, features: FeatureSpec = PLAIN) -> RowBlock:
    """Tokenizes one block of rows and keeps its first `sample` texts; runs in the reading threads."""
    return RowBlock(
        tokens=tokenize(rows.texts, features),
        labels=rows.labels.dictionary_encode(),
        sample=rows.texts[:sample],
        weights=rows.weights,
    )


class Store(Protocol):
    """Keeps blocks; their ids are first the block's own, and renumbered once."""

    def append(self, block: Bags) -> None:
        """Keeps the next block."""
        ...

    def renumber(self, tables: Sequence[Ids]) -> None:
        """Gives the ids of the last blocks their numbers, which the table of each block names by place."""
        ...

    def renumber_all(self, table: Ids) -> None:
        """Gives the ids of all blocks other numbers."""
        ...


class InMemory:
    """The store that is a queue of blocks."""

    def __init__(self) -> None:
        self.blocks: deque[Bags] = deque()

    def append(self, block: Bags) -> None:
        """Keeps the next block."""
        self.blocks.append(block)

    def renumber(self, tables: Sequence[Ids]) -> None:
        """Gives the ids of the last blocks their numbers, which the table of each block names by place."""
        for place, table in enumerate(tables, len(self.blocks) - len(tables)):
            block = self.blocks[place]
            self.blocks[place] = replace(block, ids=table[block.ids])

    def renumber_all(self, table: Ids) -> None:
        """Gives the ids of all blocks other numbers."""
        self.renumber([table] * len(self.blocks))


class Collector:
    """Takes a data set's blocks in their order; itself it holds no more than distinct tokens and labels.

    Those are the numbered ones, and the entries of the dictionaries that wait to be numbered.
    Tokens are numbered once so many blocks have come that going over all tokens anew pays.
    """

    def __init__(self, store: Store, *, sample: int, max_tokens: int | None = None) -> None:
        """max_tokens: distinct tokens that are held while counting, as `Numbering`'s limit."""
        self._store, self._sample_size = store, sample
        self._tokens, self._labels = Numbering(max_tokens), Numbering()
        self._waiting: list[tuple[pa.StringArray, npt.NDArray[np.int64]]] = []
        """The dictionaries of the blocks that are not numbered yet, and their counts."""
        self.num_rows = 0
        self.num_tokens = 0
        self.sample: list[str] = []
        """The first texts, as they were."""

    @property
    def dropped(self) -> bool:
        """Whether tokens were dropped while counting."""
        return self._tokens.dropped

    def add(self, block: RowBlock) -> None:
        """Takes the next rows."""
        tokens, labels = block.tokens, block.labels.indices.to_numpy()
        label_counts = np.bincount(labels, minlength=len(block.labels.dictionary))
        (label_numbers,) = self._labels.add([block.labels.dictionary], [label_counts])
        self._store.append(
            Bags(
                ids=tokens.codes,
                offsets=tokens.offsets,
                labels=label_numbers[labels],
                weights=block.weights,
            )
        )
        self.num_rows += len(labels)
        self.num_tokens += len(tokens.codes)
        self.sample += block.sample[: self._sample_size - len(self.sample)].to_pylist()
        self._waiting.append((tokens.dictionary, tokens.counts))
        if len(self._tokens.strings):  # small data has none before its end, and pays nothing for it
            give_back_freed_memory()
        if sum(len(entries) for entries, _ in self._waiting) > max(MIN_WAITING, len(self._tokens.strings)):
            self._number_waiting()

    def corpus(self, blocks: Iterable[Bags]) -> RawCorpus:
        """What was collected, once it is finished; the blocks are the store's."""
        return RawCorpus(
            tokens=self._tokens.strings,
            counts=self._tokens.counts,
            label_names=self._labels.strings.to_pylist(),
            blocks=blocks,
            num_rows=self.num_rows,
            num_tokens=self.num_tokens,
        )

    def finish(self) -> None:
        """Numbers what waits: from here on the blocks' ids are places in `tokens`."""
        self._number_waiting()
        places = self._tokens.places()
        if places is not None:
            self._store.renumber_all(places)

    def _number_waiting(self) -> None:
        dictionaries, counts = [entries for entries, _ in self._waiting], [each for _, each in self._waiting]
        self._waiting = []
        self._store.renumber(self._tokens.add(dictionaries, counts))


def collect(blocks: Sequence[RowBlock], *, sample: int) -> tuple[RawCorpus, list[str]]:
    """The corpus of some blocks, in memory, and its first texts."""
    store = InMemory()
    collector = Collector(store, sample=sample)
    for block in blocks:
        collector.add(block)
    collector.finish()
    return collector.corpus(store.blocks), collector.sample
