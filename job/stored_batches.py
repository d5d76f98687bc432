"""Prepared batches on a disk, for a corpus that is larger than memory."""

import errno
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, overload

import numpy as np
import torch
from torch import Tensor

from job.batches import Batch, WordBlock
from job.scratch import cache_errors, scratch_file


@dataclass(frozen=True, kw_only=True)
class _Place:
    """Where a batch is in the file."""

    start: int
    """In bytes."""
    sizes: list[int]
    """Numbers of int32 of its parts, one after the other."""


class StoredBatches(Sequence[Batch]):
    """Batches in a file, each read when it is asked for."""

    def __init__(self, file: IO[bytes], places: list[_Place], folder: Path) -> None:
        self._file, self._places, self._folder = file, places, folder
        self._reading = threading.Lock()

    def __len__(self) -> int:
        return len(self._places)

    @overload
    def __getitem__(self, index: int) -> Batch: ...
    @overload
    def __getitem__(self, index: slice) -> list[Batch]: ...
    def __getitem__(self, index: int | slice) -> Batch | list[Batch]:
        """Reads a batch; raises PlatformError where the disk fails."""
        if isinstance(index, slice):
            return [self[each] for each in range(*index.indices(len(self)))]
        place = self._places[index]
        data = np.empty(sum(place.sizes), np.int32)
        with cache_errors(self._folder), self._reading:
            self._file.seek(place.start)
            _read_all(self._file, data.data.cast("B"))
        return _batch(torch.split(torch.from_numpy(data), place.sizes))


@contextmanager
def stored(folder: Path, batches: Iterable[Batch]) -> Iterator[StoredBatches]:
    """Writes the batches, as they come, into a file without a name: however the process ends, it is gone.

    Raises PlatformError where the disk is full or fails.
    """
    with ExitStack() as stack:
        places = []
        start = 0
        with cache_errors(folder):
            file = stack.enter_context(scratch_file(folder))
        for batch in batches:
            parts = _parts(batch)
            data = torch.cat(parts).numpy().data.cast("B")
            with cache_errors(folder):
                _write_all(file, data)
            places.append(_Place(start=start, sizes=[len(part) for part in parts]))
            start += len(data)
        yield StoredBatches(file, places, folder)


def _parts(batch: Batch) -> list[Tensor]:
    """All that a batch holds, each int32 [n]."""
    blocks = [part for block in batch.blocks for part in (block.words, block.rows, block.offsets)]
    return [batch.ids, batch.offsets, batch.labels.int(), *blocks]


def _batch(parts: Sequence[Tensor]) -> Batch:
    """The inverse of `_parts`."""
    ids, offsets, labels, *blocks = parts
    return Batch(
        ids=ids,
        offsets=offsets,
        labels=labels.long(),
        blocks=tuple(
            WordBlock(words=words, rows=rows, offsets=ends)
            for words, rows, ends in zip(blocks[::3], blocks[1::3], blocks[2::3], strict=True)
        ),
    )


def _write_all(file: IO[bytes], data: memoryview) -> None:
    while data:
        data = data[file.write(data) :]


def _read_all(file: IO[bytes], data: memoryview) -> None:
    while data:
        number = file.readinto(data)  # type: ignore[attr-defined]
        if not number:
            raise OSError(errno.EIO, "the file is shorter than what was written")
        data = data[number:]
