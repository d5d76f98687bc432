"""Batches that are kept on a disk, or made as they are needed."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from job import batches as batches_module
from job.batches import Batch, prepare_batches
from job.corpus import Corpus, offsets_of
from job.model import BowClassifier
from job.optimizer import Optimizer
from job.stored_batches import stored
from job.trainer import Plan, start, train
from serving.errors import PlatformError

NUM_WORDS, NUM_LABELS = 40, 5
SHAPE = {"batch_size": 16, "block_size": 7, "seed": 1, "shuffle": True, "num_threads": 2}


def random_corpus(num_rows: int) -> Corpus:
    generator = np.random.default_rng(0)
    lengths = generator.integers(0, 12, num_rows)
    return Corpus(
        ids=generator.integers(0, NUM_WORDS, lengths.sum()).astype(np.int32),
        offsets=offsets_of(lengths),
        labels=generator.integers(0, NUM_LABELS, num_rows),
    )


def test_batches_on_a_disk_train_to_the_same_weights(tmp_path: Path) -> None:
    """If it failed, a corpus that does not fit into memory would give another model."""
    corpus = random_corpus(300)
    optimizer = Optimizer(name="adagrad", weight_decay=0)
    plan = Plan(epochs=2, learning_rate=0.1, schedule="linear", seed=1, shuffle=True)
    states = []
    for on_disk in (False, True):
        batches = prepare_batches(corpus, **SHAPE)
        torch.manual_seed(1)
        state = start(BowClassifier(NUM_LABELS, NUM_WORDS), optimizer, torch.device("cpu"))
        if on_disk:
            with stored(tmp_path, batches) as kept:
                assert len(kept) == 19
                train(state, kept, optimizer, plan)
        else:
            train(state, list(batches), optimizer, plan)
        states.append(state)
    assert torch.equal(states[0].table, states[1].table)
    assert torch.equal(states[0].bias, states[1].bias)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_ends_training_with_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it failed, a full disk would end in a traceback, or in batches of which the ends are missing."""
    batches = prepare_batches(random_corpus(300), **SHAPE)
    full = Path("/dev/full").open("wb", buffering=0)  # noqa: SIM115 - `stored` closes it
    monkeypatch.setattr("job.stored_batches.scratch_file", lambda _: full)
    with (
        pytest.raises(PlatformError, match=r"BOW_CACHE_DIR=.*No space left on device.*free some space"),
        stored(tmp_path, batches),
    ):
        pass
    assert full.closed


def test_a_shortened_file_is_no_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it failed, training would go on with whatever was in memory."""
    batches = prepare_batches(random_corpus(30), **SHAPE)
    path = tmp_path / "batches"
    monkeypatch.setattr("job.stored_batches.scratch_file", lambda _: path.open("w+b", buffering=0))
    with stored(tmp_path, batches) as kept:
        os.truncate(path, path.stat().st_size - 4)
        with pytest.raises(PlatformError, match="shorter than what was written"):
            kept[1]


def test_few_batches_are_made_ahead_of_their_use() -> None:
    """If it failed, all batches would be in memory before the first is written to the disk."""
    made = []
    original = batches_module.prepare_batch

    def count(*arguments: Any, **named: Any) -> Batch:
        made.append(1)
        return original(*arguments, **named)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(batches_module, "prepare_batch", count)
        batches = prepare_batches(random_corpus(300), **SHAPE)
        next(batches)
        assert len(made) <= 3
        assert len(list(batches)) == 18
