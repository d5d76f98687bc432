"""Rows in the numbers of a raw corpus to rows in those of the model, with all that the vocabulary has."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from job.corpus.bags import Bags, Ids, Numbers, offsets_of
from job.features.code_points import Text
from job.features.ngrams import token_sequences, with_edges
from job.features.sequences import Int64, numbers_of
from job.features.tokens import NO_TOKEN
from job.features.vocabulary import Vocabulary
from serving.features.hashes import BOUNDARY
from serving.features.levels import NO_NUMBER
from serving.features.tables import Tables

Rows = tuple[Ids, Numbers]
"""Ids, and the offsets of n rows."""


class Encoder(Protocol):
    """Gives the features of rows."""

    def __call__(self, block: Bags) -> Rows:
        """The features of each row of a block of the raw corpus, without unknown ones."""
        ...


class TokenEncoder:
    """Features that are tokens: each is looked up by its number."""

    def __init__(self, tokens: pa.StringArray, vocabulary: Vocabulary) -> None:
        """tokens: the raw corpus's, [D]."""
        self._ids = np.append(vocabulary.ids(tokens), np.int32(-1))  # the last is of a token that was dropped

    def __call__(self, block: Bags) -> Rows:
        """The features of each row."""
        ids, offsets = self._ids[block.ids], block.offsets
        return _known(ids, offsets, ids >= 0)


class NgramEncoder:
    """Features that are tokens, runs of tokens, and parts of tokens."""

    def __init__(self, tokens: pa.StringArray, tables: Tables) -> None:
        """tokens: the raw corpus's, [D]."""
        self._is_token = pc.not_equal(tokens, NO_TOKEN).to_numpy(zero_copy_only=False)
        known, numbers = list(tables.token_numbers), list(tables.token_numbers.values())
        places = pc.index_in(tokens, value_set=pa.array(known, pa.string())).fill_null(-1)
        self._numbers = np.array([*numbers, NO_NUMBER])[np.append(places.to_numpy(zero_copy_only=False), -1)]
        self._tables = tables
        self._char_ids, self._char_offsets = _char_features(tokens, tables)

    def __call__(self, block: Bags) -> Rows:
        """The features of each row: its tokens, its word n-grams by length, its tokens' character n-grams."""
        tables = self._tables
        some = token_sequences(block, self._is_token, self._numbers)
        found: list[Rows] = [(tables.token_features[some.numbers], some.offsets)]
        rows, shorter = some.rows(), some.numbers
        for length, level in enumerate(tables.word_levels, 2):
            keys = some.keys(shorter, rows, length=length, base=len(tables.token_features))
            shorter = numbers_of(keys, level.keys)
            found.append((level.features[shorter], some.offsets))
        if len(self._char_ids):
            starts = self._char_offsets[block.ids]
            lengths = self._char_offsets[1:][block.ids] - starts
            offsets = offsets_of(np.asarray(lengths))
            places = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
            found.append((self._char_ids[places], offsets[block.offsets]))
        ids, offsets = side_by_side(found)
        return _known(ids, offsets, ids < tables.none)


def side_by_side(parts: Sequence[Rows]) -> Rows:
    """Rows that have what the rows of all parts have, one part after the other within each row.

    >>> one = np.array([1, 2], np.int32), np.array([0, 1, 2])
    >>> other = np.array([7], np.int32), np.array([0, 0, 1])
    >>> ids, offsets = side_by_side([one, other])
    >>> ids.tolist(), offsets.tolist()
    ([1, 2, 7], [0, 1, 3])
    """
    if len(parts) == 1:
        return parts[0]
    lengths = [np.diff(offsets) for _, offsets in parts]
    offsets = offsets_of(np.asarray(np.sum(lengths, axis=0, dtype=np.int64)))
    ids = np.empty(offsets[-1], np.int32)
    begin = offsets[:-1].astype(np.int64)
    for (some, starts), length in zip(parts, lengths, strict=True):
        ids[np.arange(len(some)) + np.repeat(begin - starts[:-1], length)] = some
        begin += length
    return ids, offsets


def _known(ids: Ids, offsets: Numbers, is_known: npt.NDArray[np.bool_]) -> Rows:
    return (ids, offsets) if is_known.all() else (ids[is_known], offsets_of(is_known)[offsets])


def _char_features(tokens: pa.StringArray, tables: Tables) -> tuple[Ids, Int64]:
    """The character n-grams of each token that are features; the offsets: of D tokens and a dropped one."""
    if tables.char_grams is None:
        return np.empty(0, np.int32), np.zeros(len(tokens) + 3, np.int64)
    text = Text.of(tokens)
    points = np.array(list(tables.codes), np.uint32)
    order = np.argsort(points)
    places = np.minimum(np.searchsorted(points[order], text.code_points), len(points) - 1)
    codes = np.array(list(tables.codes.values()), np.int64)[order][places]
    codes[points[order][places] != text.code_points] = NO_NUMBER
    some = with_edges(codes, text.offsets, edge=BOUNDARY)
    rows, base = some.rows(), tables.num_codes
    found: list[Rows] = []
    keys = some.numbers
    for length in range(1, max(tables.char_lengths) + 1):
        if length > 1:
            keys = some.keys(keys, rows, length=length, base=base)
        if length in tables.char_lengths:
            shorter = numbers_of(keys, tables.char_grams.keys)
            found.append((tables.char_grams.features[shorter], some.offsets))
    for length, level in enumerate(tables.char_levels, tables.packed + 1):
        keys = some.keys(shorter, rows, length=length, base=base)
        shorter = numbers_of(keys, level.keys)
        found.append((level.features[shorter], some.offsets))
    ids, offsets = side_by_side(found)
    ids, offsets = _known(ids, offsets, ids < tables.none)
    return ids, np.append(offsets, [offsets[-1]] * 2).astype(np.int64)
