"""Tokens as texts spell them: how one short text finds most of its features, without looking at code points.

A table has the character n-grams of each token, as fastText keeps the subwords of each word it knows.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.features.code_points import LOWER
from serving.features.lookup import WORD_BYTES
from serving.features.specification import FeatureSpec, char_ngrams

MAX_CHAR_FEATURES = 64
"""Character n-grams of a token that has spellings, at most: the table has as many places for each."""
NUM_CASES = 3
"""Spellings of a token whose case does not matter."""

_UPPER = {lower: upper for upper, lower in sorted(LOWER.items(), reverse=True)}
"""The first code point of which each is the lower case."""


@dataclass(frozen=True, kw_only=True)
class Spellings:
    """The usual spellings of tokens, and what is known of these."""

    numbers: Mapping[str, int]
    """That of each spelling's token, from 1. In lower case a token has up to three: as it is, with a capital,
    and in capitals."""
    char_features: npt.NDArray[np.unsignedinteger[Any]]
    """[T + 1, L]: the character n-grams of each token by number, as often as they occur, and V in all other
    places. A token with more than there are places for has neither n-grams here nor spellings."""

    @cached_property
    def are_of_all(self) -> bool:
        """Whether each token has spellings."""
        return len(set(self.numbers.values())) == len(self.char_features) - 1

    @staticmethod
    def num_bytes(tokens: Collection[str], spec: FeatureSpec) -> int:
        """What their spellings and their character n-grams take in memory, at most."""
        texts = WORD_BYTES * len(tokens) + 2 * len("".join(tokens).encode())
        features = 4 * MAX_CHAR_FEATURES * len(tokens) if spec.char_ngrams else 0
        return (NUM_CASES * texts if spec.lowercase else texts) + features

    @classmethod
    def of(
        cls, token_numbers: Mapping[str, int], char_places: Mapping[str, int], spec: FeatureSpec, *, none: int
    ) -> "Spellings":
        """The spellings of T tokens by their numbers, from 1.

        char_places: the features that are character n-grams, by name; none: V.
        """
        numbers: dict[str, int] = {}
        found: list[list[int]] = [[] for _ in range(len(token_numbers) + 1)]
        for token, number in token_numbers.items():
            names = char_ngrams(token, *spec.char_ngrams) if spec.char_ngrams else []
            places = [char_places[name] for name in names if name in char_places]
            if len(places) > MAX_CHAR_FEATURES:
                continue
            found[number] = places
            for spelling in _cases(token) if spec.lowercase else [token]:
                numbers[spelling] = number
        features = np.full((len(found), max(map(len, found))), none, np.min_scalar_type(none))
        for row, places in zip(features, found, strict=True):
            row[: len(places)] = places
        return cls(numbers=numbers, char_features=features)


def _cases(token: str) -> list[str]:
    """A token in lower case, with a capital and in capitals.

    >>> _cases("don't")
    ["don't", "Don't", "DON'T"]
    """
    return [token, token[:1].translate(_UPPER) + token[1:], token.translate(_UPPER)]
