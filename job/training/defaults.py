"""How long, in what steps and how fast to learn, where the settings leave it open."""

from dataclasses import dataclass

from job.features.specification import feature_spec
from job.settings import Settings
from job.training.optimizer import OptimizerName
from serving.features.specification import PLAIN, FeatureSpec

LEARNING_RATES: dict[OptimizerName, float] = {"adagrad": 0.25, "rmsprop": 0.02, "adam": 0.05, "sgd": 8.0}
LEARNING_RATES_OF_NORMALIZED: dict[OptimizerName, float] = {
    "adagrad": 0.5,
    "rmsprop": 0.08,
    "adam": 0.2,
    "sgd": 256.0,
}
"""Where a text's words count so little that the squares sum to 1. What a step changes goes by the sum of what
they count, about a third of their number; with character n-grams, of which there are many, it is as large as
without normalization. Tried on banking77 and lingua75."""
MAX_BATCH_SIZE = 1 << 14
"""Larger ones learn no faster, and cost accuracy where there are few updates."""
MIN_EPOCHS, MAX_EPOCHS = 3, 10
ROWS_IN_ALL = 160_000
"""Rows that training sees at least, an epoch's again in the next, where `MAX_EPOCHS` allow it."""


@dataclass(frozen=True, kw_only=True)
class Choice:
    """What the settings may leave open."""

    epochs: int
    batch_size: int
    learning_rate: float


def choose(num_rows: int, optimizer: OptimizerName, spec: FeatureSpec = PLAIN) -> Choice:
    """The choice for a training set of so many rows with such features.

    An eighth of the rows make a batch, as the nearest power of two: few large updates generalise better than
    many small ones, since a rare word's first update then comes from all labels' evidence alike. Small data
    is gone over more often. Tried on 3,000 to 560,000 rows of 2 to 150 labels, where it is within about half
    a point of the best setting found for each.

    >>> choose(10_003, "adagrad")
    Choice(epochs=10, batch_size=1024, learning_rate=0.25)
    >>> choose(886_000, "adagrad")
    Choice(epochs=3, batch_size=16384, learning_rate=0.25)
    """
    eighth = max(1, num_rows // 8)
    lower = 1 << (eighth.bit_length() - 1)
    are_few_and_small = spec.normalize == "l2" and spec.char_ngrams is None
    learning_rates = LEARNING_RATES_OF_NORMALIZED if are_few_and_small else LEARNING_RATES
    nearest = lower if eighth - lower < 2 * lower - eighth else 2 * lower
    return Choice(
        epochs=min(MAX_EPOCHS, max(MIN_EPOCHS, -(-ROWS_IN_ALL // num_rows))),
        batch_size=min(MAX_BATCH_SIZE, nearest),
        learning_rate=learning_rates[optimizer],
    )


def complete(settings: Settings, num_rows: int) -> Settings:
    """The settings with what they leave open chosen for so many training rows."""
    choice = choose(num_rows, settings.optimizer, feature_spec(settings))
    chosen = {
        name: getattr(choice, name)
        for name in ("epochs", "batch_size", "learning_rate")
        if getattr(settings, name) is None
    }
    return settings.model_copy(update=chosen)
