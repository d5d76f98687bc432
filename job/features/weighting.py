"""What the features of rows count, by the specification: many rows at a time."""

from collections.abc import Iterable
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from job.corpus.bags import Bags, offsets_of
from serving.features.specification import FeatureSpec

Float32 = npt.NDArray[np.float32]


def weighted(bags: Bags, spec: FeatureSpec, *, first_char: int, idf: Float32 | None) -> Bags:
    """The same rows with each id once, in ascending order, and what it counts.

    first_char: the first id of a character n-gram. idf: of every feature, [V]; needed for `tfidf` alone.
    """
    bags, counts = distinct(bags)
    values = counts.astype(np.float64)
    match spec.weighting:
        case "count":
            pass
        case "binary":
            values[:] = 1
        case "log" | "tfidf":
            values = 1 + np.log(values)
    if spec.weighting == "tfidf":
        assert idf is not None
        values *= idf[bags.ids]
    if spec.normalize == "l2":
        group = np.repeat(np.arange(0, 2 * bags.num_rows, 2), np.diff(bags.offsets)) + (
            bags.ids >= first_char
        )
        values /= np.sqrt(np.bincount(group, np.square(values)))[group]
    return replace(bags, values=values.astype(np.float32))


def distinct(bags: Bags) -> tuple[Bags, npt.NDArray[np.int64]]:
    """The same rows with each id once, in ascending order, and how often it stood there."""
    row_of_id = np.repeat(np.arange(bags.num_rows, dtype=np.int64), np.diff(bags.offsets))
    keys = np.sort(row_of_id << 32 | bags.ids)
    is_first = np.ones(len(keys), dtype=bool)
    np.not_equal(keys[1:], keys[:-1], out=is_first[1:])
    starts = np.flatnonzero(is_first)
    counts = np.diff(np.append(starts, len(keys)))
    distinct_keys = keys[starts]
    lengths = np.bincount(distinct_keys >> 32, minlength=bags.num_rows)
    ids = (distinct_keys & 0xFFFFFFFF).astype(np.int32)
    return replace(bags, ids=ids, offsets=offsets_of(lengths)), counts


def inverse_document_frequencies(rows: Iterable[Bags], num_features: int) -> Float32:
    """ln((1 + N) / (1 + n)) + 1 for each feature, where n of the N rows have it: [V]."""
    num_rows, having = 0, np.zeros(num_features, np.int64)
    for block in rows:
        num_rows += block.num_rows
        having += np.bincount(distinct(block)[0].ids, minlength=num_features)
    idf: Float32 = (np.log((1 + num_rows) / (1 + having)) + 1).astype(np.float32)
    return idf
