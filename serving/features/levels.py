"""N-grams as keys of tables: each is found from the one without its last part, level by level.

A level numbers the n-grams of one length, and the beginnings of longer ones, in the order of their keys. The
first one holds n-grams of all lengths whose parts make one key as digits.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]

NO_NUMBER = 0
"""Stands for what is in no table; no code point has it as its code."""
MAX_KEY = 2**63
"""Keys are below it."""


@dataclass(frozen=True, kw_only=True)
class Level:
    """Some n-grams, numbered from 1 in the order of their keys; `NO_NUMBER` is none of them."""

    keys: Int64
    """[N], ascending: the number of the n-gram without its last part, times the base, plus the part's; of
    `char_grams`, the codes as digits, none of which is 0."""
    features: Int32
    """[N + 1]: the feature of each number; `none` where it is only the beginning of one."""


@dataclass(frozen=True, kw_only=True)
class _Ngrams:
    """Those of one length."""

    features: Int32
    """[N]"""
    parts: Int64
    """Their numbers, [N, length]."""


def _by_length(ngrams: Mapping[int, Sequence[int]]) -> dict[int, _Ngrams]:
    found = {}
    for length in sorted({len(parts) for parts in ngrams.values()}):
        some = {place: parts for place, parts in ngrams.items() if len(parts) == length}
        found[length] = _Ngrams(
            features=np.array(list(some), np.int32), parts=np.array(list(some.values()), np.int64)
        )
    return found


def packed_length(base: int) -> int:
    """How many digits, each below `base`, make a key: 2 at least.

    >>> packed_length(60), packed_length(0x110000)
    (10, 3)
    """
    return next(length for length in range(2, 64) if base ** (length + 1) > MAX_KEY)


def levels(ngrams: Mapping[int, Sequence[int]], *, base: int, none: int) -> tuple[Int32, list[Level]]:
    """The features of single parts, [base], and the levels of longer n-grams.

    ngrams: the numbers of the parts of each feature.
    """
    by_length = _by_length(ngrams)
    singles = np.full(base, none, np.int32)
    if 1 in by_length:
        some = by_length.pop(1)
        singles[some.parts[:, 0]] = some.features
    numbers = {length: some.parts[:, 0] for length, some in by_length.items()}
    return singles, _longer(by_length, numbers, first=2, base=base, none=none)


def packed_levels(
    ngrams: Mapping[int, Sequence[int]], *, base: int, none: int
) -> tuple[Level | None, list[int], list[Level]]:
    """The n-grams of so few parts that a key holds them, their lengths, and the levels of longer ones."""
    by_length = _by_length(ngrams)
    if not by_length:
        return None, [], []
    most = packed_length(base)
    keys_of = {length: _packed(some.parts[:, :most], base) for length, some in by_length.items()}
    level, numbers = _level(by_length, keys_of, none=none, longest=most)
    lengths = sorted({min(length, most) for length in by_length})
    longer = {length: some for length, some in by_length.items() if length > most}
    return level, lengths, _longer(longer, numbers, first=most + 1, base=base, none=none)


def _packed(parts: Int64, base: int) -> Int64:
    """The keys of n-grams of so many parts, [N, n]: [N]."""
    keys = np.zeros(len(parts), np.int64)
    for column in parts.T:
        keys = keys * base + column
    return keys


def _longer(
    by_length: Mapping[int, _Ngrams], numbers: Mapping[int, Int64], *, first: int, base: int, none: int
) -> list[Level]:
    """The levels from that of `first` parts.

    numbers: by length, those of the n-grams' first parts, one fewer than `first`.
    """
    levels = []
    for length in range(first, max(by_length, default=0) + 1):
        keys_of = {
            longer: numbers[longer] * base + some.parts[:, length - 1]
            for longer, some in by_length.items()
            if longer >= length
        }
        level, numbers = _level(by_length, keys_of, none=none, longest=length)
        levels.append(level)
    return levels


def _level(
    by_length: Mapping[int, _Ngrams], keys_of: Mapping[int, Int64], *, none: int, longest: int
) -> tuple[Level, dict[int, Int64]]:
    """A level, and the number of each key in it; those of at most `longest` parts end there."""
    keys = np.unique(np.concatenate(list(keys_of.values())))
    numbers = {length: np.searchsorted(keys, some) + 1 for length, some in keys_of.items()}
    features = np.full(len(keys) + 1, none, np.int32)
    for length, some in numbers.items():
        if length <= longest:
            features[some] = by_length[length].features
    return Level(keys=keys, features=features), numbers
