"""Batches in memory, on a disk, and on their way to a GPU: the same batches wherever they are kept."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from job.corpus import scratch
from job.corpus.scratch import ScratchFile
from job.device import Device
from job.model import BowClassifier
from job.training import batch_stores
from job.training.batch import PackedBatch
from job.training.batch_stores import (
    Batches,
    BatchesInMemory,
    BatchesOnDevice,
    BatchesOnDisk,
    BatchesOnTheirWay,
    kept,
)
from job.training.optimizer import Optimizer
from job.training.padded import Shape
from job.training.train_state import TrainState
from job.training.trainer import Plan, start, train
from serving.errors import PlatformError
from tests.job.training.bags import NUM_LABELS, NUM_WORDS, batches_of, random_bags

CPU = Device(torch_device=torch.device("cpu"), requested="cpu", reason=None, description="")
PLAN = Plan(epochs=2, batch_size=16, learning_rate=0.1, schedule="linear", seed=1, shuffle=True)


def trained_on(batches: Batches) -> TrainState:
    assert (len(batches), batches.num_tokens) == (19, len(random_bags(300).ids))
    optimizer = Optimizer(name="adagrad", weight_decay=0)
    state = start(BowClassifier(NUM_LABELS, NUM_WORDS), optimizer, torch.device("cpu"))
    train(state, batches, optimizer, PLAN)
    return state


def assert_same(one: TrainState, other: TrainState) -> None:
    assert torch.equal(one.table, other.table)
    assert torch.equal(one.bias, other.bias)


def test_batches_on_a_disk_train_to_the_same_weights(tmp_path: Path) -> None:
    """If it failed, a corpus that does not fit into memory would give another model."""
    with kept(batches_of([random_bags(300)]), CPU, None) as in_memory:
        expected = trained_on(in_memory)
    with kept(batches_of([random_bags(300)]), CPU, tmp_path) as on_disk:
        assert isinstance(on_disk, BatchesOnDisk)
        assert_same(trained_on(on_disk), expected)
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(ValueError, match="closed file"):
        next(on_disk.in_order([0]))


def test_batches_that_are_unpacked_each_time_are_the_same() -> None:
    """If it failed, a large corpus would be trained on otherwise than a small one."""
    expected = trained_on(BatchesInMemory(batches_of([random_bags(300)])))
    packed = BatchesInMemory(batches_of([random_bags(300)]), unpacked_bytes=0)
    assert_same(trained_on(packed), expected)


def test_what_a_gpu_does_not_hold_is_copied_to_it_batch_by_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it failed, a corpus larger than the GPU's memory would end the job, or be trained on otherwise.

    A stand-in for a GPU: tests/test_gpu.py has the real copies.
    """
    copied = []

    def copy(batches: Iterator[PackedBatch], device: Device) -> Iterator[PackedBatch]:
        for batch in batches:
            copied.append(device)
            yield batch

    monkeypatch.setattr(batch_stores, "CopyStream", lambda device: device)
    monkeypatch.setattr(batch_stores, "copied_ahead", copy)
    packed = batches_of([random_bags(300)], block_size=NUM_WORDS)
    expected = trained_on(BatchesInMemory(packed))
    size = len(packed) * Shape.of(batch.parts for batch in packed).num_bytes
    for free, kind in ((2 * size, BatchesOnDevice), (size, BatchesOnTheirWay)):
        monkeypatch.setattr(batch_stores, "free_memory", lambda _, free=free: free)
        with kept(packed, CPU, None) as batches:
            assert isinstance(batches, kind)
            assert_same(trained_on(batches), expected)
    assert copied == [CPU] * 2 * 19


def test_a_full_disk_ends_training_with_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it failed, a full disk would end in a traceback, or in batches of which the ends are missing."""
    full = Path("/dev/full").open("wb", buffering=0)  # noqa: SIM115 - ScratchFile closes it
    monkeypatch.setattr(scratch, "unnamed_file", lambda _: full)
    with (
        pytest.raises(PlatformError, match=r"BOW_CACHE_DIR=.*No space left on device.*free some space"),
        kept(batches_of([random_bags(300)]), CPU, tmp_path),
    ):
        pass
    assert full.closed


def test_a_shortened_file_is_no_batch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it failed, training would go on with whatever was in memory."""
    path = tmp_path / "batches"
    monkeypatch.setattr(scratch, "unnamed_file", lambda _: path.open("w+b", buffering=0))
    with ScratchFile(tmp_path) as file:
        batches = BatchesOnDisk(file, batches_of([random_bags(30)]))
        os.truncate(path, path.stat().st_size - 4)
        with pytest.raises(PlatformError, match="shorter than what was written"):
            list(batches.in_order([1]))
