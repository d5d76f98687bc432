"""How `model.onnx` finds n-grams: by whole numbers alone, so that no runtime's strings or locale decide.

Every code point that stands in a feature has a code. An n-gram is found from the one that lacks its last
part: the number of that one and the part's own make the key of the next table. Tokens are found by a hash of
their codes, and then compared with the codes of the one that was found.

`Tables.of` makes the tables from the vocabulary alone: the exporter writes them, `verify` makes them again.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.code_points import LOWER, WORD_RANGES
from serving.features import APOSTROPHES, EDGE, WHITESPACE, FeatureSpec

Int32 = npt.NDArray[np.int32]
Int64 = npt.NDArray[np.int64]
Lookup = tuple[list[bytes] | list[int], Sequence[int]]

UNKNOWN, BOUNDARY = 0, 1
"""Codes of a code point that stands in no feature, and of what separates tokens and stands around texts."""
APOSTROPHE_CODES = (2, 3)
"""Of the two apostrophes where the tokenizer knows them; other code points have those that follow."""
LISTED = 0x250
"""Below this, what stands in no word has the code of a boundary; others are looked at when they come."""
SEEDS = 8
"""Tried one after the other until no two tokens of a vocabulary have one hash: the first one does, mostly."""


@dataclass(frozen=True, kw_only=True)
class Level:
    """The n-grams of one length above 1, numbered from 1 in the order of their keys; 0 is none of them."""

    keys: Int64
    """[N], ascending: the number of the n-gram without its last part, times the base, plus the part's."""
    features: Int32
    """[N + 1]: the feature of each number; `none` where it is only the beginning of one."""


@dataclass(frozen=True, kw_only=True)
class Tokens:
    """The tokens that features are made of, numbered from 1; 0 is none of them."""

    hashes: Int64
    """[T]: the sum of code times factor over the places of a token, modulo 2^64."""
    factors: Int64
    """[L + 1]: one for each place of the longest token, and 0 for all places after it."""
    ends: Int64
    """[T + 1]: token t is `codes[ends[t - 1]:ends[t]]`, and `ends[0]` is 0."""
    codes: Int64
    """Of all tokens, one after the other, and at least one."""


@dataclass(frozen=True, kw_only=True)
class Tables:
    """All that the graph looks up."""

    none: int
    """V, which stands for no feature."""
    first_char: int
    """The first feature that is a character n-gram: all others stand before them."""
    codes: Mapping[int, int]
    """Of code points; those without one have the code UNKNOWN. In lower case both cases have the same."""
    num_codes: int
    token_numbers: Mapping[str, int]
    """The number of each token that stands in a feature."""
    tokens: Tokens | None
    """None where each code point is a token, whose number is its code."""
    token_features: Int32
    """[T + 1], or [num_codes]: the feature of each token by number."""
    word_levels: Sequence[Level]
    """Of 2, 3, ... tokens; the base is the number of `token_features`."""
    char_features: Int32 | None
    """[num_codes]: those of single code points by code; None where there are none."""
    char_levels: Sequence[Level]
    """Of 2, 3, ... code points, edges among them; the base is `num_codes`."""

    @classmethod
    def of(cls, names: Sequence[str], spec: FeatureSpec) -> "Tables":
        """The tables of a vocabulary, by its features' names: [V]."""
        size = len(names)
        words = {place: name.split(EDGE) for place, name in enumerate(names) if not name.startswith(EDGE)}
        chars = {place: name[1:] for place, name in enumerate(names) if name.startswith(EDGE)}
        tokens = list(dict.fromkeys(token for parts in words.values() for token in parts))
        alphabet = sorted({*"".join(tokens), *"".join(chars.values())} - {EDGE})
        code_of = _codes(alphabet, spec)
        num_codes = max(code_of.values()) + 1
        by_char = {EDGE: BOUNDARY} | {chr(point): code for point, code in code_of.items()}
        is_token = spec.tokenizer != "characters"
        numbers = range(1, len(tokens) + 1) if is_token else [by_char.get(token, UNKNOWN) for token in tokens]
        number_of = dict(zip(tokens, numbers, strict=True))
        token_features, word_levels = _levels(
            {place: [number_of[part] for part in parts] for place, parts in words.items()},
            base=len(tokens) + 1 if is_token else num_codes,
            none=size,
        )
        char_features, char_levels = _levels(
            {place: [by_char.get(part, UNKNOWN) for part in gram] for place, gram in chars.items()},
            base=num_codes,
            none=size,
        )
        return cls(
            none=size,
            first_char=min(chars, default=size),
            codes=code_of,
            num_codes=num_codes,
            token_numbers=number_of,
            tokens=_tokens([[by_char.get(each, UNKNOWN) for each in token] for token in tokens])
            if is_token
            else None,
            token_features=token_features,
            word_levels=word_levels,
            char_features=char_features
            if spec.char_ngrams is not None and spec.char_ngrams[0] == 1
            else None,
            char_levels=char_levels,
        )

    def arrays(self, idf: npt.NDArray[np.float32] | None) -> dict[str, npt.NDArray[Any]]:
        """What the graph gathers from, by name; `idf`, where there is one, with a 0 for no feature."""
        found: dict[str, npt.NDArray[Any]] = {"tokens/features": self.token_features}
        if self.tokens is not None:
            found["tokens/factors"] = self.tokens.factors
            found["tokens/ends"] = self.tokens.ends
            found["tokens/codes"] = self.tokens.codes
        if self.char_features is not None:
            found["characters/features"] = self.char_features
        for name, level in self._named_levels():
            found[f"{name}/features"] = level.features
        if idf is not None:
            found["idf"] = np.append(idf, np.float32(0))
        return found

    def lookups(self) -> dict[str, Lookup]:
        """What the graph finds by hashing, by name: keys, and the number of each; others have UNKNOWN."""
        # An empty string is what pads a row.
        characters = [b"", *(chr(point).encode() for point in self.codes)]
        found: dict[str, Lookup] = {"codes": (characters, [BOUNDARY, *self.codes.values()])}
        keys = dict(self._named_levels())
        hashed = {} if self.tokens is None else {"tokens": self.tokens.hashes}
        for name, numbers in (hashed | {name: level.keys for name, level in keys.items()}).items():
            found[name] = numbers.tolist(), range(1, len(numbers) + 1)
        return found

    def num_bytes(self) -> int:
        """What the arrays and lookups take in an ONNX file at most, and less than twice what they take."""
        # A key of text has a tag and a length; a whole number takes ten bytes and a tag, a value five.
        return sum(array.nbytes for array in self.arrays(None).values()) + sum(
            sum(len(key) + 6 if isinstance(key, bytes) else 11 for key in keys) + 6 * len(keys)
            for keys, _ in self.lookups().values()
        )

    def _named_levels(self) -> Iterator[tuple[str, Level]]:
        for kind, levels in (("words", self.word_levels), ("characters", self.char_levels)):
            for length, level in enumerate(levels, 2):
                yield f"{kind}/{length}", level


def _codes(alphabet: Sequence[str], spec: FeatureSpec) -> dict[int, int]:
    points = [ord(character) for character in alphabet]
    codes = dict.fromkeys(WHITESPACE, BOUNDARY)
    first = BOUNDARY + 1
    if spec.tokenizer == "words":
        codes |= {point: BOUNDARY for point in range(LISTED) if not _is_word(point)}
        codes |= dict(zip(APOSTROPHES, APOSTROPHE_CODES, strict=True))
        first = max(APOSTROPHE_CODES) + 1
    own = [point for point in points if point not in codes and not (spec.lowercase and point in LOWER)]
    codes |= {point: code for code, point in enumerate(own, first)}
    if spec.lowercase:
        codes |= {upper: codes[lower] for upper, lower in LOWER.items() if lower in codes}
    return codes


def _is_word(point: int) -> bool:
    return any(first <= point <= last for first, last in WORD_RANGES)


def _levels(ngrams: Mapping[int, Sequence[int]], *, base: int, none: int) -> tuple[Int32, list[Level]]:
    """The features of single parts, [base], and the levels of longer n-grams.

    ngrams: the numbers of the parts of each feature.
    """
    by_length: dict[int, tuple[Int32, Int64]] = {}
    for length in sorted({len(parts) for parts in ngrams.values()}):
        some = {place: parts for place, parts in ngrams.items() if len(parts) == length}
        by_length[length] = np.array(list(some), np.int32), np.array(list(some.values()), np.int64)
    singles = np.full(base, none, np.int32)
    if 1 in by_length:
        places, parts = by_length.pop(1)
        singles[parts[:, 0]] = places
        singles[UNKNOWN] = none
    levels = []
    numbers = {length: parts[:, 0] for length, (_, parts) in by_length.items()}
    for length in range(2, max(by_length, default=1) + 1):
        keys_of = {
            longer: numbers[longer] * base + by_length[longer][1][:, length - 1]
            for longer in by_length
            if longer >= length
        }
        keys = np.unique(np.concatenate(list(keys_of.values())))
        numbers = {longer: np.searchsorted(keys, some) + 1 for longer, some in keys_of.items()}
        features = np.full(len(keys) + 1, none, np.int32)
        if length in by_length:
            features[numbers[length]] = by_length[length][0]
        levels.append(Level(keys=keys, features=features))
    return singles, levels


def _tokens(codes: Sequence[Sequence[int]]) -> Tokens:
    lengths = np.array([len(each) for each in codes], np.int64)
    ends = np.append(np.int64(0), np.cumsum(lengths))
    flat = np.array([code for each in codes for code in each] or [UNKNOWN], np.int64)
    places = np.arange(len(flat)) - np.repeat(ends[:-1], lengths) if len(codes) else np.zeros(1, np.int64)
    for seed in range(SEEDS):
        generator = np.random.Generator(np.random.PCG64(seed))
        factors = generator.integers(-(2**63), 2**63, int(lengths.max(initial=0)) + 1, np.int64)
        factors[-1] = 0
        hashes = np.add.reduceat(flat * factors[places], ends[:-1]) if len(codes) else np.empty(0, np.int64)
        if len(np.unique(hashes)) == len(hashes):
            return Tokens(hashes=hashes, factors=factors, ends=ends, codes=flat)
    raise AssertionError("no seed keeps the tokens apart")
