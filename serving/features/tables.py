"""How `model.onnx` finds n-grams: by whole numbers, so that no runtime's lower case or locale decides.

Every code point that stands in a feature has a code. A character n-gram is found by the number that its
codes make as digits, as far as that fits into 64 bits. A longer one, and a word n-gram, is found from the one
that lacks its last part: the number of that one and the part's own make the key of the next table, and the
last table gives features. Tokens are found by a hash of their codes, and then compared with the codes of the
one that was found.

`Tables.of` makes the tables from the vocabulary alone: the exporter writes them, `verify` makes them again.
`serving.features.levels` has what goes from table to table.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from serving.features.code_points import LOWER, WORD_RANGES
from serving.features.hashes import BOUNDARY, Tokens
from serving.features.levels import NO_NUMBER, Int32, Int64, Level, levels, packed_length, packed_levels
from serving.features.lookup import KEY_BYTES, MAX_SECOND_LOOKUP, Lookup
from serving.features.specification import APOSTROPHES, EDGE, WHITESPACE, FeatureSpec
from serving.features.spelling import Spellings

APOSTROPHE_CODES = (2, 3)
"""Of the two apostrophes where the tokenizer knows them, and they stand within a word."""
UNLISTED = -3
"""What a code point without a code is given first where words are tokens: whether it stands in one is seen
then. It is less than all that apostrophes are given first; 1 minus it, as theirs, is the code in a word."""
UNKNOWN = 4
"""The code of a code point that stands in no feature; those that do have the codes that follow."""
LISTED = 0x250
"""Below this, what stands in no word has the code of a boundary; others are looked at when they come."""


@dataclass(frozen=True, kw_only=True)
class Tables:
    """A vocabulary, and all that the graph looks up to find its features."""

    spec: FeatureSpec
    names: Sequence[str]
    """Of the features, [V]."""
    num_groups: int
    """Of features that are normalized apart: 2 where there are character n-grams and others, else 1."""
    has_scales: bool
    """Whether a feature counts something else than its occurrences decide."""
    first_char: int
    """The first feature that is a character n-gram: all others stand before them."""
    codes: Mapping[int, int]
    """Of code points; those without one have the code UNKNOWN. In lower case both cases have the same."""
    num_codes: int
    unlisted: int
    """What code points without a code are given first: where words are tokens they have to be looked at."""
    token_numbers: Mapping[str, int]
    """The number of each token that stands in a feature, and in texts."""
    tokens: Tokens | None
    """None where each code point is a token, whose number is its code."""
    token_features: Int32
    """[T + 1], or [num_codes]: the feature of each token by number."""
    word_levels: Sequence[Level]
    """Of 2, 3, ... tokens; the base is the number of `token_features`."""
    char_grams: Level | None
    """Of up to `packed` code points, edges among them; None where there are no character n-grams."""
    char_lengths: Sequence[int]
    """Those of `char_grams`, ascending."""
    char_levels: Sequence[Level]
    """Of `packed` + 1, + 2, ... code points, edges among them; the base is `num_codes`."""

    @classmethod
    def of(cls, names: Sequence[str], spec: FeatureSpec) -> "Tables":
        """The tables of a vocabulary, by its features' names: [V]."""
        size = len(names)
        words = {place: name.split(EDGE) for place, name in enumerate(names) if not name.startswith(EDGE)}
        chars = {place: name[1:] for place, name in enumerate(names) if name.startswith(EDGE)}
        tokens = list(dict.fromkeys(token for parts in words.values() for token in parts))
        code_of = _codes({*"".join(tokens), *"".join(chars.values())}, spec)
        num_codes = max([UNKNOWN, *code_of.values()]) + 1
        by_char = {chr(point): code for point, code in code_of.items() if code > BOUNDARY}
        if spec.lowercase:
            by_char = {char: code for char, code in by_char.items() if ord(char) not in LOWER}
        codes_of_tokens = _in_codes(dict(zip(tokens, tokens, strict=True)), by_char)
        is_token = spec.tokenizer != "characters"
        if not is_token:
            codes_of_tokens = {token: codes for token, codes in codes_of_tokens.items() if len(codes) == 1}
        number_of = {
            token: number if is_token else codes[0]
            for number, (token, codes) in enumerate(codes_of_tokens.items(), 1)
        }
        token_features, word_levels = levels(
            {
                place: [number_of[part] for part in parts]
                for place, parts in words.items()
                if len(parts) <= spec.word_ngrams and all(part in number_of for part in parts)
            },
            base=len(number_of) + 1 if is_token else num_codes,
            none=size,
        )
        char_grams, char_lengths, char_levels = packed_levels(
            _in_codes(_char_ngrams(chars, spec), by_char | {EDGE: BOUNDARY}), base=num_codes, none=size
        )
        is_normalized = spec.normalize == "l2"
        return cls(
            spec=spec,
            names=names,
            num_groups=2 if is_normalized and words and chars else 1,
            has_scales=is_normalized or spec.weighting == "tfidf",
            first_char=min(chars, default=size),
            codes=code_of,
            num_codes=num_codes,
            unlisted=UNLISTED if spec.tokenizer == "words" else UNKNOWN,
            token_numbers=number_of,
            tokens=Tokens.of(list(codes_of_tokens.values())) if is_token else None,
            token_features=token_features,
            word_levels=word_levels,
            char_grams=char_grams,
            char_lengths=char_lengths,
            char_levels=char_levels,
        )

    @property
    def none(self) -> int:
        """V, which stands for no feature."""
        return len(self.names)

    @property
    def has_words(self) -> bool:
        """Whether tokens are words alone, rather than what whitespace separates."""
        return self.spec.tokenizer == "words"

    @property
    def packed(self) -> int:
        """The most code points whose codes fit into a key."""
        return packed_length(self.num_codes)

    @property
    def has_two_lookups(self) -> bool:
        """Whether there are second lookups, for a second way through the graph."""
        return self._second_bytes <= MAX_SECOND_LOOKUP

    @cached_property
    def spellings(self) -> Spellings | None:
        """By which the second way finds tokens; None where it finds all by their code points.

        That is where code points are tokens, where spellings would take too much memory, and where most texts
        would have odd tokens: parts of words are features, and whitespace leaves words their commas.
        """
        num_bytes = self._second_bytes + Spellings.num_bytes(self.token_numbers, self.spec)
        if self.tokens is None or not self.token_numbers or num_bytes > MAX_SECOND_LOOKUP:
            return None
        if self.spec.tokenizer == "whitespace" and self.char_grams is not None:
            return None
        chars = enumerate(self.names[self.first_char :], self.first_char)
        places = {name: place for place, name in chars}
        return Spellings.of(self.token_numbers, places, self.spec, none=self.none)

    @property
    def has_odd_tokens(self) -> bool:
        """Whether the second way finds some tokens by their codes: all, or those in no spelling."""
        return self.spellings is None or self.spec.lowercase or not self.spellings.are_of_all

    @property
    def has_odd_codes(self) -> bool:
        """Whether it needs the codes of some code points."""
        return self.has_odd_tokens or self.char_grams is not None

    @property
    def _second_bytes(self) -> int:
        """What second lookups of whole numbers take in memory."""
        num_keys = sum(len(level.keys) for _, level, _ in self._named_levels())
        num_keys += 0 if self.tokens is None else len(self.tokens.hashes)
        return KEY_BYTES * num_keys

    def arrays(self, idf: npt.NDArray[np.float32] | None) -> dict[str, npt.NDArray[Any]]:
        """What the graph gathers from, by name.

        Among it `scales`, float64 [G, V + 1]: what the features of each group are multiplied by, and 0 for
        those of another group or none.
        """
        found: dict[str, npt.NDArray[Any]] = {"tokens/features": self.token_features.astype(np.int64)}
        if self.tokens is not None:
            found["tokens/factors"] = self.tokens.factors
            found["tokens/starts"] = self.tokens.starts
            found["tokens/codes"] = self.tokens.codes
        if self.spellings is not None and self.char_grams is not None:
            found["tokens/char_features"] = self.spellings.char_features
        for name, level, is_last in self._named_levels():
            if not is_last:
                found[f"{name}/features"] = level.features.astype(np.int64)
        if self.has_scales:
            found["scales"] = scales = np.zeros((self.num_groups, self.none + 1))
            in_last = (np.arange(self.none) >= self.first_char) | (self.num_groups == 1)
            scales[-1, :-1] = np.where(in_last, 1 if idf is None else idf, 0)
            if self.num_groups == 2:
                scales[0, :-1] = np.where(in_last, 0, 1 if idf is None else idf)
        return found

    def lookups(self) -> dict[str, Lookup]:
        """What the graph looks up, by name: numbers, and features at the end of a way."""
        # An empty string is what pads a row.
        characters = [b"", *(chr(point).encode() for point in self.codes)]
        codes = [BOUNDARY, *map(first_code, self.codes.values())]
        times = 2 if self.has_two_lookups else 1
        found = {
            "codes": Lookup(
                keys=characters,
                numbers=codes,
                default=self.unlisted,
                times=times if self.has_odd_codes else 1,
            )
        }
        if self.tokens is not None:
            found["tokens"] = _numbering(self.tokens.hashes, times if self.has_odd_tokens else 1)
        if self.spellings is not None:
            found["spellings"] = Lookup(
                keys=[spelling.encode() for spelling in self.spellings.numbers],
                numbers=list(self.spellings.numbers.values()),
                default=NO_NUMBER,
                times=1,
            )
        for name, level, is_last in self._named_levels():
            found[name] = (
                Lookup(
                    keys=level.keys.tolist(),
                    numbers=level.features[1:].tolist(),
                    default=self.none,
                    times=times,
                )
                if is_last
                else _numbering(level.keys, times)
            )
        return found

    def num_bytes(self) -> int:
        """What the arrays and lookups take in an ONNX file at most, and less than twice what they take."""
        arrays = sum(array.nbytes for array in self.arrays(None).values())
        # A key of text has a tag and a length; a whole number takes ten bytes and a tag, a value five.
        lookups = sum(
            lookup.times * sum((len(key) if isinstance(key, bytes) else 5) + 12 for key in lookup.keys)
            for lookup in self.lookups().values()
        )
        # The second way counts features in a table of them all, of a byte each.
        return arrays + lookups + (self.none if self.has_two_lookups else 0)

    def _named_levels(self) -> Iterator[tuple[str, Level, bool]]:
        """Each with its name, and whether none follows it."""
        longest = len(self.word_levels) + 1
        for length, level in enumerate(self.word_levels, 2):
            yield f"words/{length}", level, length == longest
        if self.char_grams is not None:
            yield "characters", self.char_grams, not self.char_levels
        longest = self.packed + len(self.char_levels)
        for length, level in enumerate(self.char_levels, self.packed + 1):
            yield f"characters/{length}", level, length == longest


def first_code(code: int) -> int:
    """What a code point of that code is given first: below 0 where its neighbours decide."""
    return 1 - code if code in APOSTROPHE_CODES else code


def _numbering(keys: Int64, times: int) -> Lookup:
    """Gives the keys numbers from 1."""
    return Lookup(keys=keys.tolist(), numbers=range(1, len(keys) + 1), default=NO_NUMBER, times=times)


def _codes(alphabet: Collection[str], spec: FeatureSpec) -> dict[int, int]:
    points = sorted(ord(character) for character in alphabet)
    codes = dict.fromkeys(WHITESPACE, BOUNDARY)
    if spec.tokenizer == "words":
        codes |= {point: BOUNDARY for point in range(LISTED) if not _is_word(point)}
        codes |= dict(zip(APOSTROPHES, APOSTROPHE_CODES, strict=True))
        points = [point for point in points if _is_word(point)]
    own = [point for point in points if point not in codes and not (spec.lowercase and point in LOWER)]
    codes |= {point: code for code, point in enumerate(own, UNKNOWN + 1)}
    if spec.lowercase:
        codes |= {upper: codes[lower] for upper, lower in LOWER.items() if lower in codes}
    return codes


def _in_codes(names: Mapping[Any, str], by_char: Mapping[str, int]) -> dict[Any, list[int]]:
    """The codes of the names, without those that no text can have, such as one of capitals in lower case."""
    found = {place: [by_char.get(char, NO_NUMBER) for char in name] for place, name in names.items()}
    return {place: codes for place, codes in found.items() if NO_NUMBER not in codes}


def _char_ngrams(names: Mapping[int, str], spec: FeatureSpec) -> dict[int, str]:
    """The names of such lengths as a token's n-grams have, with edges at their ends alone."""
    shortest, longest = spec.char_ngrams or (1, 0)
    return {
        place: name
        for place, name in names.items()
        if shortest <= len(name) <= longest and EDGE not in name[1:-1] and name.strip(EDGE)
    }


def _is_word(point: int) -> bool:
    return any(first <= point <= last for first, last in WORD_RANGES)
