"""The feature specification: how a text becomes counts of words, written as data.

Three implementations follow it: Arrow in training (`job.features`), operators in `model.onnx`
(`export.text_graph`) and the plain Python below, which is the one that the others are held against.
"""

from typing import Literal

import msgspec

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


class FeatureSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """How texts become features; stored in the manifest, so that every reader can refuse what it lacks."""

    tokenizer: Literal["whitespace"] = "whitespace"
    """`whitespace`: runs of the 29 whitespace code points separate tokens, as in `str.split()`."""
    lowercase: Literal[False] = False
    """Tokens keep their case."""
    word_ngrams: Literal[1] = 1
    """The longest word n-gram that is a feature."""
    char_ngrams: None = None
    """No character n-grams."""
    weighting: Literal["count"] = "count"
    """`count`: a token that stands twice counts twice."""


def tokenize(text: str) -> list[str]:
    """The tokens of a text, in order, by the specification's reference: `str.split()`.

    >>> tokenize("  me gusta\\u00a0comer ")
    ['me', 'gusta', 'comer']
    """
    return text.split()
