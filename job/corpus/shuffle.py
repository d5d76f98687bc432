"""A random order of more rows than memory may hold: dealt into buckets, each of which is shuffled in turn."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TypeAlias

import numpy as np
import numpy.typing as npt

from job.corpus.bags import Bags, concatenate, copied, offsets_of
from job.corpus.memory import give_back_freed_memory
from job.corpus.scratch import Place, ScratchFile

BUCKET_IDS = 1 << 23
"""Ids of a bucket, as far as `MAX_BUCKETS` allow: 32 MiB."""
MAX_BUCKETS = 256
DEALT_IDS = 1 << 21
"""Ids, and twice the rows, dealt into a file at once; of less, buckets would be in very many parts."""

_FLOATS = ("values", "weights")
"""What rows may have besides ids and labels."""

Run: TypeAlias = tuple[Bags, npt.NDArray[np.int64]]
"""Rows, and the order in which they are to be taken."""


def buckets_for(num_ids: int) -> int:
    """How many buckets a corpus of so many ids is dealt into: the same wherever it is trained."""
    return min(MAX_BUCKETS, max(1, -(-num_ids // BUCKET_IDS)))


def in_file_order(blocks: Iterable[Bags]) -> Iterator[Run]:
    """The rows as they come."""
    for block in blocks:
        yield block, np.arange(block.num_rows)


def shuffled(
    blocks: Iterable[Bags], *, num_buckets: int, seed: int, scratch: Path | None = None
) -> Iterator[Run]:
    """All rows in a random order, a bucket at a time: a pure function of the rows, the buckets and the seed.

    Each row is dealt to a bucket at random, and each bucket is shuffled: every order of all rows is as likely
    as any other (Rao, 1961; Sandelius, 1962). With one bucket that is a plain shuffle.

    scratch: a folder for the buckets, which are in memory otherwise. Raises PlatformError where that has no
    room.
    """
    generator = np.random.Generator(np.random.PCG64([seed, 0]))
    with ExitStack() as stack:
        file = None if scratch is None else stack.enter_context(ScratchFile(scratch))
        buckets = _dealt(blocks, num_buckets, generator, file)
        while buckets:
            rows = concatenate([get() for get in buckets.pop(0)])
            yield rows, generator.permutation(rows.num_rows)
            del rows
            if num_buckets > 1:
                # Its parts leave gaps of their own size, which no batch fits.
                give_back_freed_memory()


def _dealt(
    blocks: Iterable[Bags], num_buckets: int, generator: np.random.Generator, file: ScratchFile | None
) -> list[list[Callable[[], Bags]]]:
    """What gives the parts of each bucket."""
    buckets: list[list[Callable[[], Bags]]] = [[] for _ in range(num_buckets)]
    for block in blocks if file is None else _gathered(blocks):
        for bucket, part in zip(buckets, _parts(block, num_buckets, generator), strict=True):
            bucket.append(partial(_same, part) if file is None else _put(file, part))
    return buckets


def _parts(block: Bags, num_buckets: int, generator: np.random.Generator) -> Iterator[Bags]:
    """The rows of each bucket, in their order."""
    if num_buckets == 1:
        yield block
        return
    # One draw of the generator a row, so that it does not matter how rows are cut into blocks.
    bucket_of_row = (generator.random(block.num_rows) * num_buckets).astype(np.uint16)
    order = np.argsort(bucket_of_row, kind="stable")
    ends = np.cumsum(np.bincount(bucket_of_row, minlength=num_buckets))
    dealt = block.take(order)
    for start, end in zip([0, *ends[:-1]], ends, strict=True):
        yield copied(dealt.part(start, end))


def _gathered(blocks: Iterable[Bags]) -> Iterator[Bags]:
    """The same rows in blocks of about `DEALT_IDS`."""
    some: list[Bags] = []
    size = 0
    for block in blocks:
        some.append(block)
        size += len(block.ids) + 2 * block.num_rows  # a row has a label and a length, if not a weight
        if size >= DEALT_IDS:
            whole = concatenate(some)
            some, size = [], 0
            yield whole
    if some:
        yield concatenate(some)


def _same(part: Bags) -> Bags:
    return part


def _put(file: ScratchFile, part: Bags) -> Callable[[], Bags]:
    """Writes some rows; returns what reads them again."""
    lengths = np.diff(part.offsets)
    floats = {name: each for name in _FLOATS if (each := getattr(part, name)) is not None}
    arrays = [part.ids, lengths, part.labels, *(each.view(np.int32) for each in floats.values())]
    data = np.concatenate(arrays, dtype=np.int32, casting="same_kind")
    return partial(_get, file, file.put(data), [len(array) for array in arrays], list(floats))


def _get(file: ScratchFile, place: Place, sizes: Sequence[int], names: Sequence[str]) -> Bags:
    """Reads what `_put` wrote: arrays of these sizes, of which the last are those of float32 so named."""
    ids, lengths, labels, *floats = np.split(file.get(place).view(np.int32), np.cumsum(sizes)[:-1])
    named = {name: each.view(np.float32) for name, each in zip(names, floats, strict=True)}
    return Bags(ids=ids, offsets=offsets_of(lengths), labels=labels, **named)
