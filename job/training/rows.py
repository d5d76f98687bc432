"""Rows of a large table, fetched, summed and put back: most of what a training step waits for."""

import torch
import torch.nn.functional as F
from torch import Tensor

_OF_BYTES = {4: torch.int32, 8: torch.int64, 16: torch.complex128}
"""Types of which one number holds a whole row of so many bytes: those are moved two to five times as fast."""

MAX_GATHERED = 1 << 28
"""Weights that are gathered from a table at once, to be summed: 1 GiB of them."""


def take_rows(table: Tensor, rows: Tensor) -> Tensor:
    """A copy of some rows.

    table: [V, K], contiguous. rows: int32 [u], u > 0. Returns [u, K].
    """
    numbers = _as_numbers(table)
    if numbers is not None:
        return numbers.index_select(0, rows).view(table.dtype).view(len(rows), -1)
    if table.device.type == "cpu":
        # The sums of bags of one row each: they are fetched ahead and on all cores, as by index_select not.
        return F.embedding_bag(rows.unsqueeze(1), table, mode="sum")
    return table.index_select(0, rows)


def put_rows(table: Tensor, rows: Tensor, values: Tensor) -> None:
    """Writes some rows: `values` [u, K] to the places `rows`, int32 [u], no place twice."""
    numbers, new = _as_numbers(table), _as_numbers(values)
    if numbers is not None and new is not None:
        numbers.index_copy_(0, rows.long(), new)
    else:
        table.index_copy_(0, rows.long(), values)


def sum_bags(
    table: Tensor, rows: Tensor, offsets: Tensor, values: Tensor | None, pieces: Tensor | None = None
) -> Tensor:
    """For each of n bags the sum of the rows that it names, each times its value if there are any: [n, K].

    table: [V, K]. rows: int32 [nnz]; bag i is `rows[offsets[i]:offsets[i + 1]]`, offsets being int32 [n + 1].
    values: float32 [nnz]. pieces: int32 [q + 1]; where given, piece i is `rows[pieces[i]:pieces[i + 1]]`, and
    the offsets say which pieces a bag has.
    """
    if pieces is not None:
        columns = torch.split(table, max(1, MAX_GATHERED // len(rows)), dim=1)
        sums = [_sum_pieces(some, rows, offsets, values, pieces) for some in columns]
        return sums[0] if len(sums) == 1 else torch.cat(sums, dim=1)
    if values is not None:
        values = values.to(table.dtype)  # another one in tests alone
    return F.embedding_bag(
        rows, table, offsets, mode="sum", per_sample_weights=values, include_last_offset=True
    )


def _sum_pieces(
    table: Tensor, rows: Tensor, offsets: Tensor, values: Tensor | None, pieces: Tensor
) -> Tensor:
    """As `sum_bags`, on a GPU five to thirty times as fast, but all rows are in memory: [nnz, K]."""
    gathered = take_rows(table, rows)
    if values is not None:
        gathered.mul_(values.unsqueeze(1))
    # What it would check if it were not `unsafe`, the host would wait for.
    sums = torch.segment_reduce(gathered, "sum", offsets=pieces, unsafe=True)
    return torch.segment_reduce(sums, "sum", offsets=offsets, unsafe=True)


def _as_numbers(table: Tensor) -> Tensor | None:
    """The same memory with one number a row, where there is a type of that width: [V]."""
    dtype = _OF_BYTES.get(table.size(1) * table.itemsize)
    return None if dtype is None or not table.is_contiguous() else table.view(dtype).view(-1)
