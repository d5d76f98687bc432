import pytest
import torch

from job.training import rows as of_rows
from job.training.rows import put_rows, sum_bags, take_rows

DTYPES = [torch.float32, torch.float64]


@pytest.mark.parametrize("num_labels", [1, 2, 3, 4, 5, 77])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_are_fetched_and_put_back_as_they_are(num_labels: int, dtype: torch.dtype) -> None:
    """If it failed, a word would be given another word's weights."""
    table = torch.arange(50 * num_labels).reshape(50, num_labels).to(dtype) - 70
    before, rows = table.clone(), torch.tensor([3, 0, 49], dtype=torch.int32)
    found = take_rows(table, rows)
    assert torch.equal(found, before[[3, 0, 49]])
    put_rows(table, rows, found + 1000)
    assert torch.equal(found, before[[3, 0, 49]]), "a copy, no view of the table"
    before[[3, 0, 49]] += 1000
    assert torch.equal(table, before)


@pytest.mark.parametrize("num_labels", [2, 3])
def test_numbers_that_are_none_are_moved_too(num_labels: int) -> None:
    """If it failed, training that diverged would not be seen."""
    table = torch.full((4, num_labels), float("nan"))
    table[1] = float("-inf")
    found = take_rows(table, torch.tensor([1, 2], dtype=torch.int32))
    assert found[0].isneginf().all()
    assert found[1].isnan().all()


@pytest.mark.parametrize("num_labels", [1, 2, 5])
@pytest.mark.parametrize("max_gathered", [1 << 28, 17, 1])
def test_bags_are_summed_in_pieces_as_they_are_whole(
    num_labels: int, max_gathered: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it failed, a GPU would sum other words than the CPU, where there is room for all or not."""
    monkeypatch.setattr(of_rows, "MAX_GATHERED", max_gathered)
    table = torch.randn(50, num_labels, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    rows = torch.arange(8, dtype=torch.int32) * 6
    offsets = torch.tensor([0, 0, 5, 8, 8], dtype=torch.int32)
    pieces, of_pieces = torch.tensor([[0, 3, 5, 8, 8], [0, 0, 2, 3, 3]], dtype=torch.int32)
    for values in (None, torch.arange(8, dtype=torch.float32)):
        found = sum_bags(table, rows, of_pieces, values, pieces)
        torch.testing.assert_close(found, sum_bags(table, rows, offsets, values), rtol=1e-14, atol=1e-14)
