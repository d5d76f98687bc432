"""The feature specification: how a text becomes features, written as data.

Three implementations follow it: Arrow and numpy in training (`job.features`), operators in `model.onnx`
(`export.text_graph`, `export.ngram_graph`) and the plain Python below, which is the one that the others are
held against.
"""

import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Annotated, Literal

import msgspec

from serving.features.code_points import LOWER, WORD_RANGES

WHITESPACE = (
    *range(0x09, 0x0E),
    *range(0x1C, 0x21),
    0x85,
    0xA0,
    0x1680,
    *range(0x2000, 0x200B),
    0x2028,
    0x2029,
    0x202F,
    0x205F,
    0x3000,
)
"""The 29 code points at which `str.split()` separates, and so every implementation. Neither U+200B nor
U+FEFF is one of them."""
APOSTROPHES = (0x27, 0x2019)
"""Typewriter and typographic: between two word characters they belong to the word."""
EDGE = " "
"""Stands at both ends of a token for its character n-grams, and before each n-gram in its name. No token has
a space in it, so that no name is that of two features."""

Weighting = Literal["count", "binary", "log", "tfidf"]
Length = Annotated[int, msgspec.Meta(ge=1, le=8)]
Tokenizer = Literal["whitespace", "words", "characters"]


class FeatureSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How texts become features; stored in the manifest, so that every reader can refuse what it lacks.

    A feature's name is what stands in the vocabulary: a token; the tokens of a word n-gram, joined by spaces;
    a character n-gram after a space, `EDGE` where its token begins or ends.
    """

    tokenizer: Tokenizer = "whitespace"
    """`whitespace`: runs of the 29 whitespace code points separate tokens, as in `str.split()`. `words`: runs
    of letters, marks, numbers and `_` are tokens, apostrophes within them included. `characters`: each code
    point but whitespace is a token."""
    lowercase: bool = False
    """Code point by code point, before all else, as `serving.features.code_points.LOWER` says."""
    word_ngrams: Annotated[int, msgspec.Meta(ge=1, le=3)] = 1
    """The longest word n-gram that is a feature: n tokens in a row."""
    char_ngrams: tuple[Length, Length] | None = None
    """The shortest and longest character n-grams that are features, within tokens with their edges."""
    weighting: Weighting = "count"
    """What a feature that occurs c times counts: `count` c, `binary` 1, `log` 1 + ln c; `tfidf` this times
    ln((1 + N) / (1 + n)) + 1, where n of the N training texts have the feature."""
    normalize: Literal["none", "l2"] = "none"
    """`l2`: what a text's features count is divided by the root of the sum of their squares; character
    n-grams are one group, tokens and word n-grams another."""

    @property
    def is_plain(self) -> bool:
        """Whether the features are the tokens of `str.split()`."""
        return self == PLAIN

    @property
    def has_ngrams(self) -> bool:
        """Whether some features are no tokens."""
        return self.word_ngrams > 1 or self.char_ngrams is not None

    @property
    def is_weighted(self) -> bool:
        """Whether a feature may count something else than how often it occurs."""
        return self.weighting != "count" or self.normalize != "none"

    @property
    def tokens_alone(self) -> "FeatureSpec":
        """What of the specification decides which tokens a text has."""
        return FeatureSpec(tokenizer=self.tokenizer, lowercase=self.lowercase)


PLAIN = FeatureSpec()
"""The tokens of `str.split()`, counted: the tutorial's."""

_WORD = "[" + "".join(f"{chr(first)}-{chr(last)}" for first, last in WORD_RANGES) + "]+"
_WORDS = re.compile(f"{_WORD}(?:[{''.join(map(chr, APOSTROPHES))}]{_WORD})*")


def tokenize(text: str, spec: FeatureSpec = PLAIN) -> list[str]:
    """The tokens of a text, in order, by the specification's reference.

    >>> tokenize("  me gusta\\u00a0comer ")
    ['me', 'gusta', 'comer']
    >>> tokenize("Don't 'QUOTE' me!", FeatureSpec(tokenizer="words", lowercase=True))
    ["don't", 'quote', 'me']
    """
    if spec.lowercase:
        text = text.translate(LOWER)
    match spec.tokenizer:
        case "whitespace":
            return text.split()
        case "words":
            return _WORDS.findall(text)
        case "characters":
            return [character for token in text.split() for character in token]


def features(text: str, spec: FeatureSpec) -> list[str]:
    """The names of the features in a text, each as often as it occurs.

    >>> features("go on", FeatureSpec(word_ngrams=2, char_ngrams=(3, 3)))
    ['go', 'on', 'go on', '  go', ' go ', '  on', ' on ']
    """
    tokens = tokenize(text, spec)
    names = tokens if spec.is_plain else [*tokens, *_word_ngrams(tokens, spec.word_ngrams)]
    if spec.char_ngrams is not None:
        for token in tokens:
            names += char_ngrams(token, *spec.char_ngrams)
    return names


@lru_cache(maxsize=1 << 16)
def char_ngrams(token: str, shortest: int, longest: int) -> list[str]:
    """The names of those of a token with its edges; an edge alone is none."""
    padded = EDGE + token + EDGE
    return [
        EDGE + padded[start : start + length]
        for length in range(shortest, longest + 1)
        for start in range(len(padded) - length + 1)
        if length > 1 or padded[start] != EDGE
    ]


def tokens_of(vocabulary: Sequence[str]) -> Sequence[str]:
    """The features that are tokens, or all where there are none."""
    return [name for name in vocabulary if EDGE not in name] or vocabulary


def _word_ngrams(tokens: Sequence[str], longest: int) -> Iterator[str]:
    for length in range(2, longest + 1):
        for start in range(len(tokens) - length + 1):
            yield " ".join(tokens[start : start + length])
