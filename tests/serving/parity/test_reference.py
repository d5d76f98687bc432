"""The float64 reference against dense arithmetic that shares no code with it."""

import math
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.features.specification import WHITESPACE, FeatureSpec, tokenize
from serving.parity.reference import Reference

WORDS = ["me", "gusta", "café", "cafe\u0301", "CAFÉ", "a", "東京", "😀", "\ufeff", "\u200b", "a\u200bb", "."]
NUM_LABELS = 4

texts = st.lists(
    st.tuples(
        st.sampled_from([*WORDS, "unknown", "Me", "ab", "\u200b\u200b"]),
        st.text(st.sampled_from([chr(point) for point in WHITESPACE]), min_size=1, max_size=3),
    ),
    max_size=30,
).map(lambda parts: "".join(word + space for word, space in parts))


def made(seed: int = 0, scale: float = 1.0, num_labels: int = NUM_LABELS) -> Reference:
    generator = np.random.Generator(np.random.PCG64(seed))
    weight = generator.normal(0, scale, (num_labels, len(WORDS))).astype(np.float32)
    return Reference.of(weight, generator.normal(0, scale, num_labels).astype(np.float32), WORDS)


def dense(reference: Reference, some: list[str]) -> npt.NDArray[np.float64]:
    """The log-probabilities of texts by a matrix product over counts of `str.split()`."""
    counts = np.array([[text.split().count(word) for word in WORDS] for text in some], dtype=np.float64)
    logits = counts.reshape(len(some), len(WORDS)) @ reference.weight.astype(np.float64).T + reference.bias
    return np.asarray(logits - np.logaddexp.reduce(logits, axis=1)[:, None])


@given(st.lists(texts, max_size=6), st.integers(0, 3), st.sampled_from([0.01, 1.0, 30.0]))
def test_it_is_the_log_softmax_of_the_matrix_product(some: list[str], seed: int, scale: float) -> None:
    """If it failed, everything would be held against wrong numbers."""
    reference = made(seed, scale)
    found = reference.score(some)
    assert found.log_probs.dtype == np.float64
    assert found.log_probs.shape == (len(some), NUM_LABELS)
    np.testing.assert_allclose(found.log_probs, dense(reference, some), rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(np.exp(found.log_probs).sum(axis=1), 1, rtol=1e-12)


@given(st.lists(texts, max_size=6))
def test_counts_bags_and_dense_input_say_the_same(some: list[str]) -> None:
    """If it failed, the runtimes would be asked different questions."""
    reference = made()
    bow = reference.bow(some)
    assert bow.dtype == np.float32
    assert bow.shape == (len(some), len(WORDS))
    assert bow.tolist() == [[text.split().count(word) for word in WORDS] for text in some]
    found = reference.bags(some)
    ids, offsets = found.ids, found.offsets
    assert found.values is None
    assert ids.dtype == offsets.dtype == np.int64
    assert (offsets[0], offsets[-1], len(offsets)) == (0, len(ids), len(some) + 1)
    bags = [ids[start:end].tolist() for start, end in pairwise(offsets)]
    assert bags == [[WORDS.index(word) for word in text.split() if word in WORDS] for text in some]


@pytest.mark.parametrize("text", ["", " ", "".join(map(chr, WHITESPACE)), "nothing known", "ME Gusta cafè"])
def test_a_text_without_known_words_gives_the_log_softmax_of_the_bias(text: str) -> None:
    """If it failed, an empty text would have no answer, or unknown words an effect."""
    reference = made()
    bias = reference.bias.astype(np.float64)
    expected = bias - np.log(np.exp(bias).sum())
    np.testing.assert_allclose(reference.score([text]).log_probs, [expected], rtol=1e-14)


def test_no_texts_give_no_rows_but_all_columns() -> None:
    """If it failed, an empty batch would end in a traceback."""
    reference = made()
    found = reference.score([])
    assert found.log_probs.shape == (0, NUM_LABELS)
    assert len(found) == 0
    assert reference.bow([]).shape == (0, len(WORDS))
    bags = reference.bags([])
    assert bags.ids.tolist() == []
    assert bags.offsets.tolist() == [0]


def test_a_word_counts_as_often_as_it_stands() -> None:
    """If it failed, presence would be taken for counts."""
    reference = made()
    assert reference.bow(["a me a"])[0].tolist() == [1, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0]
    once, twice = reference.score(["a", "a a"]).log_probs
    bias = reference.score([""]).log_probs[0]
    np.testing.assert_allclose(np.diff(twice - once), np.diff(once - bias), rtol=1e-12)


def test_the_order_of_words_and_batches_changes_nothing() -> None:
    """If it failed, one text's answer would depend on its neighbours."""
    reference = made()
    some = ["me gusta café", "", "a a 東京", "😀 . me"]
    together = reference.score(some).log_probs
    alone = np.vstack([reference.score([text]).log_probs for text in some])
    assert np.array_equal(together, alone)
    backwards = reference.score([" ".join(text.split()[::-1]) for text in some]).log_probs
    np.testing.assert_allclose(backwards, together, rtol=1e-13)


def test_the_rounding_scale_is_the_square_root_of_the_terms_times_the_largest_sum_of_magnitudes() -> None:
    """If it failed, float32 runtimes would be given too much room, or too little."""
    reference = made()
    weight, bias = np.abs(reference.weight.astype(np.float64)), np.abs(reference.bias.astype(np.float64))
    counts = {0: 3, 5: 2, 6: 1}
    largest = max(
        bias[label] + sum(number * weight[label, word] for word, number in counts.items())
        for label in range(NUM_LABELS)
    )
    found = reference.score(["me a me unknown 東京 a me", ""]).rounding_scale
    assert found.tolist() == pytest.approx([math.sqrt(4) * largest, bias.max()], rel=1e-12)


def test_large_logits_neither_overflow_nor_lose_the_answer() -> None:
    """If it failed, a text of many words would have infinite log-probabilities."""
    reference = Reference.of(np.array([[1000.0], [-1000.0]], np.float32), np.zeros(2, np.float32), ["a"])
    found = reference.score(["a " * 1000]).log_probs
    assert found.tolist() == [[0.0, -2_000_000.0]]


def test_one_label_is_certain() -> None:
    """If it failed, a model of one label would not be served."""
    assert made(num_labels=1).score(["me", ""]).log_probs.tolist() == [[0.0], [0.0]]


def test_rows_are_taken_with_their_scales() -> None:
    """If it failed, a part of a sample would be held to another part's bounds."""
    scores = made().score(["me", "a a a", "", "gusta me"])
    for rows in (slice(1, 3), np.array([3, 0])):
        part = scores.rows(rows)
        assert np.array_equal(part.log_probs, scores.log_probs[rows])
        assert np.array_equal(part.rounding_scale, scores.rounding_scale[rows])
        assert len(part) == 2


def test_the_whitespace_is_that_of_str_split() -> None:
    """If it failed, the written specification would not be what the reference does."""
    every = [point for point in range(0x110000) if not 0xD800 <= point < 0xE000]
    assert [point for point in every if f"a{chr(point)}b".split() == ["a", "b"]] == sorted(WHITESPACE)
    assert len(WHITESPACE) == 29
    assert tokenize("".join(f"{chr(point)}x{point}" for point in WHITESPACE)) == [f"x{p}" for p in WHITESPACE]
    assert FeatureSpec().tokenizer == "whitespace"
