"""Batches padded to one shape: the same rows and words, in more room."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from job.corpus.bags import Bags, offsets_of
from job.model import BowClassifier, initialize_uniform
from job.training.batch import PackedBatch, pack
from job.training.optimizer import Optimizer, OptimizerName
from job.training.padded import PIECE, Shape, padded
from job.training.recorded import RecordedStep
from job.training.train_state import TrainState
from job.training.trainer import start, train_step
from tests.job.training.bags import NUM_LABELS, NUM_WORDS, random_bags

CPU, META = torch.device("cpu"), torch.device("meta")


def random_batches(*, with_values: bool = False, with_weights: bool = False) -> list[PackedBatch]:
    """Of many sizes: one without a token, one of a single row, one in which a word has many pieces."""
    empty = Bags(ids=np.empty(0, np.int32), offsets=np.zeros(4, np.int64), labels=np.array([0, 0, 1]))
    frequent = np.full(3 * PIECE + 1, 5, np.int32)
    long = Bags(ids=frequent, offsets=offsets_of(np.array([0, len(frequent), 0])), labels=np.array([1, 2, 0]))
    generator = np.random.default_rng(0)
    batches = [random_bags(number, seed=number, max_tokens=60) for number in (64, 1, 17, 80)]
    batches += [empty, long, random_bags(5)]
    if with_values:
        draw = generator.random
        batches = [replace(bags, values=draw(len(bags.ids)).astype(np.float32)) for bags in batches]
    if with_weights:
        draw = generator.random
        batches = [replace(bags, weights=draw(bags.num_rows).astype(np.float32)) for bags in batches]
    return [pack(bags, block_size=1 << 31) for bags in batches]


def fresh(optimizer: Optimizer, device: torch.device = CPU) -> TrainState:
    torch.manual_seed(0)
    model = BowClassifier(NUM_LABELS, NUM_WORDS)
    initialize_uniform(model)
    return start(model.double(), optimizer, device)


def tensors(state: TrainState) -> list[Tensor]:
    return [state.table, state.bias, *state.table_slots, *state.bias_slots]


@pytest.mark.parametrize("with_weights", [False, True])
@pytest.mark.parametrize("with_values", [False, True])
@pytest.mark.parametrize("name", ["sgd", "adagrad", "adam", "rmsprop"])
def test_padding_changes_no_step(name: OptimizerName, with_values: bool, with_weights: bool) -> None:
    """If it failed, a GPU would train another model than the CPU."""
    optimizer = Optimizer(name=name, weight_decay=0.01)
    batches = random_batches(with_values=with_values, with_weights=with_weights)
    expected, state = fresh(optimizer), fresh(optimizer)
    shape = Shape.of(batch.parts for batch in batches)
    step = RecordedStep(train_step, state, optimizer, shape)
    for number, packed in enumerate(2 * batches):
        learning_rate = 0.1 / (1 + number)
        loss = train_step(expected, packed.unpack(), optimizer, learning_rate=learning_rate)
        batch = padded(packed, shape)
        assert (batch.num_rows, batch.num_tokens) == (packed.parts.num_rows, packed.parts.num_tokens)
        torch.testing.assert_close(step(batch, learning_rate=learning_rate), loss, rtol=1e-12, atol=1e-12)
    assert state.step == expected.step == 2 * len(batches)
    for found, wanted in zip(tensors(state), tensors(expected), strict=True):
        torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)


def test_no_bag_is_summed_in_one_long_piece() -> None:
    """If it failed, a whole GPU would wait in every step for the thread that has the most frequent word."""
    batches = random_batches()
    shape = Shape.of(batch.parts for batch in batches)
    for packed in batches:
        batch = padded(packed, shape).batch()
        (block,) = batch.blocks
        for members, pieces, offsets in (
            (batch.ids, batch.pieces, batch.offsets),
            (block.rows, block.pieces, block.offsets),
        ):
            assert pieces is not None
            lengths = pieces.diff()
            assert int(lengths.min()) >= 0
            assert int(lengths.max()) <= PIECE
            assert (int(pieces[0]), int(pieces[-1])) == (0, len(members))
            assert (int(offsets[0]), int(offsets[-1])) == (0, int((lengths > 0).sum()))


def test_the_row_of_the_padding_stays_zero() -> None:
    """If it failed, what padding adds to the sums would grow from step to step."""
    optimizer = Optimizer(name="adam", weight_decay=0.1)
    state, batches = fresh(optimizer), random_batches()
    shape = Shape.of(batch.parts for batch in batches)
    step = RecordedStep(train_step, state, optimizer, shape)
    for packed in batches:
        step(padded(packed, shape), learning_rate=0.1)
    for table in (state.table, *state.table_slots):
        whole = table._base
        assert whole is not None
        assert torch.equal(whole[0], torch.zeros_like(whole[0]))
        assert torch.equal(whole[1:], table)


@pytest.mark.parametrize("name", ["sgd", "adagrad", "adam", "rmsprop"])
def test_a_recorded_step_never_waits_for_the_device_nor_moves_data(name: OptimizerName) -> None:
    """If it failed, a GPU would stand idle in every step, or the step could not be recorded at all.

    Nothing on the `meta` device can be read, or mixed with what is elsewhere.
    """
    optimizer = Optimizer(name=name, weight_decay=0.1)
    batches = random_batches(with_values=True, with_weights=True)
    shape = Shape.of(batch.parts for batch in batches)
    state = fresh(optimizer, META)
    step = RecordedStep(train_step, state, optimizer, shape)
    for packed in batches:
        assert step(padded(packed.to(META), shape), learning_rate=0.1).device == META
    assert {tensor.device for tensor in tensors(state)} == {META}
