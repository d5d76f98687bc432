"""Rows as bags of numbers, some rows at a time: what passes from reading to training."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Ids = npt.NDArray[np.int32]
Numbers = npt.NDArray[np.int32] | npt.NDArray[np.int64]
Values = npt.NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Bags:
    """n rows: row i holds `ids[offsets[i]:offsets[i + 1]]`."""

    ids: Ids
    """[nnz]: what stands twice in a row stands here twice."""
    offsets: Numbers
    """[n + 1], from 0 to nnz."""
    labels: Numbers
    """[n]."""
    values: Values | None = None
    """What each id counts, [nnz]; None where each counts once."""
    weights: Values | None = None
    """How much each row counts in training, [n]; None where each counts once."""

    @property
    def num_rows(self) -> int:
        """How many rows there are: n."""
        return len(self.labels)

    def take(self, rows: npt.NDArray[Any]) -> "Bags":
        """The named rows, in the order named.

        >>> bags = Bags(ids=np.array([7, 8, 9], np.int32), offsets=np.array([0, 2, 3]), labels=np.arange(2))
        >>> taken = bags.take(np.array([1, 0]))
        >>> taken.ids.tolist(), taken.offsets.tolist(), taken.labels.tolist()
        ([9, 7, 8], [0, 1, 3], [1, 0])
        """
        starts = self.offsets[rows]
        lengths = self.offsets[1:][rows] - starts
        offsets = offsets_of(lengths)
        # Position j of the result lies in row r at place j - offsets[r] of that row.
        places = np.arange(offsets[-1]) + np.repeat(starts - offsets[:-1], lengths)
        return Bags(
            ids=self.ids[places],
            offsets=offsets,
            labels=self.labels[rows],
            values=None if self.values is None else self.values[places],
            weights=None if self.weights is None else self.weights[rows],
        )

    def part(self, start: int, end: int) -> "Bags":
        """The rows from `start` until before `end`, without a copy of their ids."""
        offsets = self.offsets[start : end + 1]
        own = slice(offsets[0], offsets[-1])
        return Bags(
            ids=self.ids[own],
            offsets=offsets - offsets[0],
            labels=self.labels[start:end],
            values=None if self.values is None else self.values[own],
            weights=None if self.weights is None else self.weights[start:end],
        )


def copied(bags: Bags) -> Bags:
    """The same rows, in memory of their own: a part keeps all that it was cut from in memory."""
    return Bags(
        ids=bags.ids.copy(),
        offsets=bags.offsets,
        labels=bags.labels.copy(),
        values=None if bags.values is None else bags.values.copy(),
        weights=None if bags.weights is None else bags.weights.copy(),
    )


def concatenate(parts: Sequence[Bags]) -> Bags:
    """The rows of one or more parts, one part after the other.

    >>> one = Bags(ids=np.array([7, 8], np.int32), offsets=np.array([0, 2]), labels=np.array([0]))
    >>> concatenate([one, one]).offsets.tolist()
    [0, 2, 4]
    """
    if len(parts) == 1:
        return parts[0]
    values = [part.values for part in parts if part.values is not None]
    weights = [part.weights for part in parts if part.weights is not None]
    return Bags(
        values=np.concatenate(values) if values else None,
        weights=np.concatenate(weights) if weights else None,
        ids=np.concatenate([part.ids for part in parts]),
        offsets=offsets_of(np.concatenate([np.diff(part.offsets) for part in parts])),
        labels=np.concatenate([part.labels for part in parts]),
    )


def offsets_of(lengths: Numbers | npt.NDArray[np.bool_]) -> Numbers:
    """The offsets [n + 1] of n bags of the given lengths [n], in int32 where that is enough.

    >>> offsets_of(np.array([2, 0, 3])).tolist()
    [0, 2, 2, 5]
    """
    is_small = lengths.sum(dtype=np.int64) < 1 << 31
    offsets = np.zeros(len(lengths) + 1, np.int32) if is_small else np.zeros(len(lengths) + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets
