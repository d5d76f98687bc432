"""What text models do with the features of many texts: a Loop takes chunks, and sums their weights.

Chunks are so small that neither the padded ids nor the rows of A that are gathered for them pass a limit,
however long one text of a batch is: a very long one has a chunk of its own, and its rows are taken in blocks.
"""

from dataclasses import dataclass

import numpy as np
from onnx import TensorProto

from export.graph import Graph, value

MEMORY_LIMIT = 64 << 20
"""Bytes that a chunk's gathered rows of A may take, in float32 and float64 together."""
BYTES_PER_WEIGHT = 12
"""A gathered weight in float32 and in float64."""
CACHE_CELLS = 19_200
"""Texts times labels of a chunk: larger ones fall out of the processor's cache (at 2 to 150 labels)."""
MAX_CHUNK = 256
"""Texts that are taken at once, at most."""
MAX_WIDTH = 255
"""Tokens of a text in a full chunk, at most."""
MAX_BLOCK = 1 << 16
"""Ids that are gathered at once, at most: with few labels the memory would allow millions, and then no text
of the parity ladder would be long enough to come to the blocks."""
ROW_ENDS = 4
"""Places that a text takes beyond one for each of its code points, where features are n-grams."""
SHORT_TEXT = 200
"""Bytes that a text in a full chunk may have at least, where features are n-grams."""


def at_most_bytes(limit: int) -> str:
    """Matches a text of at most `limit` UTF-8 bytes; RE2 repeats at most 1,000 times, so in steps of that."""
    steps, rest = divmod(limit, 1000)
    return "\\C{0,1000}" * steps + f"\\C{{0,{rest}}}"


@dataclass(frozen=True, kw_only=True)
class Chunking:
    """How many texts are taken at once, for K labels."""

    size: int
    """Texts of a full chunk."""
    short_bytes: int
    """Bytes that each of them may have."""
    medium_size: int
    """Texts of a chunk of longer ones, eight times as many bytes each."""
    block: int
    """Ids whose rows are gathered at once where one text passes all limits."""

    @property
    def medium_bytes(self) -> int:
        """Bytes that a text of a medium chunk may have."""
        return 8 * self.short_bytes

    @property
    def width(self) -> int:
        """Tokens that a text of a full chunk may have: w of them take 2w - 1 bytes at least."""
        return self.short_bytes // 2

    @classmethod
    def of_tokens(cls, num_labels: int) -> "Chunking":
        """The largest chunks that keep within the limits, where features are tokens."""
        cells = max(1, MEMORY_LIMIT // (BYTES_PER_WEIGHT * num_labels))  # a full chunk's are below MAX_BLOCK
        size = min(MAX_CHUNK, max(1, CACHE_CELLS // num_labels))
        width = max(1, min(MAX_WIDTH, cells // size))
        return cls._of(size, 2 * width, cells)

    @classmethod
    def of_ngrams(cls, num_labels: int, ids_per_byte: int) -> "Chunking":
        """The same where each byte of a text, and each of `ROW_ENDS`, may have so many features."""
        cells = min(MAX_BLOCK, max(1, MEMORY_LIMIT // (BYTES_PER_WEIGHT * num_labels)))
        size = min(MAX_CHUNK, max(1, cells // (ids_per_byte * (SHORT_TEXT + ROW_ENDS))))
        return cls._of(size, max(1, cells // (ids_per_byte * size) - ROW_ENDS), cells)

    @classmethod
    def _of(cls, size: int, short_bytes: int, cells: int) -> "Chunking":
        medium_size = max(1, size // 8)
        return cls(size=size, short_bytes=short_bytes, medium_size=medium_size, block=min(MAX_BLOCK, cells))


def matches_all(graph: Graph, texts: str, pattern: str) -> str:
    """Whether every one of one or more texts matches: bool [1]."""
    return graph.add("ReduceMin", graph.add("RegexFullMatch", texts, pattern=pattern), keepdims=1)


def matches_all_and(graph: Graph, texts: str, pattern: str, condition: str) -> str:
    """Whether every one of any number of texts matches, and a condition, bool [1], holds: bool [1]."""
    # With the condition there is always one to take the least of.
    matches = graph.add("Concat", graph.add("RegexFullMatch", texts, pattern=pattern), condition, axis=0)
    return graph.add("ReduceMin", matches, keepdims=1)


def add_chunks_by_length(graph: Graph, chunking: Chunking) -> None:
    """`num_texts`, int64 [1], and `chunks`, int64 [m, s]: the places of the texts, a chunk a row.

    The chunks are as large as the longest text allows, and there are none of no texts. In the places that are
    left over the last text stands again.
    """
    graph.add("Shape", "text", output="num_texts")
    one, several = Graph("one/"), Graph("several/")
    one.add("Identity", one.constant([[0]]), output="one/chunks")
    _add_several_chunks(several, chunking)
    graph.add_if(
        graph.add("Equal", "num_texts", graph.constant([1])),
        then=one,
        otherwise=several,
        outputs={"chunks": (TensorProto.INT64, ["m", "s"])},
    )


def _add_several_chunks(graph: Graph, chunking: Chunking) -> None:
    """The same for any number of texts."""
    one = graph.constant([1])
    yes = graph.constant([True])
    short = matches_all_and(graph, "text", at_most_bytes(chunking.short_bytes), yes)
    medium = matches_all_and(graph, "text", at_most_bytes(chunking.medium_bytes), yes)
    longer = graph.add("Where", medium, graph.constant([chunking.medium_size]), one)
    most = graph.add("Where", short, graph.constant([chunking.size]), longer)
    number = _quotient(graph, "num_texts", most)
    # The chunks are of one size, so that no more places are left over than there are chunks.
    size = _quotient(graph, "num_texts", graph.add("Max", number, one))
    end = graph.add("Squeeze", graph.add("Mul", number, size))
    places = graph.add("Range", graph.constant(0), end, graph.constant(1))
    within = graph.add("Min", places, graph.add("Sub", "num_texts", one))
    shape = graph.add("Concat", number, size, axis=0)
    graph.add("Reshape", within, shape, allowzero=1, output=f"{graph.prefix}chunks")


def _quotient(graph: Graph, dividend: str, divisor: str) -> str:
    """Rounded up."""
    rest = graph.add("Sub", divisor, graph.constant([1]))
    return graph.add("Div", graph.add("Add", dividend, rest), divisor)


def add_loop(graph: Graph, body: Graph, num_labels: int) -> None:
    """`log_probs`, float32 [N, K], by a body for a chunk, which `add_log_probs` ended."""
    chunks = graph.add(
        "Loop",
        graph.add("Shape", f"{graph.prefix}chunks", end=1),
        "",
        body=body.build(
            inputs=[value("chunk/index", TensorProto.INT64, []), value("chunk/go", TensorProto.BOOL, [])],
            outputs=[
                value("chunk/go_on", TensorProto.BOOL, []),
                value("chunk/log_probs", TensorProto.FLOAT, ["s", num_labels]),
            ],
        ),
    )  # [m, s, K]
    rows = graph.add("Reshape", chunks, graph.constant([-1, num_labels]))
    graph.add("Slice", rows, graph.constant([0]), "num_texts", output=f"{graph.prefix}log_probs")


def chunk_body() -> Graph:
    """The body of the Loop over chunks: within it `chunk/index` is the number of the chunk."""
    return Graph("chunk/")


def add_chunk_texts(graph: Graph, chunks: str) -> str:
    """The texts of the chunk: string [s], s > 0."""
    return graph.add("Gather", "text", graph.add("Gather", chunks, "chunk/index"))


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


def add_log_probs(body: Graph, features: Weighted, chunking: Chunking, num_labels: int) -> None:
    """Ends the body with the log-probabilities of its c texts, [c, K].

    Where c * T is more than a block, c is 1.
    """
    at_once = Graph("at_once/")
    add_weighted_sum(at_once, features.ids, features.values, "at_once/sums")
    in_blocks = Graph("in_blocks/")
    _sum_in_blocks(in_blocks, features, chunking.block, num_labels)
    (sums,) = body.add_if(
        body.add("LessOrEqual", body.add("Size", features.ids), body.constant(chunking.block)),
        then=at_once,
        otherwise=in_blocks,
        outputs={"sums": (TensorProto.DOUBLE, ["c", *features.shape_of_sums(num_labels)])},
    )
    if features.norms is not None:
        sums = body.add("Div", sums, features.norms)
    if features.num_groups:
        sums = body.add("ReduceSum", sums, body.constant([1]), keepdims=0)
    add_log_softmax(body, sums, "chunk/log_probs")
    body.add("Identity", "chunk/go", output="chunk/go_on")


def _sum_in_blocks(graph: Graph, features: Weighted, block: int, num_labels: int) -> None:
    """The sums of the rows of one text, ids [1, T], in a Loop over blocks of its ids: [1, K] or [1, G, K]."""
    shape = [1, *features.shape_of_sums(num_labels)]
    num_ids = graph.add("Size", features.ids)
    num_blocks = graph.add("Div", graph.add("Add", num_ids, graph.constant(block - 1)), graph.constant(block))
    body = Graph("block/")
    start = body.add("Reshape", body.add("Mul", "block/index", body.constant(block)), body.constant([1]))
    end = body.add("Add", start, body.constant([block]))
    last = body.constant([-1])
    ids = body.add("Slice", features.ids, start, end, last)
    values = features.values and body.add("Slice", features.values, start, end, last)
    add_weighted_sum(body, ids, values, "block/own")
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


def add_weighted_sum(graph: Graph, ids: str, values: str | None, output: str) -> None:
    """The rows of A that the ids name, times their values, summed in float64: [c, K] or [c, G, K]."""
    rows = graph.add("Cast", graph.add("Gather", "weight", ids), to=TensorProto.DOUBLE)  # [c, T, K]
    if values is None:
        graph.add("ReduceSum", rows, graph.constant([1]), keepdims=0, output=output)
    else:
        graph.add("MatMul", values, rows, output=output)


def add_log_softmax(graph: Graph, sums: str, output: str) -> None:
    """log softmax(sums + b), float32 [n, K], of float64 sums.

    The largest logit is taken off in float64; what is left loses no more than its last bit in float32,
    whose exponentials are several times as fast.
    """
    logits = graph.add("Add", sums, "bias")
    largest = graph.add("ReduceMax", logits, graph.constant([1]), keepdims=1)
    shifted = graph.add("Cast", graph.add("Sub", logits, largest), to=TensorProto.FLOAT)
    graph.add("LogSoftmax", shifted, axis=1, output=output)
