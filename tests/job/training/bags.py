"""Random rows for tests, and how they are prepared."""

from collections.abc import Iterable

import numpy as np

from job.corpus.bags import Bags, offsets_of
from job.training.batch import PackedBatch
from job.training.batches import prepare_batches, runs_of

NUM_WORDS, NUM_LABELS = 40, 5


def random_bags(num_rows: int, *, seed: int = 0, max_tokens: int = 12, with_weights: bool = False) -> Bags:
    """Rows of up to `max_tokens` of `NUM_WORDS` words, some of them without any; some have the weight 0."""
    generator = np.random.default_rng(seed)
    lengths = generator.integers(0, max_tokens, num_rows)
    return Bags(
        ids=generator.integers(0, NUM_WORDS, lengths.sum()).astype(np.int32),
        offsets=offsets_of(lengths),
        labels=generator.integers(0, NUM_LABELS, num_rows),
        weights=np.maximum(generator.normal(1, 1, num_rows), 0).astype(np.float32) if with_weights else None,
    )


def batches_of(
    blocks: Iterable[Bags],
    *,
    batch_size: int = 16,
    block_size: int = 7,
    seed: int = 1,
    shuffle: bool = True,
    num_threads: int = 2,
) -> list[PackedBatch]:
    """The batches of a corpus."""
    return list(
        prepare_batches(
            runs_of(blocks, 1, seed=seed, shuffle=shuffle),
            batch_size=batch_size,
            block_size=block_size,
            num_threads=num_threads,
        )
    )
