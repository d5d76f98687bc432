"""What every text model does with the features of its texts: a Loop takes chunks, and sums their weights.

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
        """The same where each byte of a text, and each of its two ends, may begin so many features."""
        cells = min(MAX_BLOCK, max(1, MEMORY_LIMIT // (BYTES_PER_WEIGHT * num_labels)))
        size = min(MAX_CHUNK, max(1, cells // (ids_per_byte * (SHORT_TEXT + 2))))
        return cls._of(size, max(1, cells // (ids_per_byte * size) - 2), cells)

    @classmethod
    def _of(cls, size: int, short_bytes: int, cells: int) -> "Chunking":
        medium_size = max(1, size // 8)
        return cls(size=size, short_bytes=short_bytes, medium_size=medium_size, block=min(MAX_BLOCK, cells))


def matches_all(graph: Graph, texts: str, pattern: str) -> str:
    """Whether every one of one or more texts matches: bool [1]."""
    return graph.add("ReduceMin", graph.add("RegexFullMatch", texts, pattern=pattern), keepdims=1)


def add_size_by_length(graph: Graph, chunking: Chunking, output: str) -> None:
    """How many of the texts a chunk takes, by the longest of them: int64 [1]; of one text, one."""
    several, one = Graph(f"{graph.prefix}several/"), Graph(f"{graph.prefix}one/")
    one.add("Identity", one.constant([1]), output=f"{one.prefix}{output}")
    # An empty string is put beside the texts, since a minimum over none is not defined.
    texts = several.add("Concat", "text", several.constant(np.array([""], dtype=object)), axis=0)
    short = matches_all(several, texts, at_most_bytes(chunking.short_bytes))
    medium = matches_all(several, texts, at_most_bytes(chunking.medium_bytes))
    longer = several.add("Where", medium, several.constant([chunking.medium_size]), several.constant([1]))
    most = several.add("Where", short, several.constant([chunking.size]), longer)
    smallest = several.add("Min", several.add("Shape", "text"), most)
    several.add("Max", several.constant([1]), smallest, output=f"{several.prefix}{output}")
    graph.add_if(
        graph.add("Equal", graph.add("Size", "text"), graph.constant(1)),
        then=one,
        otherwise=several,
        outputs={output: (TensorProto.INT64, [1])},
    )


def add_chunks(graph: Graph, body: Graph, num_labels: int) -> None:
    """`log_probs`, float32 [N, K], by a body that `chunk_body` began and `add_log_probs` ended."""
    num_texts = graph.add("Shape", "text")  # [1]
    last = graph.add("Sub", "size", graph.constant([1]))
    num_chunks = graph.add("Div", graph.add("Add", num_texts, last), "size")
    chunks = graph.add(
        "Loop",
        graph.add("Squeeze", num_chunks),
        "",
        body=body.build(
            inputs=[value("chunk/index", TensorProto.INT64, []), value("chunk/go", TensorProto.BOOL, [])],
            outputs=[
                value("chunk/go_on", TensorProto.BOOL, []),
                value("chunk/log_probs", TensorProto.FLOAT, ["c", num_labels]),
            ],
        ),
    )  # [num_chunks, size, K]
    rows = graph.add("Reshape", chunks, graph.constant([-1, num_labels]))
    graph.add("Slice", rows, graph.constant([0]), num_texts, output="log_probs")


def chunk_body() -> Graph:
    """The body of the Loop over chunks: within it `chunk/index` is the number of the chunk."""
    return Graph("chunk/")


def add_chunk_texts(graph: Graph) -> str:
    """The texts of the chunk: string [c], c > 0."""
    start = graph.add("Mul", graph.add("Reshape", "chunk/index", graph.constant([1])), "size")
    return graph.add("Slice", "text", start, graph.add("Add", start, "size"))


def add_log_probs(body: Graph, ids: str, values: str | None, chunking: Chunking, num_labels: int) -> None:
    """Ends the body with the log-probabilities of its c texts, [size, K]; rows past the last are padding.

    ids: [c, T], V in places without a feature. values: what each of them counts, float64 [c, T]; None where
    each counts once. Where c * T is more than a block, c is 1.
    """
    at_once = Graph("at_once/")
    at_once.add("Identity", _weighted_sum(at_once, ids, values, axis=1), output="at_once/sums")
    in_blocks = Graph("in_blocks/")
    _sum_in_blocks(in_blocks, ids, values, chunking.block, num_labels)
    body.add_if(
        body.add("LessOrEqual", body.add("Size", ids), body.constant(chunking.block)),
        then=at_once,
        otherwise=in_blocks,
        outputs={"sums": (TensorProto.DOUBLE, ["c", num_labels])},
    )
    log_probs = _normalize(body, "sums")
    missing = body.add("Sub", "size", body.add("Shape", log_probs, end=1))
    zero = body.constant([0])
    body.add(
        "Pad", log_probs, body.add("Concat", zero, zero, missing, zero, axis=0), output="chunk/log_probs"
    )
    body.add("Identity", "chunk/go", output="chunk/go_on")


def _sum_in_blocks(graph: Graph, ids: str, values: str | None, block: int, num_labels: int) -> None:
    """The sums of the rows of one text, ids [1, T], in a Loop over blocks of its ids: [1, K]."""
    flat = graph.constant([-1])
    row = graph.add("Reshape", ids, flat)
    row_values = None if values is None else graph.add("Reshape", values, flat)
    num_ids = graph.add("Size", ids)
    num_blocks = graph.add("Div", graph.add("Add", num_ids, graph.constant(block - 1)), graph.constant(block))
    body = Graph("block/")
    start = body.add("Reshape", body.add("Mul", "block/index", body.constant(block)), body.constant([1]))
    end = body.add("Add", start, body.constant([block]))
    part = body.add("Slice", row, start, end)
    part_values = None if row_values is None else body.add("Slice", row_values, start, end)
    body.add(
        "Add",
        "block/sums",
        body.add("Unsqueeze", _weighted_sum(body, part, part_values, axis=0), body.constant([0])),
        output="block/sums_out",
    )
    body.add("Identity", "block/go", output="block/go_on")
    graph.add(
        "Loop",
        num_blocks,
        "",
        graph.constant(np.zeros((1, num_labels))),
        output="in_blocks/sums",
        body=body.build(
            inputs=[
                value("block/index", TensorProto.INT64, []),
                value("block/go", TensorProto.BOOL, []),
                value("block/sums", TensorProto.DOUBLE, [1, num_labels]),
            ],
            outputs=[
                value("block/go_on", TensorProto.BOOL, []),
                value("block/sums_out", TensorProto.DOUBLE, [1, num_labels]),
            ],
        ),
    )


def _weighted_sum(graph: Graph, ids: str, values: str | None, *, axis: int) -> str:
    """The rows of A that the ids name, times their values, summed over an axis of the ids in float64."""
    rows = graph.add("Cast", graph.add("Gather", "weight", ids), to=TensorProto.DOUBLE)
    if values is None:
        return graph.add("ReduceSum", rows, graph.constant([axis]), keepdims=0)
    weights = graph.add("Unsqueeze", values, graph.constant([axis]))
    return graph.add("Squeeze", graph.add("MatMul", weights, rows), graph.constant([axis]))


def _normalize(graph: Graph, sums: str) -> str:
    """log softmax(sums + b), float32 [n, K], of float64 sums.

    The largest logit is taken off in float64; what is left loses no more than its last bit in float32,
    whose exponentials are several times as fast.
    """
    logits = graph.add("Add", sums, "bias")
    largest = graph.add("ReduceMax", logits, graph.constant([1]), keepdims=1)
    shifted = graph.add("Cast", graph.add("Sub", logits, largest), to=TensorProto.FLOAT)
    return graph.add("LogSoftmax", shifted, axis=1)
