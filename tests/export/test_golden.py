"""The golden examples: the same for the same model, made of its own words, right in float64."""

import math

import numpy as np
import pytest

from export.golden import MAX_LOG_PROBS, NUM_EXAMPLES, golden_examples, golden_texts
from serving.weights import Parameters
from tests.export.models import random_parameters, words

UNKNOWN = "\ue000unknown\ue000"


def examples_of(parameters: Parameters) -> list[tuple[str, str, list[float]]]:
    found = golden_examples(parameters)
    return [(example.text, example.label, example.log_probs) for example in found]


def by_hand(parameters: Parameters, text: str) -> list[float]:
    """log softmax(Ax + b) in Python's own floats, which are float64, with exactly rounded sums."""
    places = {word: place for place, word in enumerate(parameters.vocabulary)}
    tokens = [places[token] for token in text.split() if token in places]
    logits = [
        math.fsum([float(bias), *(float(row[token]) for token in tokens)])
        for row, bias in zip(parameters.weight, parameters.bias, strict=True)
    ]
    largest = max(logits)
    log_sum = largest + math.log(math.fsum(math.exp(logit - largest) for logit in logits))
    return [logit - log_sum for logit in logits]


@pytest.mark.parametrize(("num_labels", "num_words"), [(2, 1), (2, 26), (7, 300), (150, 40)])
def test_the_log_probs_are_those_of_an_independent_calculation(num_labels: int, num_words: int) -> None:
    """If it failed, what every runtime is held against would itself be wrong."""
    parameters = random_parameters(num_labels, words(num_words))
    for text, label, log_probs in examples_of(parameters):
        expected = by_hand(parameters, text)
        np.testing.assert_allclose(log_probs, expected, rtol=1e-12, atol=1e-12)
        assert label == parameters.labels[int(np.argmax(expected))]


def test_the_same_model_has_the_same_examples() -> None:
    """If it failed, the same run would have another bundle ID each time."""
    parameters = random_parameters(3, words(40))
    np.random.default_rng().random()
    assert examples_of(parameters) == examples_of(parameters)


def test_there_are_64_examples_and_fewer_of_many_labels() -> None:
    """If it failed, a bundle of a million labels would carry gigabytes of examples."""
    assert len(examples_of(random_parameters(2, words(5)))) == NUM_EXAMPLES == 64
    assert len(examples_of(random_parameters(MAX_LOG_PROBS // 10, ["word"]))) == 10
    assert len(examples_of(random_parameters(MAX_LOG_PROBS + 1, ["word"]))) == 1


def test_the_texts_hold_nothing_but_words_of_the_vocabulary_and_the_unknown_marker() -> None:
    """If it failed, the training data could leak out of the bundle, or the examples test too little."""
    vocabulary = ["me", "é", "e\u0301", "日本語", "👍🏽", '"', "\\", "x" * 5000, *words(100)]
    texts = golden_texts(vocabulary, 64)
    tokens = [text.split() for text in texts]
    assert {token for row in tokens for token in row} <= {*vocabulary, UNKNOWN}
    assert any(UNKNOWN in row for row in tokens)
    assert not all(UNKNOWN in row for row in tokens)
    assert all(1 <= len(row) <= 41 for row in tokens)
    assert any(character.isspace() and character != " " for text in texts for character in text)
    assert len(set(texts)) == 64


def test_frequent_words_stand_in_the_texts_more_often() -> None:
    """If it failed, the examples would mostly test words that hardly occur."""
    tokens = [
        int(token[1:]) for text in golden_texts(words(1000), 64) for token in text.split() if token != UNKNOWN
    ]
    assert np.median(tokens) < 400
    assert max(tokens) > 800


def test_a_vocabulary_of_one_word_has_examples() -> None:
    """If it failed, the smallest model could not be published."""
    tokens = {token for text in golden_texts(["only"], 64) for token in text.split()}
    assert tokens == {"only", UNKNOWN}
