"""What the features of a text count, by the specification: the reference's way, one text after the other."""

import numpy as np
import numpy.typing as npt

from serving.features.specification import FeatureSpec

Float64 = npt.NDArray[np.float64]


def weigh(counts: Float64, is_char: npt.NDArray[np.bool_], idf: Float64 | None, spec: FeatureSpec) -> Float64:
    """What u features of one text count, [u], that occur so often, [u], once or more.

    is_char: whether each is a character n-gram, [u]. idf: of each, [u]; needed for `tfidf` alone.

    >>> spec = FeatureSpec(weighting="binary", normalize="l2")
    >>> weigh(np.array([1.0, 2, 9]), np.array([False, False, True]), None, spec).round(3).tolist()
    [0.707, 0.707, 1.0]
    """
    match spec.weighting:
        case "count":
            values = counts.copy()
        case "binary":
            values = np.ones_like(counts)
        case "log" | "tfidf":
            values = 1 + np.log(counts)
    if spec.weighting == "tfidf":
        assert idf is not None
        values = values * idf
    if spec.normalize == "l2":
        for own in (is_char, ~is_char):
            if own.any():
                values[own] /= np.sqrt(np.square(values[own]).sum())
    return values
