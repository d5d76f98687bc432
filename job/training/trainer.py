"""Training by mini-batch gradient descent on the NLL loss, with its gradient written out."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from job.corpus.bags import Bags
from job.model import BowClassifier
from job.training.batch import Batch
from job.training.batch_stores import AnyBatch, Batches
from job.training.batches import batch_order
from job.training.metrics import Predictions
from job.training.optimizer import Optimizer
from job.training.padded import Shape
from job.training.patience import Best
from job.training.recorded import RecordedStep
from job.training.rows import put_rows, sum_bags, take_rows
from job.training.train_state import EpochResult, TrainState
from serving.errors import TrainingError

Schedule = Literal["constant", "linear"]

CHECK_EVERY = 256
"""Steps between two looks at the loss; each look waits for the device."""
MAX_WEIGHT = 1e15
"""No weight of a model that learned anything comes near it."""
CACHE_CELLS = 1 << 18
"""Weights of a block that is updated at once on the CPU: 1 MiB, and as much each for the gradient and the
optimizer's state."""
MAX_CHUNK_ROWS = 1 << 16
MAX_CHUNK_CELLS = 1 << 24
"""Rows, and rows times labels, that `evaluate` takes at once."""

_ADVICE = (
    "Set BOW_LEARNING_RATE lower (a tenth of it, say), or choose BOW_OPTIMIZER=adagrad, which scales its own "
    "steps."
)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What to do with the rows."""

    epochs: int
    batch_size: int
    learning_rate: float
    schedule: Schedule
    seed: int
    shuffle: bool
    patience: int | None = None
    """Epochs without a better accuracy on validation data after which training ends; None for never."""


@dataclass(frozen=True, kw_only=True)
class Trained:
    """What training came to, beside the state."""

    epochs: list[EpochResult]
    """Those that ran."""
    best_epoch: int | None
    """The one whose weights the state has, from 1; None without a patience: the last."""


class Checkpoints(Protocol):
    """Keeps the state, so that a run that is ended can go on."""

    def is_due(self) -> bool:
        """Whether to keep it now; asked after every update."""
        ...

    def save(self, state: TrainState) -> None:
        """Keeps it; may raise to end training."""
        ...

    def end(self, state: TrainState) -> None:
        """Keeps it, or not, after the last step; may raise as `save` does."""
        ...


def start(model: BowClassifier, optimizer: Optimizer, device: torch.device) -> TrainState:
    """The state before the first step: the model's own parameters, copied to the device."""
    table = model.weight.detach().t().contiguous().to(device, copy=True)
    bias = model.bias.detach().to(device, copy=True)
    return TrainState(
        table=table, bias=bias, table_slots=optimizer.slots(table), bias_slots=optimizer.slots(bias)
    )


@torch.no_grad()
def finish(state: TrainState, model: BowClassifier) -> None:
    """Writes the trained parameters into the model.

    Raises TrainingError where one of them is so large that float32 sums of it could overflow, or where the
    optimizer's own sums have.
    """
    largest = max(float(values.abs().max()) for values in (state.table, state.bias))
    if not largest < MAX_WEIGHT:
        raise TrainingError(
            f"the weights grew to {largest:.3g} in {state.step:,} steps; nothing was published. {_ADVICE}"
        )
    if not all(torch.isfinite(slot).all() for slot in state.bias_slots):
        raise TrainingError(
            "the squares of the gradients grew beyond float32's range, so that the steps became 0; nothing "
            "was published. Lower what rows count, in BOW_CLASS_WEIGHTS or the column BOW_WEIGHT_COLUMN: the "
            "ratios are what matters."
        )
    model.weight.copy_(state.table.t())
    model.bias.copy_(state.bias)


def block_size(num_labels: int, device: torch.device) -> int:
    """Words of a block: as many as fit the cache; on a GPU all, since each block costs several launches."""
    return max(1, CACHE_CELLS // num_labels) if device.type == "cpu" else 1 << 31


def learning_rate_at(step: int, num_steps: int, *, peak: float, schedule: Schedule) -> float:
    """The learning rate of a step (from 0): a pure function of the step.

    >>> [learning_rate_at(step, 4, peak=1.0, schedule="linear") for step in range(4)]
    [1.0, 0.75, 0.5, 0.25]
    """
    match schedule:
        case "constant":
            return peak
        case "linear":
            return peak * (1 - step / num_steps)


def train(
    state: TrainState,
    batches: Batches,
    optimizer: Optimizer,
    plan: Plan,
    *,
    validation: Iterable[Bags] | None = None,
    on_step: Callable[[AnyBatch], None] = lambda _: None,
    on_epoch: Callable[[EpochResult], None] = lambda _: None,
    checkpoints: Checkpoints | None = None,
) -> Trained:
    """Runs the epochs that are left; `on_step` is given the batch of each update, `on_epoch` what an epoch
    came to.

    With `validation` the state is scored on it after every epoch; with `patience`, for which there must be
    some, the state's weights are in the end those of the best epoch, the first of equals. The learning rate
    goes by the epochs that are planned: where `linear` is stopped early, it has not fallen to zero.

    Raises TrainingError, naming the epoch and step, where a loss is not finite. A look at the losses waits
    for the device, so it comes every `CHECK_EVERY` steps; the state then holds what followed from that loss.
    """
    num_steps = plan.epochs * len(batches)
    step = _step_of(state, optimizer, batches.shape)
    if plan.patience is not None and state.best is None:
        state.best = Best(patience=plan.patience)
    for epoch in range(len(state.epochs), plan.epochs):
        if state.best is not None and state.best.is_over(epoch):
            break
        losses: list[Tensor] = []
        order = batch_order(len(batches), seed=plan.seed, epoch=epoch, shuffle=plan.shuffle)
        for batch in batches.in_order(order[state.num_batches :]):
            learning_rate = learning_rate_at(
                state.step, num_steps, peak=plan.learning_rate, schedule=plan.schedule
            )
            losses.append(step(batch, learning_rate=learning_rate))
            state.num_batches += 1
            state.num_rows += batch.num_rows
            on_step(batch)
            is_due = checkpoints is not None and checkpoints.is_due()
            if is_due or len(losses) == CHECK_EVERY or state.num_batches == len(batches):
                first = state.num_batches - len(losses)
                state.loss_sum += _checked_sum(losses, epoch=epoch, first=first)
                losses.clear()
            if is_due and checkpoints is not None:
                checkpoints.save(state)
        accuracy = None if validation is None else evaluate(state, validation).accuracy
        on_epoch(state.end_epoch(accuracy))
        if state.best is not None:
            assert accuracy is not None
            state.best.take(epoch + 1, accuracy, (state.table, state.bias))
    if checkpoints is not None:
        checkpoints.end(state)
    if state.best is not None:
        state.best.restore((state.table, state.bias))
    return Trained(epochs=state.epochs, best_epoch=None if state.best is None else state.best.epoch)


@torch.no_grad()
def train_step(
    state: TrainState, batch: Batch, optimizer: Optimizer, *, learning_rate: float | Tensor
) -> Tensor:
    """One update from B rows; returns the sum of their NLL losses before it, a scalar on the device.

    With X [B, V] the counts of the batch's words and Y [B, K] the labels one-hot:

        logits = X A^T + b            the gradient of the mean loss: G = (softmax(logits) - Y) / B
        dA^T   = X^T G                db = sum of G over rows

    Where rows have weights, a row's loss and its row of G are multiplied by its own; the mean stays one over
    B rows, so that a row of weight 2 pulls twice as hard as one of weight 1, whatever else is in the batch.

    X is never built: both products are bags of rows summed, by row and by word. Only the rows of A^T whose
    words occur are read and written, block by block, so that what an update needs stays in the cache; where
    all are one block, the logits are summed from there too.
    """
    near = take_rows(state.table, batch.blocks[0].words) if batch.is_one_block else state.table
    sums = sum_bags(near, batch.ids, batch.offsets, batch.values, batch.pieces)
    log_probs = F.log_softmax(sums.add_(state.bias), dim=1)  # [B, K]
    labels = batch.labels.unsqueeze(1)
    losses = log_probs.gather(1, labels)  # [B, 1], their negatives

    gradient = log_probs.exp_()
    gradient.scatter_add_(1, labels, gradient.new_full(labels.shape, -1.0))
    gradient.div_(batch.num_rows if batch.count is None else batch.count)
    if batch.weights is not None:
        row_weights = batch.weights.unsqueeze(1)
        losses.mul_(row_weights)
        gradient.mul_(row_weights)
    loss = losses.sum().neg_()

    state.step += 1
    for block in batch.blocks:
        block_gradient = sum_bags(gradient, block.rows, block.offsets, block.values, block.pieces)  # [u, K]
        weights = near if batch.is_one_block else take_rows(state.table, block.words)
        slots = tuple(take_rows(slot, block.words) for slot in state.table_slots)
        optimizer.update(weights, block_gradient, slots, learning_rate=learning_rate, step=state.step)
        for full, rows in zip((state.table, *state.table_slots), (weights, *slots), strict=True):
            put_rows(full, block.words, rows)
    optimizer.update(
        state.bias, gradient.sum(0), state.bias_slots, learning_rate=learning_rate, step=state.step
    )
    return loss


def _step_of(state: TrainState, optimizer: Optimizer, shape: Shape | None) -> Callable[..., Tensor]:
    """`train_step` for a state; recorded, where all batches have a shape."""

    def step(batch: Batch, *, learning_rate: float) -> Tensor:
        return train_step(state, batch, optimizer, learning_rate=learning_rate)

    return step if shape is None else RecordedStep(train_step, state, optimizer, shape)


@torch.no_grad()
def evaluate(state: TrainState, rows: Iterable[Bags]) -> Predictions:
    """What the model says of every row, whatever it weighs, in chunks that bound the memory; float32 sums."""
    size = min(MAX_CHUNK_ROWS, max(1, MAX_CHUNK_CELLS // len(state.bias)))
    device = state.table.device
    labels, predicted, true_log_probs = [], [], []
    for block in rows:
        for first in range(0, block.num_rows, size):
            chunk = block.part(first, min(first + size, block.num_rows))
            ids = torch.from_numpy(chunk.ids).to(device)
            bags = torch.from_numpy(chunk.offsets.astype(np.int32)).to(device)
            values = None if chunk.values is None else torch.from_numpy(chunk.values).to(device)
            sums = sum_bags(state.table, ids, bags, values)
            log_probs = F.log_softmax(sums + state.bias, dim=1)  # [n, K]
            truth = torch.from_numpy(chunk.labels.astype(np.int64)).to(device).clamp(min=0).unsqueeze(1)
            labels.append(chunk.labels)
            predicted.append(log_probs.argmax(dim=1).cpu())
            true_log_probs.append(log_probs.gather(1, truth).squeeze(1).double().cpu())
    return Predictions(
        labels=np.concatenate(labels).astype(np.int64),
        predicted=torch.cat(predicted).numpy(),
        log_probs=torch.cat(true_log_probs).numpy(),
    )


def _checked_sum(losses: Iterable[Tensor], *, epoch: int, first: int) -> float:
    """The sum of the losses; the one place in an epoch that waits for the device."""
    values = torch.stack(list(losses)).double().cpu()
    finite = torch.isfinite(values)
    if not finite.all():
        step = first + int((~finite).nonzero()[0]) + 1
        raise TrainingError(
            f"the loss became {values[step - first - 1].item()} at step {step} of epoch {epoch + 1}; "
            f"nothing was published. {_ADVICE}"
        )
    return float(values.sum())
