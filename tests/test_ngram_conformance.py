"""Training, the reference and `model.onnx` see the same features, whatever the specification and the text."""

from collections import Counter
from itertools import product

import msgspec
import numpy as np
import pyarrow as pa
import pytest

from job.features.tokens import NO_TOKEN, tokenize
from serving.features.code_points import WORD_RANGES
from serving.features.specification import WHITESPACE, FeatureSpec, Tokenizer, features
from serving.features.specification import tokenize as reference_tokenize
from serving.features.tables import Tables
from serving.parity.verify import reference_of
from serving.weights import Parameters
from tests.export.models import TextModelSession, assert_close
from tests.ngrams import FeatureSession, by_reference, by_training, chosen, read

SEED = 11
NUM_FUZZED = 2_000
"""For each of the 54 combinations: 108,000 in all."""

TOKENIZERS: list[Tokenizer] = ["whitespace", "words", "characters"]
CASES = [False, True]
COMBINATIONS = [
    FeatureSpec(tokenizer=tokenizer, lowercase=lowercase, word_ngrams=words, char_ngrams=chars)
    for tokenizer, lowercase, words, chars in product(
        TOKENIZERS, CASES, [1, 2, 3], [None, (1, 3), (2, 4), (3, 5)]
    )
    if not (tokenizer == "characters" and chars)
]
WEIGHTINGS = list(product(["count", "binary", "log", "tfidf"], ["none", "l2"]))

CODE_POINTS = [point for point in range(1, 0x110000, 7) if not 0xD800 <= point < 0xE000]
"""Some of them; tests/system/test_every_code_point.py takes all."""
ALPHABET = [
    *"abcABC''\u2019\u2019_-.,",
    *("é", "É", "e\u0301", "İ", "i\u0307", "ß", "ẞ", "Σ", "ς", "σ", "ǅ", "ᏸ", "Ꮒ", "\u1c90", "ა", "𐐀", "𐐨"),
    *("日本", "語", "ไทย", "١", "Ⅷ", "ⅷ", "①", "☃", "😀", "👍🏽", "\u200d", "\u200b", "\ufeff", "\u00ad"),
    *("𝔵", "\ue000", "\U0010ffff", "\u0378", "the", "The", "don't", "\u061c", "\x01", "Ⴀ", "Ⱟ", "\U00010570"),
]
"""Letters of several scripts and both cases, some of them new to Unicode, and what is no letter."""


def fuzzed(number: int, seed: int) -> list[str]:
    generator = np.random.default_rng(seed)
    spaces = [" ", " ", " ", *map(chr, WHITESPACE)]
    texts = []
    for length in generator.integers(0, 24, number):
        parts = generator.choice(ALPHABET, length)
        ends = np.where(generator.random(length) < 0.25, generator.choice(spaces, length), "")
        texts.append("".join(part + end for part, end in zip(parts, ends, strict=True)))
    return texts


def named(spec: FeatureSpec) -> str:
    return f"{spec.tokenizer}-{spec.lowercase}-{spec.word_ngrams}-{spec.char_ngrams}"


@pytest.mark.parametrize("lowercase", CASES)
@pytest.mark.parametrize("tokenizer", TOKENIZERS)
def test_training_and_the_reference_have_the_same_tokens(tokenizer: Tokenizer, lowercase: bool) -> None:
    """If it failed, some code point would split words in training alone, or change its case there alone."""
    spec = FeatureSpec(tokenizer=tokenizer, lowercase=lowercase)
    each = [f"l{chr(point)}R'{chr(point)} {chr(point)}" for point in CODE_POINTS]
    texts = ["".join(each[start : start + 64]) for start in range(0, len(each), 64)]
    texts += ["", "'", "a'", "'a", "a'b", "a''b", "\u2019a\u2019b\u2019", *fuzzed(2_000, SEED)]
    block = tokenize(pa.array(texts), spec)
    tokens = np.array(block.dictionary.to_pylist(), dtype=object)[block.codes]
    for text, start, end in zip(texts, block.offsets[:-1], block.offsets[1:], strict=True):
        assert [token for token in tokens[start:end] if token != NO_TOKEN] == reference_tokenize(text, spec)


@pytest.mark.parametrize("spec", COMBINATIONS, ids=named)
def test_training_the_graph_and_the_reference_find_the_same_features(spec: FeatureSpec) -> None:
    """If it failed, the model would be served with other features than it learned from."""
    texts = fuzzed(NUM_FUZZED, SEED + COMBINATIONS.index(spec))
    raw = read(texts, spec)
    names = chosen(raw, spec, min_count=2)
    counts = Counter(name for text in texts for name in features(text, spec))
    assert len(set(names)) == len(names)
    assert set(names) == {name for name, count in counts.items() if count >= 2}

    names = [name for place, name in enumerate(names) if place % 3]  # parts of n-grams need be no features
    tables = Tables.of(names, spec)
    expected = list(by_reference(texts, names, spec))
    assert sum(map(len, expected)) > NUM_FUZZED / 4
    assert list(by_training(raw, tables)) == expected
    session, start = FeatureSession(tables), 0
    found: list[list[int]] = []
    for size in (1, 7, 1, 256, NUM_FUZZED):
        found += session.run(texts[start : start + size])
        start += size
    assert found == expected
    assert list(session.alone(texts)) == expected


def _is_word(point: int) -> bool:
    return any(first <= point <= last for first, last in WORD_RANGES)


@pytest.mark.parametrize("shortest", [2, 8])
@pytest.mark.parametrize("tokenizer", ["whitespace", "words"])
def test_ngrams_too_long_for_one_key_are_found(tokenizer: Tokenizer, shortest: int) -> None:
    """If it failed, long n-grams would be lost, or taken for others, in languages of many characters."""
    spec = FeatureSpec(tokenizer=tokenizer, char_ngrams=(shortest, 8))
    generator = np.random.default_rng(SEED)
    characters = [chr(point) for point in CODE_POINTS[:3000] if tokenizer != "words" or _is_word(point)]
    words = ["".join(generator.choice(characters, 12)) for _ in range(200)]
    alphabet = " ".join(characters)
    names = [*alphabet.split(), *chosen(read([*words, *words], spec), spec, min_count=2)]
    names = [name for name in dict.fromkeys(names) if ord(name[-1]) % 3]
    names.sort(key=lambda name: name.startswith(" "))
    tables = Tables.of(names, spec)
    assert tables.packed < 7
    assert len(tables.char_levels) == 8 - tables.packed
    assert (tables.spellings is not None) == (tokenizer == "words")
    texts = [*words, "".join(words[:9]), *(word[4:] + word[:4] for word in words)]
    texts += [f"{characters[20]} {word} {characters[21]}" for word in words[:20]]
    expected = list(by_reference(texts, names, spec))
    assert sum(map(len, expected)) > len(words)
    assert list(by_training(read(texts, spec), tables)) == expected
    session = FeatureSession(tables)
    assert list(session.run(texts)) == expected
    assert list(session.alone(texts)) == expected


@pytest.mark.parametrize("char_ngrams", [(3, 6), (1, 8), (8, 8)])
@pytest.mark.parametrize("tokenizer", ["whitespace", "words"])
def test_texts_shorter_than_an_ngram_are_taken(tokenizer: Tokenizer, char_ngrams: tuple[int, int]) -> None:
    """If it failed, BOW_CHAR_NGRAMS=3-6 would make a model that an empty text ends."""
    spec = FeatureSpec(tokenizer=tokenizer, lowercase=True, char_ngrams=char_ngrams)
    names = list(dict.fromkeys(features("abcdefgh bcdefg a", spec)))
    names.sort(key=lambda name: name.startswith(" "))
    session = FeatureSession(Tables.of(names, spec))
    texts = ["", " ", "a", "x", "ab", "aB", "abc", "abcd", "abcde x", "xabcdefgh"]
    expected = list(by_reference(texts, names, spec))
    assert [found for text in texts for found in session.run([text])] == expected
    assert list(session.alone(texts)) == expected


NEVER_FOUND = [
    *("Ab", "aB c", " Ab", "a-b", " a-", "-", "b a-", "\u2603", " \u2603b", "'a", " 'a", "a b c"),
    *(" a", " abcd", " b a", "   "),
]


@pytest.mark.parametrize("name", NEVER_FOUND)
def test_a_name_that_no_text_can_have_is_never_found(name: str) -> None:
    """If it failed, a vocabulary that was written by hand would give texts features that they don't have."""
    spec = FeatureSpec(tokenizer="words", lowercase=True, word_ngrams=2, char_ngrams=(2, 3))
    names = sorted(["ab", "c", name, " ab", "  a"], key=lambda each: each.startswith(" "))
    tables = Tables.of(names, spec)
    texts = [name, "ab", "Ab AB", "xb", "a b", "a-b", "b a", "a - b c", "\u2603b", "abcd xabcd", "'a"]
    expected = list(by_reference(texts, names, spec))
    assert list(by_training(read(texts, spec), tables)) == expected
    session = FeatureSession(tables)
    assert list(session.run(texts)) == expected
    assert list(session.alone(texts)) == expected


@pytest.mark.parametrize("tokenizer", ["whitespace", "words"])
def test_a_vocabulary_may_have_no_token(tokenizer: Tokenizer) -> None:
    """If it failed, BOW_MIN_COUNT=1000 beside character n-grams would end the job after training."""
    spec = FeatureSpec(tokenizer=tokenizer, word_ngrams=2, char_ngrams=(1, 2))
    names = [" a", "  a", " ab"]
    texts = ["", "ab", "a b ab", "xab", "ba"]
    expected = list(by_reference(texts, names, spec))
    session = FeatureSession(Tables.of(names, spec))
    assert list(session.run(texts)) == expected
    assert list(session.alone(texts)) == expected


@pytest.mark.parametrize(("weighting", "normalize"), WEIGHTINGS)
@pytest.mark.parametrize("spec", COMBINATIONS[::9], ids=named)
def test_the_text_model_gives_the_references_log_probs(
    spec: FeatureSpec, weighting: str, normalize: str
) -> None:
    """If it failed, what a feature counts would be another number in the exported model."""
    spec = msgspec.structs.replace(spec, weighting=weighting, normalize=normalize)
    texts = fuzzed(300, SEED)
    names = chosen(read(texts, spec), spec, min_count=2)
    generator = np.random.default_rng(SEED)
    parameters = Parameters(
        weight=generator.standard_normal((5, len(names))).astype(np.float32),
        bias=generator.standard_normal(5).astype(np.float32),
        vocabulary=names,
        labels=[f"label {place}" for place in range(5)],
        spec=spec,
        idf=(1 + generator.random(len(names))).astype(np.float32) if weighting == "tfidf" else None,
    )
    if spec.is_plain:
        return
    session, reference = TextModelSession(parameters), reference_of(parameters)
    repeated = " ".join(texts[:50]) * 3
    for batch in ([], [""], texts[:1], texts[1:8], texts, [*texts[:20], repeated, ""], ["the " * 30_000]):
        log_probs, labels = session.run(batch)
        assert_close(log_probs, reference.score(batch).log_probs)
        assert labels == [parameters.labels[best] for best in log_probs.argmax(axis=1)]
    # One by one, short ones go another way through the graph.
    alone = np.concatenate([session.run([text])[0] for text in texts])
    assert_close(alone, reference.score(texts).log_probs)
