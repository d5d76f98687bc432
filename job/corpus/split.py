"""Which rows train and which validate, where no validation data is given."""

import numpy as np
import numpy.typing as npt


def stratified_split(labels: npt.NDArray[np.int32], share: float, *, seed: int) -> npt.NDArray[np.bool_]:
    """Which rows are to validate on, [N]: `share` of every label's rows.

    The rows are drawn by the seed alone. A label keeps at least one row to train on.
    """
    generator = np.random.Generator(np.random.PCG64(seed))
    order = np.lexsort((generator.random(len(labels)), labels))
    counts = np.bincount(labels)
    first = np.repeat(np.cumsum(counts) - counts, counts)
    rank = np.arange(len(labels)) - first
    held_out_of = np.minimum(np.rint(counts * share), np.maximum(counts - 1, 0))
    held_out = np.zeros(len(labels), dtype=bool)
    held_out[order] = rank < np.repeat(held_out_of, counts)
    return held_out
