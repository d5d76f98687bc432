"""A corpus that is written block by block is the one that is joined in memory."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from job import corpus_files
from job.corpus import RowBlock, join, tokenize_rows
from job.corpus_files import CorpusWriter, read_corpus
from job.dataset import Rows


def random_blocks(num_blocks: int) -> list[RowBlock]:
    generator = np.random.default_rng(1)
    blocks = []
    for number in range(num_blocks):
        num_rows = int(generator.integers(1, 6))
        # Later blocks bring new words and labels, and repeat old ones.
        words = generator.integers(0, 5 + number, (num_rows, 4))
        texts = [" ".join(f"w{word}" for word in row) for row in words]
        labels = [f"label{9 - word % 4}" for word in words[:, 0]]
        rows = Rows(texts=pa.array(texts, pa.string()), labels=pa.array(labels, pa.string()))
        blocks.append(tokenize_rows(rows, sample=2))
    return blocks


@pytest.mark.parametrize("num_blocks", [1, 2, 40])
@pytest.mark.parametrize("at_once", [1, 7, 1 << 20])
def test_blocks_are_numbered_as_if_they_were_joined_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_blocks: int, at_once: int
) -> None:
    """If it failed, a run with BOW_CACHE_DIR would learn from other words than one without."""
    monkeypatch.setattr(corpus_files, "_MIN_WAITING", at_once)
    monkeypatch.setattr(corpus_files, "_AT_ONCE", at_once)
    blocks = random_blocks(num_blocks)
    with CorpusWriter(tmp_path, sample=3) as writer:
        for block in blocks:
            writer.add(block)
        writer.finish()
    found, expected = read_corpus(tmp_path), join(blocks, sample=3)
    assert found.tokens.equals(expected.tokens)
    assert (found.label_names, found.sample) == (expected.label_names, expected.sample)
    for name in ("codes", "offsets", "labels"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name), strict=True)
