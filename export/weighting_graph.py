"""What the features of texts count, in operators of `model.onnx`: weighting and normalization.

The ids of a text are sorted, so that a feature's occurrences stand beside each other. The r-th of them (from
0) adds f(r + 1) - f(r) to what the feature counts, and f(r + 1)^2 - f(r)^2 to the square of that, where f(c)
is what c occurrences count and f(0) is 0: nothing is taken together before the rows of A are summed.
"""

import numpy as np
from onnx import TensorProto

from export.graph import Graph
from serving.features import FeatureSpec
from serving.lookup import Tables

TINY = np.float64(1e-200)
"""Less than any sum of squares, and no divisor that makes a number infinite."""


def add_values(graph: Graph, ids: str, tables: Tables, spec: FeatureSpec) -> tuple[str, str]:
    """The ids in ascending order, int32 [c, k], and what each of them counts, float64 [c, k].

    ids: [c, M], V in places without a feature; k is the most features that one of the texts has.
    """
    none = graph.constant(np.int32(tables.none))
    is_known = graph.add("Cast", graph.add("Less", ids, none), to=TensorProto.INT64)
    numbers = graph.add("ReduceSum", is_known, graph.constant([1]), keepdims=0)
    most = graph.add("ReduceMax", graph.add("Concat", numbers, graph.constant([1]), axis=0), keepdims=1)
    graph.add("TopK", ids, most, axis=1, largest=0, sorted=1, output=["sorted_ids", "sorted_places"])
    rank = _add_ranks(graph, "sorted_ids")  # [c, k]
    value, square = _add_steps(graph, rank, spec)
    if spec.weighting == "tfidf":
        idf = graph.add("Cast", graph.add("Gather", "idf", "sorted_ids"), to=TensorProto.DOUBLE)
        value = graph.add("Mul", value, idf)
        square = graph.add("Mul", square, graph.add("Mul", idf, idf))
    if spec.normalize == "l2":
        value = graph.add("Div", value, _add_norms(graph, square, tables))
    return "sorted_ids", value


def _add_ranks(graph: Graph, ids: str) -> str:
    """How many of the same stand before each id in its row, equal ones being neighbours: double [c, k]."""
    shape = graph.add("Shape", ids)
    end = graph.constant([np.iinfo(np.int64).max])
    one, zero, columns = graph.constant([1]), graph.constant([0]), graph.constant([1])
    right = graph.add("Slice", ids, one, end, columns)
    left = graph.add("Slice", ids, zero, graph.constant([-1]), columns)
    is_other = graph.add("Not", graph.add("Equal", right, left))
    # The first of each row begins a run: so runs end where rows do, and can be numbered as if in one row.
    starts = graph.add("Pad", is_other, graph.constant([0, 1, 0, 0]), graph.constant(np.array(True)))
    flat = graph.add("Reshape", starts, graph.constant([-1]))
    run = graph.add("CumSum", graph.add("Cast", flat, to=TensorProto.INT64), graph.constant(0))
    begin = graph.add("Reshape", graph.add("NonZero", flat), graph.constant([-1]))
    place = graph.add("Range", graph.constant(0), graph.add("Size", flat), graph.constant(1))
    rank = graph.add("Sub", place, graph.add("Gather", begin, graph.add("Sub", run, graph.constant(1))))
    return graph.add("Reshape", graph.add("Cast", rank, to=TensorProto.DOUBLE), shape)


def _add_steps(graph: Graph, rank: str, spec: FeatureSpec) -> tuple[str, str]:
    """f(r + 1) - f(r) and f(r + 1)^2 - f(r)^2 of each occurrence, without the idf: double [c, k] both."""
    zero, one, two = (graph.constant(np.float64(number)) for number in (0, 1, 2))
    match spec.weighting:
        case "count":
            step = graph.add("Expand", one, graph.add("Shape", rank))
            return step, graph.add("Add", graph.add("Mul", two, rank), one)
        case "binary":
            step = graph.add("Where", graph.add("Equal", rank, zero), one, zero)
            return step, step
        case "log" | "tfidf":
            after = graph.add("Add", one, graph.add("Log", graph.add("Add", rank, one)))
            before = graph.add("Add", one, graph.add("Log", graph.add("Max", rank, one)))
            before = graph.add("Where", graph.add("Equal", rank, zero), zero, before)
            step = graph.add("Sub", after, before)
            return step, graph.add("Mul", step, graph.add("Add", after, before))


def _add_norms(graph: Graph, square: str, tables: Tables) -> str:
    """What each value is divided by: the root of its row's and group's squares, [c, k] or [c, 1]."""
    zero, tiny = graph.constant(np.float64(0)), graph.constant(TINY)
    none, first_char = (graph.constant(np.int32(number)) for number in (tables.none, tables.first_char))
    own = graph.add("Where", graph.add("Less", "sorted_ids", none), square, zero)
    total = graph.add("ReduceSum", own, graph.constant([1]), keepdims=1)
    if tables.first_char not in (0, tables.none):
        is_token = graph.add("Less", "sorted_ids", first_char)
        of_tokens = graph.add("Where", is_token, own, zero)
        of_tokens = graph.add("ReduceSum", of_tokens, graph.constant([1]), keepdims=1)
        total = graph.add("Where", is_token, of_tokens, graph.add("Sub", total, of_tokens))
    # Where a text has no such feature, what pads its row is divided by it, and has a row of zeros in A.
    return graph.add("Sqrt", graph.add("Max", total, tiny))
