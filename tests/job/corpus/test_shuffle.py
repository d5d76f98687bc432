"""The random order in which rows are cut into batches."""

import errno
import os
import weakref
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest

from job.corpus import shuffle
from job.corpus.bags import Bags
from job.corpus.shuffle import Run, buckets_for, in_file_order, shuffled
from job.training import batches
from serving.errors import PlatformError


def numbered(*sizes: int) -> list[Bags]:
    """Blocks whose rows hold their own number, twice as ids, as label, as weight, and as each id's value."""
    ends = np.cumsum([0, *sizes])
    return [
        Bags(
            ids=np.repeat(np.arange(start, end), 2).astype(np.int32),
            offsets=np.arange(0, 2 * (end - start) + 1, 2),
            labels=np.arange(start, end),
            values=np.repeat(np.arange(start, end), 2).astype(np.float32),
            weights=np.arange(start, end).astype(np.float32),
        )
        for start, end in pairwise(ends)
    ]


def order_of(runs: list[Run]) -> list[int]:
    taken = [bags.take(order) for bags, order in runs]
    for bags in taken:
        np.testing.assert_array_equal(bags.ids, np.repeat(bags.labels, 2))
        assert bags.values is not None
        np.testing.assert_array_equal(bags.values, bags.ids)
        assert bags.weights is not None
        np.testing.assert_array_equal(bags.weights, bags.labels)
    return [int(label) for bags in taken for label in bags.labels]


@pytest.mark.parametrize("buckets", [1, 2, 7, 256])
@pytest.mark.parametrize("sizes", [(100,), (1, 98, 1), (10,) * 10])
def test_every_row_is_there_once_in_memory_and_on_a_disk(
    tmp_path: Path, sizes: tuple[int, ...], buckets: int
) -> None:
    """If it failed, rows would be lost or learned twice, or a run with BOW_CACHE_DIR would be another."""
    in_memory = order_of(list(shuffled(numbered(*sizes), num_buckets=buckets, seed=1)))
    assert sorted(in_memory) == list(range(100))
    assert in_memory != list(range(100))
    on_disk = list(shuffled(numbered(*sizes), num_buckets=buckets, seed=1, scratch=tmp_path))
    assert order_of(on_disk) == in_memory
    assert order_of(list(shuffled(numbered(*sizes), num_buckets=buckets, seed=2))) != in_memory
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("others", [("values",), ("weights",), ("values", "weights")])
def test_a_disk_gives_back_what_it_was_given_and_no_more(tmp_path: Path, others: tuple[str, ...]) -> None:
    """If it failed, rows without weights would have some from a disk, or take their values for them."""
    blocks = [replace(block, **dict.fromkeys(others)) for block in numbered(20, 20)]
    in_memory, on_disk = (
        [bags.take(order) for bags, order in shuffled(blocks, num_buckets=3, seed=1, scratch=scratch)]
        for scratch in (None, tmp_path)
    )
    for one, other in zip(in_memory, on_disk, strict=True):
        for name in ("ids", "offsets", "labels", "values", "weights"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


@pytest.mark.parametrize("buckets", [1, 7])
def test_how_rows_are_cut_into_blocks_makes_no_difference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, buckets: int
) -> None:
    """If it failed, the cache, which cuts rows otherwise than reading does, would give another model."""
    monkeypatch.setattr(shuffle, "DEALT_IDS", 50)
    orders = [
        order_of(list(shuffled(numbered(*sizes), num_buckets=buckets, seed=1, scratch=scratch)))
        for sizes in ((100,), (1, 2, 97), (9,) * 11 + (1,))
        for scratch in (None, tmp_path)
    ]
    assert orders == [orders[0]] * 6


def test_every_order_is_as_likely_as_any_other() -> None:
    """If it failed, rows that stand together in a file would stand together in batches."""
    orders = [
        tuple(order_of(list(shuffled(numbered(2, 2), num_buckets=3, seed=seed)))) for seed in range(4800)
    ]
    seen, counts = np.unique(orders, axis=0, return_counts=True)
    assert len(seen) == 24
    # Each is expected 200 times, with a standard deviation of 14.
    assert counts.min() > 140
    assert counts.max() < 260


def test_the_number_of_buckets_bounds_memory_and_open_places() -> None:
    """If it failed, a bucket of a large corpus would not fit into memory, or there would be too many."""
    assert [buckets_for(size) for size in (0, 1, 1 << 23, (1 << 23) + 1, 10**8, 10**12)] == [
        1,
        1,
        1,
        2,
        12,
        256,
    ]


def test_rows_in_file_order_stay_in_it() -> None:
    """If it failed, BOW_SHUFFLE=false would not keep the order, as the tutorial does."""
    assert order_of(list(in_file_order(numbered(3, 4)))) == list(range(7))


def test_buckets_leave_memory_one_by_one() -> None:
    """If it failed, a corpus would be in memory twice while it is cut into batches."""
    blocks = numbered(500, 500)
    given = [weakref.ref(block.ids) for block in blocks]
    runs = shuffled((blocks.pop(0) for _ in range(2)), num_buckets=4, seed=1)
    first, _ = next(runs)
    assert 200 < first.num_rows < 300
    assert [ref() for ref in given] == [None, None]
    before = weakref.ref(first.ids)
    del first
    next(runs)
    assert before() is None


def test_a_run_leaves_memory_before_the_next_is_made() -> None:
    """If it failed, two buckets would be in memory at once."""
    made: list[weakref.ref[np.ndarray]] = []

    def runs() -> Iterator[Run]:
        blocks = numbered(20, 20, 20)
        while blocks:
            assert all(ref() is None for ref in made)
            made.append(weakref.ref(blocks[0].ids))
            yield blocks.pop(0), np.arange(20)

    assert len(list(_cut_batches(runs()))) == 6


def _cut_batches(runs: Iterator[Run]) -> Iterator[int]:
    """The batches of some runs, each made at once, since what is made ahead holds its run."""
    for rows in batches._cut(runs, 10):
        yield rows().num_rows
        del rows


def test_a_full_disk_is_an_error_with_advice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it failed, a full disk would end in a traceback."""

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "pwrite", full)
    with pytest.raises(PlatformError, match=r"BOW_CACHE_DIR=.*No space left on device.*free some space"):
        list(shuffle.shuffled(numbered(9), num_buckets=2, seed=1, scratch=tmp_path))
