"""What the features of texts count, in operators of `model.onnx`: weighting and normalization.

The ids of a text are sorted, so that a feature's occurrences stand beside each other. The first of them has
what all count together, and the others count nothing.
"""

import numpy as np
from onnx import TensorProto

from export.chunks import Weighted
from export.graph import Graph
from serving.features.lookup import Tables
from serving.features.specification import FeatureSpec

TINY = np.float64(1e-100)
"""Less than any root of a sum of squares, and no divisor that makes a number infinite."""


def add_weights(graph: Graph, ids: str, tables: Tables, spec: FeatureSpec) -> Weighted:
    """The ids in ascending order, int32 [c, k], and what each of them counts.

    ids: [c, M], V in places without a feature; k is the most features that one of the texts has.
    """
    is_known = graph.add("Less", ids, graph.constant(np.int32(tables.none)))
    numbers = graph.add("ReduceSum", graph.add("Cast", is_known, to=TensorProto.INT64), graph.constant([1]))
    most = graph.add("Max", graph.add("ReduceMax", numbers, keepdims=0), graph.constant([1]))
    graph.add("TopK", ids, most, axis=1, largest=0, sorted=1, output=["sorted_ids", "sorted_places"])
    values = _add_counts(graph, "sorted_ids", spec)  # [c, k]
    if not tables.has_scales:
        alone = graph.add("Unsqueeze", values, graph.constant([1]))
        return Weighted(ids="sorted_ids", values=alone, num_groups=1)
    scaled = graph.add("Mul", graph.add("Gather", "scales", "sorted_ids", axis=1), values)  # [G, c, k]
    values = graph.add("Transpose", scaled, perm=[1, 0, 2])
    norms = None
    if spec.normalize == "l2":
        # What belongs to no group is 0, and so are the sums of a group without features.
        length = graph.add("ReduceL2", values, graph.constant([2]), keepdims=1)
        norms = graph.add("Max", length, graph.constant(TINY))
    return Weighted(ids="sorted_ids", values=values, num_groups=tables.num_groups, norms=norms)


def _add_counts(graph: Graph, ids: str, spec: FeatureSpec) -> str:
    """What the first of equal neighbours in a row counts, without its idf; 0 for others: double [c, k]."""
    shape = graph.add("Shape", ids)
    before = graph.add("Pad", ids, graph.constant([0, 1, 0, -1]), graph.constant(np.int32(-1)))
    # The first of each row begins a run: so runs end where rows do, and stand in one row of all.
    flat = graph.add("Reshape", graph.add("Sub", ids, before), graph.constant([-1]))
    begin = graph.add("Reshape", graph.add("NonZero", flat), graph.constant([-1]))  # [u]
    size = graph.add("Shape", flat)
    end = graph.add(
        "Concat",
        graph.add("Slice", begin, graph.constant([1]), graph.constant([np.iinfo(np.int64).max])),
        size,
        axis=0,
    )
    count = graph.add("Cast", graph.add("Sub", end, begin), to=TensorProto.DOUBLE)
    one = graph.constant(np.float64(1))
    match spec.weighting:
        case "count":
            pass
        case "binary":
            count = graph.add("Min", count, one)
        case "log" | "tfidf":
            count = graph.add("Add", graph.add("Log", count), one)
    zeros = graph.add("Expand", graph.constant(np.float64(0)), size)
    return graph.add("Reshape", graph.add("ScatterElements", zeros, begin, count, axis=0), shape)
