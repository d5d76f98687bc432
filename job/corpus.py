"""The encoded corpus: token ids and offsets, never a dense matrix of documents."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from job.dataset import Rows
from job.features import TokenBlock, tokenize
from job.scratch import scratch_array
from job.vocabulary import Vocabulary

Ids = npt.NDArray[np.int32]
Offsets = npt.NDArray[np.int64]

CHUNK_ROWS = 1 << 16


@dataclass(frozen=True, kw_only=True)
class RowBlock:
    """One block of a data set, tokenized: what a reading thread hands on."""

    tokens: TokenBlock
    labels: pa.DictionaryArray
    """[n], dictionary-encoded."""
    sample: pa.StringArray
    """The block's first texts, as they were."""


@dataclass(frozen=True, kw_only=True)
class RawCorpus:
    """N rows whose tokens and labels are numbered as they came, before a vocabulary is chosen."""

    tokens: pa.StringArray
    """The distinct tokens, [D]."""
    codes: Ids
    """Positions in `tokens`, [num_tokens]."""
    offsets: Offsets
    """[N + 1]."""
    label_names: list[str]
    """The distinct labels, sorted by code point."""
    labels: npt.NDArray[np.int64]
    """Positions in `label_names`, [N]."""
    sample: list[str]
    """Some of the texts as they were, for the parity gate."""
    rows: npt.NDArray[np.int64] | None = None
    """The rows' numbers in `offsets`, [N], which has more than N then; None where it has these rows alone."""

    @property
    def num_rows(self) -> int:
        """N."""
        return len(self.labels)

    def chunks(self) -> Iterator[tuple[Ids, Offsets]]:
        """The codes and offsets of all rows, some rows at a time: the arrays may be larger than memory."""
        for first in range(0, self.num_rows, CHUNK_ROWS):
            if self.rows is None:
                offsets = self.offsets[first : first + CHUNK_ROWS + 1]
                yield self.codes[offsets[0] : offsets[-1]], offsets - offsets[0]
            else:
                yield take_rows(self.codes, self.offsets, self.rows[first : first + CHUNK_ROWS])

    def token_counts(self) -> npt.NDArray[np.int64]:
        """How often each of `tokens` occurs, [D]."""
        counts = np.zeros(len(self.tokens), np.int64)
        for codes, _ in self.chunks():
            counts += np.bincount(codes, minlength=len(counts))
        return counts

    def take(self, rows: npt.NDArray[np.int64]) -> "RawCorpus":
        """The named rows, in the order named; everything keeps its number, and the codes their places."""
        places = rows if self.rows is None else self.rows[rows]
        return replace(self, labels=self.labels[rows], rows=places)


@dataclass(frozen=True, kw_only=True)
class Corpus:
    """N rows ready to train on or to score: row i is the bag `ids[offsets[i]:offsets[i + 1]]`."""

    ids: Ids
    """Vocabulary ids, [nnz]: a word that stands twice in a row stands here twice, an unknown one never."""
    offsets: Offsets
    """[N + 1], from 0 to nnz."""
    labels: npt.NDArray[np.int64]
    """Label ids, [N]; -1 for a label that the model does not have."""

    @property
    def num_rows(self) -> int:
        """N."""
        return len(self.labels)


def tokenize_rows(rows: Rows, *, sample: int) -> RowBlock:
    """Tokenizes one block of rows and keeps its first `sample` texts; runs in the reading threads."""
    return RowBlock(
        tokens=tokenize(rows.texts),
        labels=rows.labels.dictionary_encode(),
        sample=rows.texts[:sample],
    )


def join(blocks: Sequence[RowBlock], *, sample: int) -> RawCorpus:
    """Joins the blocks of a data set into one numbering of tokens and labels."""
    tokens, labels = Numbering(), Numbering()
    token_maps = tokens.add([block.tokens.dictionary for block in blocks])
    label_maps = labels.add([block.labels.dictionary for block in blocks])
    label_names, rank = ranked(labels.strings)

    lengths = np.concatenate([np.diff(block.tokens.offsets) for block in blocks])
    texts = pa.chunked_array([block.sample for block in blocks], pa.string())
    return RawCorpus(
        tokens=tokens.strings,
        codes=np.concatenate([to[block.tokens.codes] for to, block in zip(token_maps, blocks, strict=True)]),
        offsets=offsets_of(lengths),
        label_names=label_names,
        labels=np.concatenate(
            [rank[to[block.labels.indices.to_numpy()]] for to, block in zip(label_maps, blocks, strict=True)]
        ),
        sample=texts[:sample].to_pylist(),
    )


def ranked(labels: pa.StringArray) -> tuple[list[str], npt.NDArray[np.int64]]:
    """The labels sorted by code point, and the place there of each of `labels`, [K]."""
    names: list[str] = sorted(labels.to_pylist())
    places = pc.index_in(labels, value_set=pa.array(names, pa.string())).to_numpy()
    return names, places.astype(np.int64)


class Numbering:
    """Numbers distinct strings in the order in which they first appear, however they come in parts."""

    def __init__(self) -> None:
        self.strings: pa.StringArray = pa.array([], pa.string())
        """Those that were added, [D]: a string's number is its place, and stays that."""

    def add(self, dictionaries: Sequence[pa.StringArray]) -> list[Ids]:
        """Numbers the strings of some dictionaries; returns the numbers of each one's entries.

        It goes over all strings anew: add as many dictionaries at a time as there are strings already.
        """
        parts = [self.strings, *dictionaries]
        united = pa.chunked_array(parts, pa.string()).combine_chunks().dictionary_encode()
        self.strings = united.dictionary
        places = united.indices.to_numpy().astype(np.int32, copy=False)
        return np.split(places, np.cumsum([len(part) for part in parts]))[1:-1]


def encode(
    raw: RawCorpus, vocabulary: Vocabulary, label_names: Sequence[str], *, scratch: Path | None = None
) -> Corpus:
    """Numbers the rows by the model's vocabulary and labels; unknown words vanish, unknown labels are -1.

    With `scratch`, a folder, all arrays are there instead of in memory. Raises PlatformError as
    `scratch_array` does.
    """
    token_ids = vocabulary.ids(raw.tokens)
    num_tokens = len(raw.codes) if raw.rows is None else int(np.diff(raw.offsets)[raw.rows].sum())
    ids = scratch_array(num_tokens, np.int32, scratch)
    offsets = scratch_array(raw.num_rows + 1, np.int64, scratch)
    offsets[0] = row = end = 0
    for codes, chunk_offsets in raw.chunks():
        found = token_ids[codes]
        known = found >= 0
        if not known.all():
            found, chunk_offsets = found[known], offsets_of(known)[chunk_offsets]
        ids[end : end + len(found)] = found
        offsets[row + 1 : row + len(chunk_offsets)] = chunk_offsets[1:] + end
        row, end = row + len(chunk_offsets) - 1, end + len(found)
    to_label = {name: index for index, name in enumerate(label_names)}
    label_ids = np.array([to_label.get(name, -1) for name in raw.label_names], dtype=np.int64)
    labels = scratch_array(raw.num_rows, np.int64, scratch)
    np.take(label_ids, raw.labels, out=labels, mode="clip")  # without a copy, which other modes make
    return Corpus(ids=ids[:end], offsets=offsets, labels=labels)


def offsets_of(lengths: npt.NDArray[np.int64] | npt.NDArray[np.bool_]) -> Offsets:
    """The offsets [N + 1] of N bags of the given lengths [N].

    >>> offsets_of(np.array([2, 0, 3])).tolist()
    [0, 2, 2, 5]
    """
    offsets = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def take_rows(ids: Ids, offsets: Offsets, rows: npt.NDArray[np.int64]) -> tuple[Ids, Offsets]:
    """The ids and offsets of the named rows, in the order named.

    >>> ids, offsets = take_rows(np.array([7, 8, 9], np.int32), np.array([0, 2, 3]), np.array([1, 0]))
    >>> ids.tolist(), offsets.tolist()
    ([9, 7, 8], [0, 1, 3])
    """
    starts, lengths = offsets[rows], offsets[rows + 1] - offsets[rows]
    taken = offsets_of(lengths)
    # Position j of the result lies in row r at place j - taken[r] of that row.
    places = np.arange(taken[-1]) + np.repeat(starts - taken[:-1], lengths)
    return ids[places], taken
