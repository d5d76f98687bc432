"""Every code point of Unicode in context: training, the graph and the reference find the same features."""

import pytest

from serving.features.specification import FeatureSpec, Tokenizer
from serving.features.tables import Tables
from tests.ngrams import FeatureSession, by_reference, by_training, chosen, read

pytestmark = pytest.mark.system

CODE_POINTS = [point for point in range(1, 0x110000) if not 0xD800 <= point < 0xE000]
CONTEXTS = 32
"""Code points of a text."""
TOKENIZERS: list[Tokenizer] = ["whitespace", "words", "characters"]


def texts_of(points: list[int]) -> list[str]:
    """Each code point within a word, beside an apostrophe, and alone."""
    each = [f"ab{chr(point)}cd'{chr(point)} {chr(point)} " for point in points]
    return ["".join(each[start : start + CONTEXTS]) for start in range(0, len(each), CONTEXTS)]


@pytest.mark.parametrize("lowercase", [False, True])
@pytest.mark.parametrize("tokenizer", TOKENIZERS)
@pytest.mark.parametrize("known", [0, 1])
def test_every_code_point_gives_the_same_features(tokenizer: Tokenizer, lowercase: bool, known: int) -> None:
    """If it failed, some script's texts would be served with other features than were learned.

    The features are those of every other code point below 0x3000, and of few above: the others are unknown.
    """
    spec = FeatureSpec(
        tokenizer=tokenizer,
        lowercase=lowercase,
        word_ngrams=2,
        char_ngrams=None if tokenizer == "characters" else (1, 3),
    )
    learned = [point for point in CODE_POINTS if point % (2 if point < 0x3000 else 64) == known]
    names = chosen(read(texts_of(learned), spec), spec, min_count=1)
    tables = Tables.of(names, spec)
    session = FeatureSession(tables)
    texts = texts_of(CODE_POINTS)
    expected = list(by_reference(texts, names, spec))
    assert list(by_training(read(texts, spec), tables)) == expected
    for start in range(0, len(texts), 256):
        assert list(session.run(texts[start : start + 256])) == expected[start : start + 256]
    assert list(session.alone(texts)) == expected
