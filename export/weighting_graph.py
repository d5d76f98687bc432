"""What the features of texts count, in operators of `model.onnx`: weighting and normalization.

Of many texts the ids are sorted, so that a feature's occurrences stand beside each other. The first of them
has what all count together, and the others count nothing. In one short text they are counted in a table of
all features, and each occurrence counts its share.
"""

import numpy as np
import numpy.typing as npt
from onnx import TensorProto

from export.graph import Graph
from export.sums import Weighted, WeightTable
from serving.features.specification import FeatureSpec
from serving.features.tables import Tables

TINY = np.float64(1e-100)
"""Less than any root of a sum of squares, and no divisor that makes a number infinite."""
COUNT_DTYPE = np.uint8
"""Of the table of counts: the smaller, the faster."""
MAX_COUNT = np.iinfo(COUNT_DTYPE).max
"""Of a feature in one short text."""


def add_sums_of_one(graph: Graph, ids: str, table: WeightTable, tables: Tables, most: int) -> str:
    """The sums of the rows of A that one text's features name, times what these count: double [1, K].

    ids: int64 [M], V among them, and at least one that is not.
    most: how often a feature may occur, `MAX_COUNT` at most.
    """
    is_known = graph.add("Less", ids, graph.constant(tables.none))
    known = graph.add("Compress", ids, is_known, axis=0)  # [k]
    rows = table.add_rows(graph, known)  # [k, K]
    if not tables.spec.is_weighted:
        return graph.add("ReduceSum", rows, graph.constant([0]), keepdims=1)

    counts = _add_counts_of_one(graph, known, tables)
    number = np.arange(1, most + 1)
    weighed = np.append(0, _weighed(number.astype(np.float64), tables.spec) / number)
    values = graph.take(graph.constant(weighed), counts)  # [k]
    if not tables.has_scales:
        return graph.add("MatMul", graph.add("Unsqueeze", values, graph.constant([0])), rows)
    shape = graph.add("Concat", graph.constant([tables.num_groups]), graph.add("Shape", known), axis=0)
    groups = graph.add("Expand", known, shape)
    scales = graph.add("GatherElements", "scales", groups, axis=1)
    values = graph.add("Mul", scales, values)  # [G, k]
    sums = graph.add("MatMul", values, rows)  # [G, K]
    if tables.spec.normalize == "l2":
        # Where c occurrences count v together, each counts v / c; c squares of v / c * sqrt(c) are v * v.
        root = graph.take(graph.constant(np.sqrt(np.arange(most + 1.0))), counts)
        length = graph.add("ReduceL2", graph.add("Mul", values, root), graph.constant([1]), keepdims=1)
        sums = graph.add("Div", sums, graph.add("Max", length, graph.constant(TINY)))
    if tables.num_groups == 1:
        return sums
    return graph.add("ReduceSum", sums, graph.constant([0]), keepdims=1)


def _add_counts_of_one(graph: Graph, ids: str, tables: Tables) -> str:
    """How often each of the ids occurs among them: int64 [k]."""
    zeros = graph.constant(np.zeros(tables.none + 1, COUNT_DTYPE))
    one = graph.constant(COUNT_DTYPE(1))
    ones = graph.add("Expand", one, graph.add("Shape", ids))
    counts = graph.add("ScatterElements", zeros, ids, ones, axis=0, reduction="add")
    return graph.add("Cast", graph.take(counts, ids), to=TensorProto.INT64)


def _weighed(counts: npt.NDArray[np.float64], spec: FeatureSpec) -> npt.NDArray[np.float64]:
    """What a feature that occurs so often counts, without its idf."""
    match spec.weighting:
        case "count":
            return counts
        case "binary":
            return np.minimum(counts, 1)
        case "log" | "tfidf":
            return 1 + np.log(counts)


def add_weights(graph: Graph, ids: str, tables: Tables) -> Weighted:
    """The ids in ascending order, int64 [c, k], and what each of them counts.

    ids: [c, M], V in places without a feature; k is the most features that one of the texts has.
    """
    is_known = graph.add("Less", ids, graph.constant(tables.none))
    numbers = graph.add("ReduceSum", graph.add("Cast", is_known, to=TensorProto.INT64), graph.constant([1]))
    most = graph.add("Max", graph.add("ReduceMax", numbers, keepdims=0), graph.constant([1]))
    graph.add("TopK", ids, most, axis=1, largest=0, sorted=1, output=["sorted_ids", "sorted_places"])
    values = _add_counts(graph, "sorted_ids", tables.spec)  # [c, k]
    if not tables.has_scales:
        alone = graph.add("Unsqueeze", values, graph.constant([1]))
        return Weighted(ids="sorted_ids", values=alone, num_groups=1)
    scaled = graph.add("Mul", graph.add("Gather", "scales", "sorted_ids", axis=1), values)  # [G, c, k]
    values = graph.add("Transpose", scaled, perm=[1, 0, 2])
    norms = None
    if tables.spec.normalize == "l2":
        # What belongs to no group is 0, and so are the sums of a group without features.
        length = graph.add("ReduceL2", values, graph.constant([2]), keepdims=1)
        norms = graph.add("Max", length, graph.constant(TINY))
    return Weighted(ids="sorted_ids", values=values, num_groups=tables.num_groups, norms=norms)


def _add_counts(graph: Graph, ids: str, spec: FeatureSpec) -> str:
    """What the first of equal neighbours in a row counts, without its idf; 0 for others: double [c, k]."""
    shape = graph.add("Shape", ids)
    before = graph.add("Pad", ids, graph.constant([0, 1, 0, -1]), graph.constant(-1))
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
