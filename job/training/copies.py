"""Batches copied to a GPU while it is busy with others."""

from collections.abc import Iterator

from job.device import Copy, CopyStream
from job.training.batch import PackedBatch, Parts


def copied_ahead(batches: Iterator[PackedBatch], stream: CopyStream) -> Iterator[PackedBatch]:
    """The batches on a GPU; the next is on its way while one is worked on."""
    coming: tuple[Copy, Parts] | None = None
    for batch in batches:
        following = stream.copy(batch.data), batch.parts
        if coming is not None:
            yield _arrived(*coming)
        coming = following
    if coming is not None:
        yield _arrived(*coming)


def _arrived(copy: Copy, parts: Parts) -> PackedBatch:
    return PackedBatch(data=copy.arrived(), parts=parts)
