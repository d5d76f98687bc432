"""Where the batches are kept from epoch to epoch: in memory, on a disk, on the GPU, or on their way to it."""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property, partial
from pathlib import Path
from typing import Protocol

import torch

from job.corpus.ahead import made_ahead
from job.corpus.scratch import ScratchFile
from job.device import CopyStream, Device, free_memory
from job.training.batch import Batch, PackedBatch, Parts
from job.training.copies import copied_ahead
from job.training.padded import PaddedBatch, Shape, padded

UNPACKED_BYTES = 1 << 28
"""Batches in memory that take no more than this are unpacked once: a tenth of the time of a step."""
DEVICE_SHARE = 0.7
"""Of the GPU's free memory that the batches may take; the rest is for the steps."""

AnyBatch = Batch | PaddedBatch
"""What the steps of the CPU take, and what those of a GPU."""


class Batches(Protocol):
    """Batches that can be gone through in any order."""

    @property
    def num_tokens(self) -> int:
        """In all batches."""
        ...

    @property
    def shape(self) -> Shape | None:
        """That of every batch, where they are padded to one."""
        ...

    def __len__(self) -> int:
        """The number of batches."""
        ...

    def in_order(self, order: Sequence[int]) -> Iterator[AnyBatch]:
        """The batches of these numbers, on the device."""
        ...


class BatchesInMemory:
    """Batches in the host's memory."""

    shape = None

    def __init__(self, batches: Iterable[PackedBatch], *, unpacked_bytes: int = UNPACKED_BYTES) -> None:
        """Batches that take no more than `unpacked_bytes` are unpacked once, the others each time."""
        self._batches = list(batches)
        self._unpacked_bytes = unpacked_bytes

    @property
    def num_tokens(self) -> int:
        """In all batches."""
        return sum(batch.parts.num_tokens for batch in self._batches)

    @property
    def parts(self) -> list[Parts]:
        """Of every batch."""
        return [batch.parts for batch in self._batches]

    def __len__(self) -> int:
        return len(self._batches)

    def packed(self, order: Sequence[int]) -> Iterator[PackedBatch]:
        """The batches of these numbers, as they are kept."""
        return (self._batches[number] for number in order)

    def in_order(self, order: Sequence[int]) -> Iterator[Batch]:
        """The batches of these numbers."""
        if self._unpacked is not None:
            return (self._unpacked[number] for number in order)
        return (batch.unpack() for batch in self.packed(order))

    @cached_property
    def _unpacked(self) -> list[Batch] | None:
        num_bytes = sum(parts.num_bytes for parts in self.parts)
        return [batch.unpack() for batch in self._batches] if num_bytes <= self._unpacked_bytes else None


class BatchesOnDisk:
    """Batches in a file, each read ahead of its use."""

    shape = None

    def __init__(self, file: ScratchFile, batches: Iterable[PackedBatch]) -> None:
        """Writes the batches as they come. Raises PlatformError where the disk is full or fails."""
        self._file = file
        self._kept = [(file.put(batch.data.numpy()), batch.parts) for batch in batches]

    @property
    def num_tokens(self) -> int:
        """In all batches."""
        return sum(parts.num_tokens for parts in self.parts)

    @property
    def parts(self) -> list[Parts]:
        """Of every batch."""
        return [parts for _, parts in self._kept]

    def __len__(self) -> int:
        return len(self._kept)

    def packed(self, order: Sequence[int]) -> Iterator[PackedBatch]:
        """The batches of these numbers, as they are kept; raises PlatformError where the disk fails."""
        return made_ahead((partial(self._read, number) for number in order), num_threads=1)

    def in_order(self, order: Sequence[int]) -> Iterator[Batch]:
        """The batches of these numbers; raises PlatformError where the disk fails."""
        return (batch.unpack() for batch in self.packed(order))

    def _read(self, number: int) -> PackedBatch:
        place, parts = self._kept[number]
        return PackedBatch(data=torch.from_numpy(self._file.get(place)), parts=parts)


class BatchesOnDevice:
    """Batches in a GPU's memory."""

    def __init__(self, host: BatchesInMemory | BatchesOnDisk, device: Device, shape: Shape) -> None:
        """Copies all of them there."""
        on_device = (batch.to(device.torch_device) for batch in host.packed(range(len(host))))
        self._batches = [padded(batch, shape) for batch in on_device]
        self.shape = shape

    @property
    def num_tokens(self) -> int:
        """In all batches."""
        return sum(batch.num_tokens for batch in self._batches)

    def __len__(self) -> int:
        return len(self._batches)

    def in_order(self, order: Sequence[int]) -> Iterator[PaddedBatch]:
        """The batches of these numbers, on the device."""
        return (self._batches[number] for number in order)


class BatchesOnTheirWay:
    """Batches that the GPU's memory does not hold together: each is copied while another is trained on."""

    def __init__(self, host: BatchesInMemory | BatchesOnDisk, device: Device, shape: Shape) -> None:
        self._host, self._stream = host, CopyStream(device)
        self.shape = shape

    @property
    def num_tokens(self) -> int:
        """In all batches."""
        return self._host.num_tokens

    def __len__(self) -> int:
        return len(self._host)

    def in_order(self, order: Sequence[int]) -> Iterator[PaddedBatch]:
        """The batches of these numbers, on the device."""
        return (padded(batch, self.shape) for batch in copied_ahead(self._host.packed(order), self._stream))


@contextmanager
def kept(batches: Iterable[PackedBatch], device: Device, folder: Path | None) -> Iterator[Batches]:
    """Keeps batches where a device can train on them; with a folder, on the disk instead of in memory.

    Raises PlatformError where the disk is full or fails.
    """
    if folder is None:
        yield _for_device(BatchesInMemory(batches), device)
        return
    with ScratchFile(folder) as file:
        yield _for_device(BatchesOnDisk(file, batches), device)


def _for_device(host: BatchesInMemory | BatchesOnDisk, device: Device) -> Batches:
    free = free_memory(device)
    if free is None:
        return host
    shape = Shape.of(host.parts)
    is_small = len(host) * shape.num_bytes <= DEVICE_SHARE * free
    return (BatchesOnDevice if is_small else BatchesOnTheirWay)(host, device, shape)
