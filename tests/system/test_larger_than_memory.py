"""A corpus that is ten times larger than the memory that it may take."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from serving.bundle import open_bundle
from tests.system.conftest import REPOSITORY

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux counts a process's own memory apart"),
]

NUM_WORDS = 20_000
TOKENS_PER_ROW = 8
WRITTEN_AT_ONCE = 3_000_000
SMALL, LARGE = 15_000_000, 120_000_000
"""Tokens. The small corpus fills all buffers that do not grow."""


def write_texts(path: Path, num_tokens: int) -> Path:
    """Two labels that prefer other halves of the words."""
    generator = np.random.default_rng(1)
    words = pa.array([f"word{number}" for number in range(NUM_WORDS)])
    with path.open("wb") as file:
        file.write(b"label\ttext\n")
        for _ in range(0, num_tokens, WRITTEN_AT_ONCE):
            num_rows = WRITTEN_AT_ONCE // TOKENS_PER_ROW
            labels = generator.integers(0, 2, num_rows)
            ranks = NUM_WORDS * generator.random((num_rows, TOKENS_PER_ROW)) ** 2
            places = (ranks.astype(np.int64) + labels[:, None] * NUM_WORDS // 5) % NUM_WORDS
            offsets = pa.array(np.arange(num_rows + 1) * TOKENS_PER_ROW, pa.int32())
            texts = pc.binary_join(
                pa.ListArray.from_arrays(offsets, words.take(pa.array(places.ravel()))), " "
            )
            names = pa.array(["one", "two"]).take(pa.array(labels))
            lines = pc.binary_join_element_wise(names, texts, "\t").to_pylist()
            file.write(("\n".join(lines) + "\n").encode())
    return path


def run(
    folder: Path, data: Path, *, cached: bool, limit: int | None = None
) -> "subprocess.CompletedProcess[str]":
    environ = {name: value for name, value in os.environ.items() if not name.startswith("BOW_")}
    environ |= {
        "BOW_TRAIN_DATA": str(data),
        "BOW_OUTPUT_DIR": str(folder),
        "BOW_RUN_NAME": "run",
        "BOW_DEVICE": "cpu",
        "BOW_NUM_THREADS": "2",
        "BOW_EPOCHS": "1",
    }
    # Arrow's own allocator reserves 1 GiB at once, which counts as used here though no page of it is.
    environ["ARROW_DEFAULT_MEMORY_POOL"] = "system"
    if cached:
        environ["BOW_CACHE_DIR"] = str(folder / "cache")
    return subprocess.run(
        [sys.executable, "-m", "tests.system.limited_job", "none" if limit is None else str(limit)],
        cwd=REPOSITORY,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )


def test_it_trains_to_the_same_weights_within_a_tenth_of_its_size(tmp_path: Path) -> None:
    """If it failed, a corpus larger than the memory could not be trained on, or to other weights."""
    small = write_texts(tmp_path / "small.tsv", SMALL)
    large = write_texts(tmp_path / "large.tsv", LARGE)
    of_small = run(tmp_path / "small", small, cached=True)
    assert of_small.returncode == 0, of_small.stderr
    growth = (large.stat().st_size - small.stat().st_size) // 10
    limit = int(of_small.stdout.splitlines()[-1]) + growth

    limited = run(tmp_path / "limited", large, cached=True, limit=limit)
    assert limited.returncode == 0, limited.stderr
    in_memory = run(tmp_path / "memory", large, cached=False)
    assert in_memory.returncode == 0, in_memory.stderr
    assert (
        open_bundle(tmp_path / "limited" / "run").bundle_id
        == open_bundle(tmp_path / "memory" / "run").bundle_id
    )

    # Without this the limit could be one that nothing meets.
    assert run(tmp_path / "failed", large, cached=False, limit=limit).returncode != 0
