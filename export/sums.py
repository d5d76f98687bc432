"""What text models do with the features of texts: they sum their weights, and normalize the sums."""

from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from export.graph import Graph, value

MAX_CONVERTED = 16 << 20
"""Bytes, in float32, of a table that is held in float64, in which it takes twice as many of memory."""


@dataclass(frozen=True, kw_only=True)
class WeightTable:
    """A, transposed: a row for each feature, and one of zeros after the last."""

    num_labels: int
    """K."""
    is_converted: bool
    """Whether it is held in float64."""

    @classmethod
    def add(cls, main: Graph, num_features: int, num_labels: int) -> "WeightTable":
        """The table of a graph whose initializer `weight` is float32 [V + 1, K].

        A small one is converted as a whole: what depends on nothing but the file onnxruntime computes once,
        when it loads it, unless its optimizations are switched off. The file stays as small as it is.
        """
        is_converted = 4 * (num_features + 1) * num_labels <= MAX_CONVERTED
        if is_converted:
            main.add("Cast", "weight", to=TensorProto.DOUBLE, output="weight/double")
        return cls(num_labels=num_labels, is_converted=is_converted)

    def add_rows(self, graph: Graph, ids: str) -> str:
        """The rows that ids name, int64 [...]: double [..., K]."""
        if self.is_converted:
            return graph.add("Gather", "weight/double", ids)
        return graph.add("Cast", graph.add("Gather", "weight", ids), to=TensorProto.DOUBLE)


@dataclass(frozen=True, kw_only=True)
class Weighted:
    """The features of c texts, and what each counts."""

    ids: str
    """[c, T]: V in places without a feature."""
    values: str | None = None
    """What each of them counts in each of G groups: float64 [c, G, T]; None where each counts once."""
    num_groups: int = 0
    """G."""
    norms: str | None = None
    """What the sums of each group are divided by: float64 [c, G, 1]; None for nothing."""

    def shape_of_sums(self, num_labels: int) -> list[int]:
        """That of one text's sums: [K], or [G, K]."""
        return [self.num_groups, num_labels] if self.num_groups else [num_labels]


def add_log_probs(body: Graph, features: Weighted, table: WeightTable, block: int) -> None:
    """Ends the body with the log-probabilities of its c texts, [c, K].

    block: ids whose rows are gathered at once; where c * T is more, c is 1.
    """
    at_once = Graph("at_once/")
    add_weighted_sum(at_once, features.ids, features.values, table, "at_once/sums")
    in_blocks = Graph("in_blocks/")
    _sum_in_blocks(in_blocks, features, table, block)
    (sums,) = body.add_if(
        body.add("LessOrEqual", body.add("Size", features.ids), body.constant(block)),
        then=at_once,
        otherwise=in_blocks,
        outputs={"sums": (TensorProto.DOUBLE, ["c", *features.shape_of_sums(table.num_labels)])},
    )
    if features.norms is not None:
        sums = body.add("Div", sums, features.norms)
    if features.num_groups:
        sums = body.add("ReduceSum", sums, body.constant([1]), keepdims=0)
    add_log_softmax(body, sums, "chunk/log_probs")
    body.add("Identity", "chunk/go", output="chunk/go_on")


def _sum_in_blocks(graph: Graph, features: Weighted, table: WeightTable, block: int) -> None:
    """The sums of the rows of one text, ids [1, T], in a Loop over blocks of its ids: [1, K] or [1, G, K]."""
    shape = [1, *features.shape_of_sums(table.num_labels)]
    num_ids = graph.add("Size", features.ids)
    num_blocks = graph.add("Div", graph.add("Add", num_ids, graph.constant(block - 1)), graph.constant(block))
    body = Graph("block/")
    start = body.add("Reshape", body.add("Mul", "block/index", body.constant(block)), body.constant([1]))
    end = body.add("Add", start, body.constant([block]))
    last = body.constant([-1])
    ids = body.add("Slice", features.ids, start, end, last)
    values = features.values and body.add("Slice", features.values, start, end, last)
    add_weighted_sum(body, ids, values, table, "block/own")
    body.add("Add", "block/sums", "block/own", output="block/sums_out")
    body.add("Identity", "block/go", output="block/go_on")
    graph.add(
        "Loop",
        num_blocks,
        "",
        graph.constant(np.zeros(shape)),
        output="in_blocks/sums",
        body=body.build(
            inputs=[
                value("block/index", TensorProto.INT64, []),
                value("block/go", TensorProto.BOOL, []),
                value("block/sums", TensorProto.DOUBLE, shape),
            ],
            outputs=[
                value("block/go_on", TensorProto.BOOL, []),
                value("block/sums_out", TensorProto.DOUBLE, shape),
            ],
        ),
    )


def add_weighted_sum(graph: Graph, ids: str, values: str | None, table: WeightTable, output: str) -> None:
    """The rows of A that the ids name, times their values, summed in float64: [c, K] or [c, G, K]."""
    if values is None:
        # Across all texts sums take less time than text by text: 3 to 7 % of a batch's.
        rows = table.add_rows(graph, graph.add("Transpose", ids))  # [T, c, K]
        graph.add("ReduceSum", rows, graph.constant([0]), keepdims=0, output=output)
    else:
        graph.add("MatMul", values, table.add_rows(graph, ids), output=output)


def add_log_softmax(graph: Graph, sums: str, output: str) -> None:
    """log softmax(sums + b), float32 [n, K], of float64 sums.

    The largest logit is taken off in float64; what is left loses no more than its last bit in float32,
    whose exponentials are several times as fast.
    """
    logits = graph.add("Add", sums, "bias")
    largest = graph.add("ReduceMax", logits, graph.constant([1]), keepdims=1)
    shifted = graph.add("Cast", graph.add("Sub", logits, largest), to=TensorProto.FLOAT)
    graph.add("LogSoftmax", shifted, axis=1, output=output)
