"""Every figure that the PyTorch NLP tutorial prints, from the product's own model, loss and SGD."""

from collections.abc import Iterator

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from job import tutorial
from job.corpus.corpus import encode
from job.features.encoder import TokenEncoder
from job.model import BowClassifier, initialize_uniform
from job.training.batch_stores import BatchesInMemory
from job.training.optimizer import Optimizer
from job.training.trainer import Plan, finish, start, train
from tests.job.training.bags import batches_of

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def tutorial_seed() -> Iterator[None]:
    """The tutorial begins with this; later tests get the generator back as it was."""
    state = torch.random.get_rng_state()
    torch.manual_seed(1)
    yield
    torch.random.set_rng_state(state)


def printed(values: Tensor) -> list[float] | list[list[float]]:
    """The values as the tutorial prints them, to four decimals."""
    rounded = (values.detach().double() * 1e4).round() / 1e4
    return rounded.tolist()


def new_model() -> BowClassifier:
    tutorial.replay_draws()
    model = BowClassifier(2, 26)
    initialize_uniform(model)
    return model


def bow(text: str) -> Tensor:
    words = tutorial.vocabulary().words
    return torch.tensor([[float(text.split().count(word)) for word in words]])


def train_as_the_tutorial(model: BowClassifier) -> None:
    raw = tutorial.data_set(tutorial.TRAIN).corpus
    corpus = encode(raw, TokenEncoder(raw.tokens, tutorial.vocabulary()), tutorial.LABELS)
    batches = BatchesInMemory(batches_of(corpus, batch_size=1, shuffle=False))
    optimizer = Optimizer(name="sgd", weight_decay=0)
    state = start(model, optimizer, CPU)
    plan = Plan(epochs=100, batch_size=1, learning_rate=0.1, schedule="constant", seed=1, shuffle=False)
    train(state, batches, optimizer, plan)
    finish(state, model)


def test_the_examples_that_come_before_the_classifier() -> None:
    """If one differed, the classifier's weights would be other draws than the tutorial's."""
    affine = nn.Linear(5, 3)
    assert printed(affine(torch.randn(2, 5))) == [[0.1755, -0.3268, -0.5069], [-0.6602, 0.2260, 0.1089]]
    data = torch.randn(2, 2)
    assert printed(data) == [[-0.5404, -2.2102], [2.1130, -0.0040]]
    assert printed(F.relu(data)) == [[0, 0], [2.1130, 0]]
    data = torch.randn(5)
    assert printed(data) == [1.3800, -1.3505, 0.3455, 0.5046, 1.8213]
    assert printed(F.softmax(data, dim=0)) == [0.2948, 0.0192, 0.1048, 0.1228, 0.4584]
    assert F.softmax(data, dim=0).sum() == pytest.approx(1)
    assert printed(F.log_softmax(data, dim=0)) == [-1.2214, -3.9519, -2.2560, -2.0969, -0.7801]
    model = BowClassifier(2, 26)
    initialize_uniform(model)
    assert torch.equal(model.weight, new_model_from_the_start().weight)


def new_model_from_the_start() -> BowClassifier:
    torch.manual_seed(1)
    return new_model()


def test_the_vocabulary_and_the_labels() -> None:
    """If the order differed, every weight would stand at another place than in the tutorial."""
    words = (
        "me gusta comer en la cafeteria Give it to No creo que sea una buena idea is not a good get lost at"
    )
    assert tutorial.vocabulary().words == [*words.split(), "Yo", "si", "on"]
    assert tutorial.LABELS == ("SPANISH", "ENGLISH")


def test_the_initial_parameters() -> None:
    """If they differed, the product would not start where the tutorial does."""
    model = new_model()
    spanish = """
        0.1194 0.0609 -0.1268 0.1274 0.1191 0.1739 -0.1099 -0.0323 -0.0038 0.0286 -0.1488 -0.1392 0.1067
        -0.0460 0.0958 0.0112 0.0644 0.0431 0.0713 0.0972 -0.1816 0.0987 -0.1379 -0.1480 0.0119 -0.0334
    """
    english = """
        0.1152 -0.1136 -0.1743 0.1427 -0.0291 0.1103 0.0630 -0.1471 0.0394 0.0471 -0.1313 -0.0931 0.0669
        0.0351 -0.0834 -0.0594 0.1796 -0.0363 0.1106 0.0849 -0.1268 -0.1668 0.1882 0.0102 0.1344 0.0406
    """
    assert printed(model.weight) == [list(map(float, row.split())) for row in (spanish, english)]
    assert printed(model.bias) == [0.0631, 0.1465]


def test_the_first_sentence_before_training() -> None:
    """If it differed, the forward pass would not be the tutorial's."""
    text, _ = tutorial.TRAIN[0]
    assert printed(new_model()(bow(text))) == [[-0.5378, -0.8771]]


def test_the_test_sentences_and_the_word_creo_before_and_after_training() -> None:
    """If one differed, loss, gradient or SGD would not be the tutorial's."""
    model = new_model()
    before = tutorial.snapshot(model)
    train_as_the_tutorial(model)
    after = tutorial.snapshot(model)
    assert printed(torch.from_numpy(before.log_probs)) == [[-0.9297, -0.5020], [-0.6388, -0.7506]]
    assert printed(torch.from_numpy(before.word)) == [-0.1488, -0.1313]
    assert printed(torch.from_numpy(after.log_probs)) == [[-0.2093, -1.6669], [-2.5330, -0.0828]]
    assert printed(torch.from_numpy(after.word)) == [0.2803, -0.5605]


def test_what_make_train_shows() -> None:
    """If it differed, a newcomer would not find the tutorial's figures in the first output they see."""
    model = new_model()
    before = tutorial.snapshot(model)
    train_as_the_tutorial(model)
    assert tutorial.describe(before, tutorial.snapshot(model)) == (
        "log-probabilities of SPANISH, ENGLISH  before              after\n"
        '"Yo creo que si"                       [-0.9297, -0.5020]  [-0.2093, -1.6669]\n'
        '"it is lost on me"                     [-0.6388, -0.7506]  [-2.5330, -0.0828]\n'
        'weights of "creo"                      [-0.1488, -0.1313]  [0.2803, -0.5605]\n'
    )
