"""Distinct strings, numbered as they come: all words of a corpus, or, with a limit, the frequent ones."""

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from job.corpus.bags import Ids

MIN_LIMIT = 1 << 20
WORDS_HELD = 8
"""For each word that the vocabulary may have."""


def limit_for(max_vocabulary: int | None) -> int | None:
    """How many words are held at most while counting, for a vocabulary of at most so many; None for all."""
    return None if max_vocabulary is None else max(MIN_LIMIT, WORDS_HELD * max_vocabulary)


class Numbering:
    """Numbers distinct strings in the order in which they first appear, however they come in parts.

    With a `limit`, no more strings than that are held between two calls of `add`: where there are more, half
    the limit is kept, the most frequent, and of equally frequent ones those that came first. A string that
    comes again after it was dropped is a new one: it has another number, and is counted from there. So each
    drop makes a count short by no more than the least that it keeps; strings that are frequent from the start
    are not dropped at all. Which ones are depends on the parts as well, and so on how data is cut into files.
    """

    def __init__(self, limit: int | None = None) -> None:
        self.strings: pa.StringArray = pa.array([], pa.string())
        """Those that are held, [D], in the order in which they came."""
        self.counts: npt.NDArray[np.int64] = np.empty(0, np.int64)
        """How often each of them was seen, [D]."""
        self.num_numbers = 0
        """How many numbers were given away."""
        self._limit = limit
        self._numbers: Ids | None = None
        """The numbers of `strings`; None where a string's number is its place."""

    def add(
        self, dictionaries: Sequence[pa.StringArray], counts: Sequence[npt.NDArray[np.int64]]
    ) -> list[Ids]:
        """Numbers and counts the strings of some dictionaries; returns the numbers of each one's entries.

        It goes over all strings anew: add as many at a time as there are already.
        """
        num_old = len(self.strings)
        parts = [self.strings, *dictionaries]
        # One dictionary for all chunks, which begins with the strings that are there already; empty parts are
        # no chunks.
        united = pa.chunked_array(parts, pa.string()).dictionary_encode()
        if united.num_chunks:
            self.strings = united.chunk(0).dictionary
        num_new = len(self.strings) - num_old
        self.counts = np.append(self.counts, np.zeros(num_new, np.int64))
        indices = [chunk.indices.to_numpy() for chunk in united.chunks]
        places = np.concatenate([np.empty(0, np.int32), *indices], dtype=np.int32)
        tables = np.split(places, np.cumsum([len(part) for part in parts]))[1:-1]
        for table, added in zip(tables, counts, strict=True):
            self.counts[table] += added  # a dictionary has each string once
        if self._numbers is not None:
            fresh = np.arange(self.num_numbers, self.num_numbers + num_new, dtype=np.int32)
            self._numbers = np.append(self._numbers, fresh)
            tables = [self._numbers[table] for table in tables]
        self.num_numbers += num_new
        if self._limit is not None and len(self.strings) > self._limit:
            self._drop_the_rarest(self._limit // 2)
        return tables

    @property
    def dropped(self) -> bool:
        """Whether there were more strings than the limit."""
        return self._numbers is not None

    def places(self) -> Ids | None:
        """The place in `strings` of each number, -1 where it was dropped; None where all are at their own."""
        if self._numbers is None:
            return None
        places = np.full(self.num_numbers, -1, np.int32)
        places[self._numbers] = np.arange(len(self._numbers), dtype=np.int32)
        return places

    def _drop_the_rarest(self, num_kept: int) -> None:
        kept = np.sort(np.argsort(-self.counts, kind="stable")[:num_kept]).astype(np.int32)
        self.strings = self.strings.take(pa.array(kept))
        self.counts = self.counts[kept]
        self._numbers = kept if self._numbers is None else self._numbers[kept]
