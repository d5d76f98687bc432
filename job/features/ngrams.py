"""Counting the n-grams of a corpus, and choosing those that become features.

An n-gram is counted where the one without its last part is frequent enough itself, since it is no more often
there. So with a minimum count most of them are never held.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from job.corpus.bags import Bags, offsets_of
from job.corpus.raw_corpus import RawCorpus
from job.features.code_points import Text
from job.features.sequences import Int64, Sequences, numbers_of, parts_of
from job.features.tokens import NO_TOKEN
from job.features.vocabulary import can_be_feature
from serving.features.specification import EDGE

Counted = tuple[Int64, Int64]
"""Keys in ascending order, and how often each was seen."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """Which n-grams of a kind become features."""

    min_count: int
    """Those seen at least so often ..."""
    max_size: int | None
    """... and no more than so many, the most frequent; None for all."""


def word_ngrams(raw: RawCorpus, longest: int, limits: Limits) -> pa.StringArray:
    """The names of the n-grams of 2 to `longest` tokens that become features, the most frequent first."""
    counts = raw.token_counts()
    is_token = pc.not_equal(raw.tokens, NO_TOKEN).to_numpy(zero_copy_only=False)
    counted = (counts >= limits.min_count) & can_be_feature(raw.tokens)
    numbers = np.where(counted, np.arange(1, len(counts) + 1), 0)
    numbers = np.append(numbers, 0)  # of a token that was dropped while counting

    def sequences() -> Iterator[tuple[Sequences, None]]:
        for block in raw:
            yield token_sequences(block, is_token, numbers), None

    names, all_counts = [], []
    for parts, some in _counted(sequences, longest, base=len(numbers), min_count=limits.min_count):
        columns = [raw.tokens.take(pa.array(column - 1)) for column in parts.T]
        names.append(pc.binary_join_element_wise(*columns, EDGE))
        all_counts.append(some)
    return _most_frequent(names, all_counts, limits.max_size)


def char_ngrams(raw: RawCorpus, shortest: int, longest: int, limits: Limits) -> pa.StringArray:
    """The names of the n-grams of so many code points, within tokens and their edges, as of `word_ngrams`."""
    is_token = pc.not_equal(raw.tokens, NO_TOKEN).to_numpy(zero_copy_only=False)
    text, weights = Text.of(raw.tokens), raw.token_counts() * is_token
    alphabet = np.unique(text.code_points)
    edge = np.searchsorted(alphabet, ord(EDGE))  # no token has one
    numbers = np.searchsorted(alphabet, text.code_points) + 1
    numbers += numbers > edge
    points = np.insert(alphabet, edge, ord(EDGE))
    padded = with_edges(numbers, text.offsets, edge=int(edge) + 1)

    def sequences() -> Iterator[tuple[Sequences, Int64]]:
        yield padded, np.repeat(weights, np.diff(padded.offsets))

    names, all_counts = [], []
    if shortest == 1:
        found = np.bincount(numbers, np.repeat(weights, np.diff(text.offsets)), minlength=len(points) + 1)
        singles = np.flatnonzero(found >= limits.min_count)
        names.append(_spelled(points, singles[:, np.newaxis]))
        all_counts.append(found[singles].astype(np.int64))
    for parts, some in _counted(sequences, longest, base=len(points) + 1, min_count=limits.min_count):
        if parts.shape[1] >= shortest:
            names.append(_spelled(points, parts))
            all_counts.append(some)
    return _most_frequent(names, all_counts, limits.max_size)


def token_sequences(block: Bags, is_token: npt.NDArray[np.bool_], numbers: Int64) -> Sequences:
    """The tokens of each row in a row, without the `NO_TOKEN`s between them.

    is_token: of each place in the corpus's tokens, [D]; numbers: of each, and of dropped ones, [D + 1].
    """
    kept = np.append(is_token, True)[block.ids]
    if kept.all():
        return Sequences(numbers=numbers[block.ids], offsets=block.offsets)
    return Sequences(numbers=numbers[block.ids[kept]], offsets=offsets_of(kept)[block.offsets])


def with_edges(numbers: Int64, offsets: Int64, *, edge: int) -> Sequences:
    """The same sequences with a part of the number `edge` before and after each."""
    n = len(offsets) - 1
    wider = offsets + 2 * np.arange(n + 1)
    padded = np.full(wider[-1], edge, np.int64)
    padded[np.arange(len(numbers)) + np.repeat(2 * np.arange(n) + 1, np.diff(offsets))] = numbers
    return Sequences(numbers=padded, offsets=wider)


def _counted(
    sequences: Callable[[], Iterable[tuple[Sequences, Int64 | None]]],
    longest: int,
    *,
    base: int,
    min_count: int,
) -> Iterator[tuple[Int64, Int64]]:
    """For each length from 2: the parts [N, n] of the n-grams that occur often enough, and their counts [N].

    sequences: gives all of them anew at each call, with how often each place counts, where it is not once.
    """
    levels: list[Int64] = []
    for length in range(2, longest + 1):
        found: Counted = np.empty(0, np.int64), np.empty(0, np.int64)
        for some, weights in sequences():
            rows, shorter = some.rows(), some.numbers
            for shorter_length, level in enumerate(levels, 2):
                shorter = numbers_of(some.keys(shorter, rows, length=shorter_length, base=base), level)
            found = _added(found, some.keys(shorter, rows, length=length, base=base), weights)
        keys, counts = (each[found[1] >= min_count] for each in found)
        yield parts_of(keys, base=base, shorter=levels), counts
        levels.append(keys)


def _added(found: Counted, keys: Int64, weights: Int64 | None) -> Counted:
    """The counts with those of more keys, 0 apart."""
    is_one = keys > 0
    more = np.ones(is_one.sum(), np.int64) if weights is None else weights[is_one]
    # Hashed before they are sorted: most are there many times.
    encoded = pa.array(np.append(found[0], keys[is_one])).dictionary_encode()
    distinct = encoded.dictionary.to_numpy()
    counts = np.bincount(encoded.indices.to_numpy(), np.append(found[1], more), minlength=len(distinct))
    order = np.argsort(distinct)
    return distinct[order], counts[order].astype(np.int64)


def _spelled(points: npt.NDArray[np.uint32], parts: Int64) -> pa.StringArray:
    """The names of character n-grams: parts [N, n] are places among the code points, from 1."""
    marks = np.full((len(parts), 1), ord(EDGE), np.uint32)
    spelled = np.concatenate([marks, points[parts - 1]], axis=1)
    offsets = np.arange(len(parts) + 1, dtype=np.int64) * spelled.shape[1]
    return Text(code_points=spelled.ravel(), offsets=offsets).to_arrow()


def _most_frequent(names: list[pa.StringArray], counts: list[Int64], max_size: int | None) -> pa.StringArray:
    if not names:
        return pa.array([], pa.string())
    order = np.argsort(-np.concatenate(counts), kind="stable")[:max_size]
    return pa.concat_arrays(names).take(pa.array(order))
