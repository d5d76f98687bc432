"""Batches: cut from runs of rows, packed, and gone through in an order of their own."""

from typing import Any

import numpy as np
import pytest
import torch

from job.corpus.bags import Bags, concatenate
from job.corpus.shuffle import Run
from job.training import batches as batches_module
from job.training.batch import PackedBatch, pack, sort_order
from job.training.batches import batch_order, prepare_batches
from tests.job.training.bags import NUM_WORDS, batches_of, random_bags

BLOCK_SIZE = 7


def rows_of(batch: PackedBatch) -> list[tuple[list[int], int]]:
    whole = batch.unpack()
    ids = whole.blocks[0].words[whole.ids] if whole.is_one_block else whole.ids
    ids = np.split(ids.numpy(), whole.offsets.numpy()[1:-1])
    return [(row.tolist(), label) for row, label in zip(ids, whole.labels.tolist(), strict=True)]


def rows_of_bags(bags: Bags) -> list[tuple[list[int], int]]:
    ids = np.split(bags.ids, bags.offsets[1:-1])
    return [(row.tolist(), label) for row, label in zip(ids, bags.labels.tolist(), strict=True)]


@pytest.mark.parametrize("with_values", [False, True])
@pytest.mark.parametrize("with_weights", [False, True])
def test_each_row_of_a_batch_has_its_own_weight(with_values: bool, with_weights: bool) -> None:
    """If it failed, a weight would go to another row, or be taken for what a token counts."""
    number = np.arange(50)
    rows = Bags(
        ids=number.astype(np.int32),
        offsets=np.arange(51),
        labels=number,
        values=number.astype(np.float32) + 100 if with_values else None,
        weights=number.astype(np.float32) / 3 if with_weights else None,
    )
    for batch in map(PackedBatch.unpack, batches_of([rows.part(0, 20), rows.part(20, 50)])):
        if with_weights:
            assert batch.weights is not None
            assert batch.weights.dtype == torch.float32
            assert torch.equal(batch.weights, batch.labels.float() / 3)
        else:
            assert batch.weights is None
        if with_values:
            assert batch.values is not None
            assert torch.equal(batch.values, batch.labels.float() + 100)
        else:
            assert batch.values is None


def test_the_order_of_an_epoch_is_a_pure_function_of_seed_and_epoch() -> None:
    """If it failed, a run could not go on from a checkpoint as if nothing had happened."""
    orders = {
        (seed, epoch): batch_order(50, seed=seed, epoch=epoch, shuffle=True)
        for seed in (1, 2)
        for epoch in (0, 1)
    }
    assert all(sorted(order) == list(range(50)) for order in orders.values())
    assert len({tuple(order) for order in orders.values()}) == 4
    torch.manual_seed(9)
    np.random.default_rng(9).random()
    assert batch_order(50, seed=1, epoch=1, shuffle=True) == orders[1, 1]
    assert list(batch_order(3, seed=1, epoch=5, shuffle=False)) == [0, 1, 2]


def test_batches_hold_every_row_once_in_both_directions() -> None:
    """If it failed, rows would be lost or counted twice, or the gradient would go to other words."""
    corpus = random_bags(50)
    batches = batches_of([corpus], block_size=BLOCK_SIZE)
    assert sorted(row for batch in batches for row in rows_of(batch)) == sorted(rows_of_bags(corpus))
    for batch in map(PackedBatch.unpack, batches):
        num_rows = len(batch.labels)
        by_row, by_word = torch.zeros(num_rows, NUM_WORDS), torch.zeros(num_rows, NUM_WORDS)
        for row in range(num_rows):
            for word in batch.ids[batch.offsets[row] : batch.offsets[row + 1]]:
                by_row[row, word] += 1
        for block in batch.blocks:
            assert 0 < len(block.words) <= BLOCK_SIZE
            for place, word in enumerate(block.words):
                for row in block.rows[block.offsets[place] : block.offsets[place + 1]]:
                    by_word[row, word] += 1
        assert torch.equal(by_row, by_word)


@pytest.mark.parametrize("top", [3, 70_000, 2**31])
def test_the_sort_order_is_stable_and_right(top: int) -> None:
    """If it failed, a word's rows would be added in another order, or be another word's."""
    ids = np.random.default_rng(0).integers(0, top, 5000).astype(np.int32)
    np.testing.assert_array_equal(sort_order(ids), np.argsort(ids, kind="stable"))
    assert len(sort_order(ids[:0])) == 0


@pytest.mark.parametrize("sizes", [[50], [1, 49], [15, 1, 34], [16, 16, 18], [5] * 10, [1] * 50, [0, 50, 0]])
def test_batches_go_on_from_one_run_of_rows_to_the_next(sizes: list[int]) -> None:
    """If it failed, rows at the end of a block or bucket would be lost, or stand in batches too small."""
    parts = [random_bags(size, seed=seed) for seed, size in enumerate(sizes)]
    runs = [(part, np.random.default_rng(0).permutation(part.num_rows)) for part in parts]
    batches = list(prepare_batches(runs, batch_size=16, block_size=BLOCK_SIZE, num_threads=2))
    assert [batch.unpack().labels.numel() for batch in batches] == [16, 16, 16, 2]
    expected = concatenate([part.take(order) for part, order in runs])
    assert [row for batch in batches for row in rows_of(batch)] == rows_of_bags(expected)


@pytest.mark.parametrize("word", [3, 65_534, 65_535, 65_536, 2**31 - 1])
@pytest.mark.parametrize("number", [65_533, 65_534, 65_535, 70_000])
def test_numbers_that_need_more_than_two_bytes_are_kept_whole(word: int, number: int) -> None:
    """If it failed, words, rows, lengths, counts or labels beyond 65,535 would become others."""
    bags = Bags(
        ids=np.concatenate([[0, 1], np.full(number, word), [0]]).astype(np.int32),
        offsets=np.concatenate([[0, 1, 2], np.full(number - 2, number + 2), [number + 3]]),
        labels=np.append(np.arange(number), 7),
    )
    batch = pack(bags, block_size=2)
    assert batch.data.numel() == batch.parts.num_bytes
    found = batch.unpack()
    assert rows_of(batch) == rows_of_bags(bags)
    assert [block.words.tolist() for block in found.blocks] == [[0, 1], [word]]
    assert found.blocks[1].offsets.tolist() == [0, number]
    assert found.blocks[0].rows.tolist() == [0, number, 1]
    assert found.blocks[1].rows.unique().tolist() == [2]


def test_a_batch_of_very_many_words_has_their_places() -> None:
    """If it failed, a text's words would be others where a batch has more than 65,536 different ones."""
    ids = np.random.default_rng(0).permutation(70_000).astype(np.int32)
    bags = Bags(ids=ids, offsets=np.array([0, 70_000]), labels=np.array([0]))
    assert torch.equal(pack(bags, block_size=100_000).unpack().ids, torch.from_numpy(ids))


def test_few_batches_are_made_ahead_of_their_use(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it failed, all batches would be in memory before the first is written to the disk."""
    made = []

    def count(*arguments: Any, **named: Any) -> PackedBatch:
        made.append(1)
        return pack(*arguments, **named)

    monkeypatch.setattr(batches_module, "pack", count)
    bags = random_bags(300)
    runs: list[Run] = [(bags, np.arange(300))]
    batches = prepare_batches(runs, batch_size=16, block_size=BLOCK_SIZE, num_threads=2)
    next(batches)
    assert len(made) <= 3
    assert len(list(batches)) == 18
