"""What is chosen by the size of the data."""

import itertools

import pytest

from job.environment import load_settings
from job.training.defaults import (
    LEARNING_RATES,
    LEARNING_RATES_OF_NORMALIZED,
    MAX_BATCH_SIZE,
    choose,
    complete,
)
from job.training.optimizer import NUM_SLOTS
from serving.features.specification import FeatureSpec


def test_each_choice_is_possible_whatever_the_number_of_rows() -> None:
    """If it failed, some data could not be trained on with the defaults."""
    for num_rows in [*range(1, 3000), 10**5, 10**6, 10**9, 10**12]:
        choice = choose(num_rows, "adagrad")
        assert 3 <= choice.epochs <= 10
        assert 1 <= choice.batch_size <= MAX_BATCH_SIZE
        assert choice.batch_size & (choice.batch_size - 1) == 0
        assert num_rows // choice.batch_size >= 5 or num_rows < 8


def test_more_rows_make_no_smaller_batches_and_no_more_epochs() -> None:
    """If it failed, a little more data could make training jump to another plan and back."""
    choices = [choose(num_rows, "adagrad") for num_rows in range(1, 300_000, 997)]
    for one, other in itertools.pairwise(choices):
        assert other.batch_size >= one.batch_size
        assert other.epochs <= one.epochs


def test_every_optimizer_has_a_learning_rate() -> None:
    """If it failed, BOW_OPTIMIZER could not be set alone."""
    assert LEARNING_RATES.keys() == LEARNING_RATES_OF_NORMALIZED.keys() == NUM_SLOTS.keys()


def test_normalized_words_are_learned_in_larger_steps() -> None:
    """If it failed, the defaults would end training of such features before it came anywhere."""
    plain = choose(10_000, "adagrad")
    words = choose(10_000, "adagrad", FeatureSpec(normalize="l2"))
    parts = choose(10_000, "adagrad", FeatureSpec(normalize="l2", char_ngrams=(2, 4)))
    assert plain.learning_rate == parts.learning_rate < words.learning_rate
    settings = {"BOW_TRAIN_DATA": "data.tsv", "BOW_NORMALIZE": "l2"}
    assert complete(load_settings(settings), 10_000).learning_rate == words.learning_rate


@pytest.mark.parametrize("name", ["epochs", "batch_size", "learning_rate"])
def test_what_is_set_stays(name: str) -> None:
    """If it failed, the job would overrule its settings."""
    environ = {"BOW_TRAIN_DATA": "data.tsv"}
    given = load_settings(environ | {f"BOW_{name.upper()}": "7"})
    completed = complete(given, 10_000)
    assert getattr(completed, name) == 7
    chosen = complete(load_settings(environ), 10_000)
    others = {"epochs", "batch_size", "learning_rate"} - {name}
    assert all(getattr(completed, other) == getattr(chosen, other) for other in others)
    assert None not in (chosen.epochs, chosen.batch_size, chosen.learning_rate)
