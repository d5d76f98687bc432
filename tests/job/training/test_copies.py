"""Batches on their way to a GPU, with a stand-in for the copies; tests/test_gpu.py makes real ones."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch

from job.training.batch import PackedBatch
from job.training.copies import copied_ahead
from tests.job.training.bags import batches_of, random_bags


@pytest.mark.parametrize("num_rows", [0, 1, 16, 17, 100])
def test_each_batch_is_copied_one_ahead_of_its_use(num_rows: int) -> None:
    """If it failed, the GPU would wait for each batch, or all batches would be copied at once."""
    events: list[str] = []

    class Arriving:
        def __init__(self, tensor: torch.Tensor) -> None:
            self.tensor = tensor

        def arrived(self) -> torch.Tensor:
            events.append("used")
            return self.tensor

    class Stream:
        def copy(self, tensor: torch.Tensor) -> Any:
            events.append("copied")
            return Arriving(tensor)

    batches = batches_of([random_bags(num_rows)])

    def coming() -> Iterator[PackedBatch]:
        yield from batches

    found = list(copied_ahead(coming(), Stream()))  # type: ignore[arg-type]
    assert [batch.parts for batch in found] == [batch.parts for batch in batches]
    assert all(torch.equal(one.data, other.data) for one, other in zip(found, batches, strict=True))
    number = len(batches)
    assert events == (["copied"] + ["copied", "used"] * (number - 1) + ["used"] if number else [])
