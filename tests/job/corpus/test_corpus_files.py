"""A corpus that is written into files is the one that is collected in memory."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from job.corpus import collect as collect_module
from job.corpus import corpus_files
from job.corpus.bags import concatenate
from job.corpus.collect import Collector, InMemory, RowBlock, tokenize_rows
from job.corpus.corpus_files import InFolder, read_corpus
from job.dataset import Rows


def random_blocks(num_blocks: int, *, with_weights: bool = False) -> list[RowBlock]:
    generator = np.random.default_rng(1)
    blocks = []
    for number in range(num_blocks):
        num_rows = int(generator.integers(1, 6))
        # Later blocks bring new words and labels, and repeat old ones.
        words = generator.integers(0, 5 + number, (num_rows, 4))
        texts = [" ".join(f"w{word}" for word in row) for row in words]
        labels = [f"label{9 - word % 4}" for word in words[:, 0]]
        rows = Rows(
            texts=pa.array(texts, pa.string()),
            labels=pa.array(labels, pa.string()),
            weights=words[:, 1].astype(np.float32) if with_weights else None,
        )
        blocks.append(tokenize_rows(rows, sample=2))
    return blocks


@pytest.mark.parametrize("with_weights", [False, True])
@pytest.mark.parametrize("max_tokens", [None, 10])
@pytest.mark.parametrize("num_blocks", [1, 2, 40])
@pytest.mark.parametrize("at_once", [1, 7, 1 << 20])
def test_blocks_are_numbered_as_they_are_in_memory(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    num_blocks: int,
    at_once: int,
    max_tokens: int | None,
    with_weights: bool,
) -> None:
    """If it failed, a run with BOW_CACHE_DIR would learn from other words than one without."""
    for module, name in (
        (collect_module, "MIN_WAITING"),
        (corpus_files, "_AT_ONCE"),
        (corpus_files, "CHUNK_ROWS"),
        (corpus_files, "CHUNK_IDS"),
    ):
        monkeypatch.setattr(module, name, at_once)
    blocks = random_blocks(num_blocks, with_weights=with_weights)
    with InFolder(tmp_path) as files:
        memory = InMemory()
        on_disk, in_memory = (Collector(store, sample=3, max_tokens=max_tokens) for store in (files, memory))
        for block in blocks:
            on_disk.add(block)
            in_memory.add(block)
        on_disk.finish()
        in_memory.finish()
        files.finish(on_disk)
    assert in_memory.dropped == (max_tokens is not None and num_blocks == 40)
    found, sample = read_corpus(tmp_path)
    expected = in_memory.corpus(memory.blocks)
    assert found.tokens.equals(expected.tokens)
    assert sample == in_memory.sample
    for name in ("label_names", "num_rows", "num_tokens"):
        assert getattr(found, name) == getattr(expected, name)
    np.testing.assert_array_equal(found.counts, expected.counts)
    one, other = concatenate(list(found)), concatenate(list(expected))
    assert (one.weights is not None) == with_weights == (tmp_path / "weights").exists()
    assert found.label_sums() == expected.label_sums()
    for name in ("ids", "offsets", "labels", "weights"):
        np.testing.assert_array_equal(getattr(one, name), getattr(other, name))
