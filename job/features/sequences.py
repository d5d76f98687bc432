"""N-grams as numbers: each is found from the one without its last part, as `serving.features.tables` says."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from job.corpus.bags import Numbers

Int64 = npt.NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class Sequences:
    """n sequences of parts: sequence i is `numbers[offsets[i]:offsets[i + 1]]`."""

    numbers: Int64
    """[m]: of parts, from 1; 0 for one that stands in no n-gram."""
    offsets: Numbers
    """[n + 1], from 0 to m."""

    def rows(self) -> npt.NDArray[np.int32]:
        """The sequence of each place, [m]."""
        return np.repeat(np.arange(len(self.offsets) - 1, dtype=np.int32), np.diff(self.offsets))

    def keys(self, shorter: Int64, rows: npt.NDArray[np.int32], *, length: int, base: int) -> Int64:
        """The key of the n-gram that begins at each place, [m]; 0 where none does.

        shorter: the numbers of the n-grams that are one part shorter, [m]: of the parts themselves for 2.
        """
        keys = np.zeros(len(self.numbers), np.int64)
        steps = length - 1
        if len(keys) > steps:
            first, last = shorter[:-steps], self.numbers[steps:]
            is_one = (first > 0) & (last > 0) & (rows[:-steps] == rows[steps:])
            np.copyto(keys[:-steps], first * base + last, where=is_one)
        return keys


def numbers_of(found: Int64, keys: Int64) -> Int64:
    """The number of each key that was found, from 1, among some `keys` in ascending order; 0 for others.

    >>> numbers_of(np.array([7, 5, 9]), np.array([5, 7])).tolist()
    [2, 1, 0]
    """
    # By hashing: among many keys a binary search waits for memory at every step.
    places = pc.index_in(pa.array(found), value_set=pa.array(keys)).fill_null(-1)
    numbers: Int64 = places.to_numpy(zero_copy_only=False).astype(np.int64) + 1
    return numbers


def parts_of(keys: Int64, *, base: int, shorter: list[Int64]) -> Int64:
    """The numbers of the parts of n-grams, [N, n], by their keys and by those of all shorter levels."""
    parts = [keys % base]
    numbers = keys // base
    for level in reversed(shorter):
        some = level[numbers - 1]
        parts.append(some % base)
        numbers = some // base
    return np.stack([numbers, *reversed(parts)], axis=1)
