import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from job.corpus.bags import Bags, offsets_of
from job.model import BowClassifier, initialize_uniform
from job.training.batch import Batch, pack
from job.training.batch_stores import BatchesInMemory
from job.training.metrics import Predictions
from job.training.optimizer import Optimizer, OptimizerName
from job.training.trainer import (
    Plan,
    TrainState,
    evaluate,
    finish,
    learning_rate_at,
    start,
    train,
    train_step,
)
from serving.errors import ExitCode, TrainingError
from tests.job.training.bags import NUM_LABELS, NUM_WORDS, batches_of, random_bags

CPU = torch.device("cpu")
BLOCK_SIZE = 7
PLAN = Plan(epochs=2, batch_size=16, learning_rate=0.1, schedule="linear", seed=1, shuffle=True)


def dense(corpus: Bags) -> Tensor:
    counts = torch.zeros(corpus.num_rows, NUM_WORDS, dtype=torch.float64)
    for row in range(corpus.num_rows):
        for word in corpus.ids[corpus.offsets[row] : corpus.offsets[row + 1]]:
            counts[row, word] += 1
    return counts


def random_model(seed: int = 0) -> BowClassifier:
    torch.manual_seed(seed)
    model = BowClassifier(NUM_LABELS, NUM_WORDS)
    initialize_uniform(model)
    return model


def batch_of(corpus: Bags) -> Batch:
    return pack(corpus, block_size=BLOCK_SIZE).unpack()


def autograd(model: BowClassifier, corpus: Bags) -> tuple[Tensor, Tensor, Tensor]:
    """The mean NLL loss and the gradients of A and b, all float64, by plain autograd."""
    precise = BowClassifier(NUM_LABELS, NUM_WORDS).double()
    precise.load_state_dict(model.double().state_dict())
    loss = torch.nn.functional.nll_loss(precise(dense(corpus)), torch.from_numpy(corpus.labels))
    loss.backward()  # type: ignore[no-untyped-call]
    assert precise.weight.grad is not None
    assert precise.bias.grad is not None
    return loss.detach(), precise.weight.grad, precise.bias.grad


@pytest.mark.parametrize("num_rows", [1, 2, 7, 64])
def test_the_gradient_is_autograds(num_rows: int) -> None:
    """If it differed, training would go downhill on another loss than NLL."""
    model, corpus = random_model(), random_bags(num_rows, seed=num_rows)
    loss, weight_gradient, bias_gradient = autograd(model, corpus)
    state = start(model, Optimizer(name="sgd", weight_decay=0), CPU)
    before = state.table.clone(), state.bias.clone()
    sum_of_losses = train_step(
        state, batch_of(corpus), Optimizer(name="sgd", weight_decay=0), learning_rate=1.0
    )
    assert float(sum_of_losses) / num_rows == pytest.approx(float(loss), rel=1e-12)
    torch.testing.assert_close(before[0] - state.table, weight_gradient.t(), rtol=0, atol=1e-12)
    torch.testing.assert_close(before[1] - state.bias, bias_gradient, rtol=0, atol=1e-12)


@pytest.mark.parametrize("num_rows", [1, 7, 64])
def test_weighted_rows_have_autograds_gradient(num_rows: int) -> None:
    """If it failed, rows would count otherwise than their weights say."""
    corpus = random_bags(num_rows, seed=num_rows, with_weights=True)
    assert corpus.weights is not None
    precise = random_model().double()
    each = torch.nn.functional.nll_loss(
        precise(dense(corpus)), torch.from_numpy(corpus.labels), reduction="none"
    )
    rows = each @ torch.from_numpy(corpus.weights).double()
    (rows / num_rows).backward()  # type: ignore[no-untyped-call]
    sgd = Optimizer(name="sgd", weight_decay=0)
    state = start(precise, sgd, CPU)
    before = state.table.clone(), state.bias.clone()
    loss = train_step(state, batch_of(corpus), sgd, learning_rate=1.0)
    assert float(loss) == pytest.approx(rows.item(), rel=1e-12)
    assert precise.weight.grad is not None
    assert precise.bias.grad is not None
    torch.testing.assert_close(before[0] - state.table, precise.weight.grad.t(), rtol=0, atol=1e-12)
    torch.testing.assert_close(before[1] - state.bias, precise.bias.grad, rtol=0, atol=1e-12)


def test_rows_of_weight_one_are_rows_without_weights() -> None:
    """If it failed, a column of ones would train another model than none."""
    plain = random_bags(64)
    weighted = replace(plain, weights=np.ones(64, np.float32))
    adagrad = Optimizer(name="adagrad", weight_decay=0)
    states = []
    for corpus in (plain, weighted):
        states.append(start(random_model(), adagrad, CPU))
        train_step(states[-1], batch_of(corpus), adagrad, learning_rate=0.5)
    assert torch.equal(states[0].table, states[1].table)
    assert torch.equal(states[0].bias, states[1].bias)


def test_the_gradient_of_rows_without_known_words_reaches_the_bias_alone() -> None:
    """If it failed, empty texts would be lost, or would break a batch."""
    corpus = Bags(ids=np.empty(0, np.int32), offsets=np.zeros(4, np.int64), labels=np.array([0, 0, 1]))
    model = random_model().double()
    state = start(model, Optimizer(name="sgd", weight_decay=0), CPU)
    train_step(state, batch_of(corpus), Optimizer(name="sgd", weight_decay=0), learning_rate=1.0)
    _, _, bias_gradient = autograd(model, corpus)
    assert torch.equal(state.table, model.weight.detach().t())
    torch.testing.assert_close(model.bias.detach() - state.bias, bias_gradient, rtol=0, atol=1e-12)


def torch_optimizer(name: OptimizerName, parameters: list[Tensor], decay: float) -> torch.optim.Optimizer:
    match name:
        case "sgd":
            return torch.optim.SGD(parameters, lr=0.1, weight_decay=decay)
        case "adagrad":
            return torch.optim.Adagrad(parameters, lr=0.1, weight_decay=decay)
        case "adam":
            return torch.optim.Adam(parameters, lr=0.1, weight_decay=decay)
        case "rmsprop":
            return torch.optim.RMSprop(parameters, lr=0.1, weight_decay=decay)


@pytest.mark.parametrize("decay", [0.0, 0.01])
@pytest.mark.parametrize("name", ["sgd", "adagrad", "adam", "rmsprop"])
def test_an_optimizer_is_torchs_where_every_row_is_touched(name: OptimizerName, decay: float) -> None:
    """If it differed, BOW_OPTIMIZER would not name the algorithm that everybody knows by that name."""
    everywhere = random_bags(64, max_tokens=60)
    assert len(np.unique(everywhere.ids)) == NUM_WORDS
    model = random_model().double()
    plain = BowClassifier(NUM_LABELS, NUM_WORDS).double()
    plain.load_state_dict(model.state_dict())
    optimizer = Optimizer(name=name, weight_decay=decay)
    state = start(model, optimizer, CPU)
    reference = torch_optimizer(name, [*plain.parameters()], decay)
    for _ in range(10):
        train_step(state, batch_of(everywhere), optimizer, learning_rate=0.1)
        reference.zero_grad()
        labels = torch.from_numpy(everywhere.labels)
        torch.nn.functional.nll_loss(plain(dense(everywhere)), labels).backward()  # type: ignore[no-untyped-call]
        reference.step()
    finish(state, model)
    torch.testing.assert_close(model.weight, plain.weight, rtol=0, atol=1e-12)
    torch.testing.assert_close(model.bias, plain.bias, rtol=0, atol=1e-12)


@pytest.mark.parametrize("name", ["sgd", "adagrad", "adam", "rmsprop"])
def test_rows_of_words_that_do_not_occur_stay_as_they_are(name: OptimizerName) -> None:
    """If it failed, a step would cost as much as the vocabulary is large."""
    model, optimizer = random_model(), Optimizer(name=name, weight_decay=0.1)
    state = start(model, optimizer, CPU)
    corpus = Bags(ids=np.array([3, 3, 7], np.int32), offsets=np.array([0, 1, 3]), labels=np.array([0, 1]))
    for _ in range(3):
        train_step(state, batch_of(corpus), optimizer, learning_rate=0.1)
    changed = (state.table != model.weight.detach().t()).any(dim=1).nonzero().flatten()
    assert changed.tolist() == [3, 7]


def run_training(*, seed: int = 1, num_threads: int = 1, validation: Bags | None = None) -> TrainState:
    model = random_model()
    optimizer = Optimizer(name="adagrad", weight_decay=0)
    batches = BatchesInMemory(
        batches_of(
            [random_bags(500)],
            batch_size=32,
            block_size=BLOCK_SIZE,
            seed=seed,
            shuffle=True,
            num_threads=num_threads,
        )
    )
    state = start(model, optimizer, CPU)
    plan = Plan(epochs=3, batch_size=32, learning_rate=0.5, schedule="linear", seed=seed, shuffle=True)
    train(state, batches, optimizer, plan, validation=None if validation is None else [validation])
    return state


def test_the_same_seed_gives_the_same_bytes() -> None:
    """If it failed, a bundle's ID would change from run to run."""
    one, other = run_training(), run_training(num_threads=2)
    assert torch.equal(one.table, other.table)
    assert torch.equal(one.bias, other.bias)
    assert not torch.equal(one.table, run_training(seed=2).table)


def test_validation_does_not_change_the_training() -> None:
    """If it failed, looking at the model would change it."""
    assert torch.equal(run_training().table, run_training(validation=random_bags(10)).table)


def test_the_size_of_the_blocks_changes_nothing() -> None:
    """If it failed, a GPU, which takes all words at once, would train another model than the CPU."""
    trained = []
    for size in (1, 4, 1000):
        model, optimizer = random_model(), Optimizer(name="adam", weight_decay=0.1)
        state = start(model, optimizer, CPU)
        batches = BatchesInMemory(
            batches_of(
                [random_bags(100)], batch_size=16, block_size=size, seed=1, shuffle=True, num_threads=1
            )
        )
        train(state, batches, optimizer, PLAN)
        trained.append(state.table)
    assert torch.equal(trained[0], trained[1])
    assert torch.equal(trained[0], trained[2])


@pytest.mark.parametrize("with_weights", [False, True])
@pytest.mark.parametrize("block_size", [BLOCK_SIZE, NUM_WORDS])
@pytest.mark.parametrize("name", ["sgd", "adagrad", "adam", "rmsprop"])
def test_a_step_never_waits_for_the_device_nor_moves_data(
    name: OptimizerName, block_size: int, with_weights: bool
) -> None:
    """If it failed, a GPU would stand idle in every step.

    Nothing on the `meta` device can be read, or mixed with what is elsewhere.
    """
    optimizer = Optimizer(name=name, weight_decay=0.1)
    state = start(random_model(), optimizer, torch.device("meta"))
    rows = random_bags(20, with_weights=with_weights)
    batch = pack(rows, block_size=block_size).to(torch.device("meta")).unpack()
    loss = train_step(state, batch, optimizer, learning_rate=0.1)
    assert loss.device.type == state.table.device.type == "meta"


def test_training_learns() -> None:
    """If it failed, the loss would not fall and the accuracy not rise on data that words decide."""
    generator = np.random.default_rng(0)
    labels = generator.integers(0, NUM_LABELS, 400)
    corpus = Bags(
        ids=np.stack([labels, generator.integers(NUM_LABELS, NUM_WORDS, 400)], axis=1)
        .ravel()
        .astype(np.int32),
        offsets=offsets_of(np.full(400, 2)),
        labels=labels,
    )
    model, optimizer = BowClassifier(NUM_LABELS, NUM_WORDS), Optimizer(name="adagrad", weight_decay=0)
    state = start(model, optimizer, CPU)
    seen = []
    plan = Plan(epochs=5, batch_size=32, learning_rate=0.5, schedule="linear", seed=1, shuffle=True)
    batches = BatchesInMemory(
        batches_of([corpus], batch_size=32, block_size=BLOCK_SIZE, seed=1, shuffle=True, num_threads=1)
    )
    results = train(state, batches, optimizer, plan, validation=[corpus], on_step=seen.append).epochs
    assert results[0].loss < math.log(NUM_LABELS)
    assert results[-1].loss < results[0].loss / 4
    assert results[-1].validation_accuracy == 1
    assert len(seen) == 5 * len(batches)
    assert state.step == 5 * len(batches)


@pytest.mark.parametrize(
    ("patience", "num_run", "best"), [(None, 6, None), (1, 2, 1), (2, 5, 3), (3, 6, 6), (9, 6, 6)]
)
def test_patience_keeps_the_best_epoch_and_ends_training(
    monkeypatch: pytest.MonkeyPatch, patience: int | None, num_run: int, best: int | None
) -> None:
    """If it failed, training would go on, or end, where it should not, or leave another epoch's weights."""
    accuracies = [0.5, 0.5, 0.75, 0.25, 0.75, 1.0]
    after: list[tuple[Tensor, Tensor]] = []

    def scripted(state: TrainState, _: object) -> Predictions:
        after.append((state.table.clone(), state.bias.clone()))
        right = np.arange(4) >= 4 * accuracies[len(after) - 1]
        return Predictions(labels=np.zeros(4, np.int64), predicted=right.astype(int), log_probs=np.zeros(4))

    monkeypatch.setattr("job.training.trainer.evaluate", scripted)
    plan = replace(PLAN, epochs=6, patience=patience)
    adagrad = Optimizer(name="adagrad", weight_decay=0)
    state = start(random_model(), adagrad, CPU)
    batches = BatchesInMemory(batches_of([random_bags(50)], batch_size=16, block_size=BLOCK_SIZE))
    trained = train(state, batches, adagrad, plan, validation=[])
    assert [epoch.validation_accuracy for epoch in trained.epochs] == accuracies[:num_run]
    assert trained.best_epoch == best
    table, bias = after[(best or num_run) - 1]
    assert torch.equal(state.table, table)
    assert torch.equal(state.bias, bias)
    assert not torch.equal(after[0][0], after[1][0])


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_stops_training_and_names_the_step(bad: float) -> None:
    """If it failed, a diverged model would be published."""
    model, optimizer = random_model(), Optimizer(name="sgd", weight_decay=0)
    with torch.no_grad():
        model.weight[:, 7] = bad
    corpus = Bags(
        ids=np.array([1, 2, 7], np.int32), offsets=np.array([0, 1, 2, 3]), labels=np.array([0, 1, 2])
    )
    batches = BatchesInMemory(
        batches_of([corpus], batch_size=1, block_size=BLOCK_SIZE, seed=1, shuffle=False, num_threads=1)
    )
    state = start(model, optimizer, CPU)
    plan = Plan(epochs=2, batch_size=1, learning_rate=0.1, schedule="constant", seed=1, shuffle=False)
    with pytest.raises(TrainingError, match="at step 3 of epoch 1") as caught:
        train(state, batches, optimizer, plan)
    assert caught.value.exit_code is ExitCode.TRAINING_DIVERGED


def test_rows_that_count_too_much_end_in_the_error() -> None:
    """If it failed, steps that have become 0 would leave a model that has learned nothing."""
    optimizer = Optimizer(name="adagrad", weight_decay=0)
    model = random_model()
    state = start(model, optimizer, CPU)
    corpus = replace(random_bags(64), weights=np.full(64, 1e20, np.float32))
    batches = BatchesInMemory(
        batches_of([corpus], batch_size=8, block_size=BLOCK_SIZE, seed=1, shuffle=True, num_threads=1)
    )
    plan = Plan(epochs=1, batch_size=8, learning_rate=0.1, schedule="constant", seed=1, shuffle=True)
    train(state, batches, optimizer, plan)
    with pytest.raises(TrainingError, match="BOW_WEIGHT_COLUMN"):
        finish(state, model)


def test_a_learning_rate_that_is_far_too_high_ends_in_the_error() -> None:
    """If it failed, the most common way to diverge would go unnoticed."""
    optimizer = Optimizer(name="sgd", weight_decay=0)
    state = start(random_model(), optimizer, CPU)
    plan = Plan(epochs=50, batch_size=8, learning_rate=1e38, schedule="constant", seed=1, shuffle=True)
    batches = BatchesInMemory(
        batches_of(
            [random_bags(64)], batch_size=8, block_size=BLOCK_SIZE, seed=1, shuffle=True, num_threads=1
        )
    )
    with pytest.raises(TrainingError, match="BOW_LEARNING_RATE"):
        train(state, batches, optimizer, plan)


def test_the_learning_rate_falls_to_zero_or_stays() -> None:
    """If it failed, BOW_LEARNING_RATE_SCHEDULE would not do what it says."""
    linear = [learning_rate_at(step, 10, peak=0.5, schedule="linear") for step in range(10)]
    assert linear == pytest.approx([0.5 * (10 - step) / 10 for step in range(10)])
    assert {learning_rate_at(step, 10, peak=0.5, schedule="constant") for step in range(10)} == {0.5}


def test_evaluate_gives_what_the_model_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it failed, the metrics would be those of another model; chunks must not show."""
    monkeypatch.setattr("job.training.trainer.MAX_CHUNK_ROWS", 7)
    model, corpus = random_model(), random_bags(100)
    state = start(model, Optimizer(name="sgd", weight_decay=0), CPU)
    predictions = evaluate(state, [corpus])
    log_probs = model.double()(dense(corpus)).detach()
    assert predictions.predicted.tolist() == log_probs.argmax(dim=1).tolist()
    expected = log_probs[torch.arange(100), torch.from_numpy(corpus.labels)]
    np.testing.assert_allclose(predictions.log_probs, expected, atol=1e-6)


def test_evaluate_takes_each_row_as_one_whatever_it_weighs() -> None:
    """If it failed, rows held out would be scored otherwise than validation data, which has no weights."""
    weighted = random_bags(100, with_weights=True)
    state = start(random_model(), Optimizer(name="sgd", weight_decay=0), CPU)
    one, other = (evaluate(state, [rows]) for rows in (weighted, replace(weighted, weights=None)))
    for name in ("labels", "predicted", "log_probs"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
