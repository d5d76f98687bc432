"""How text models take many texts: in chunks, one after the other in a Loop.

Chunks are so small that neither the padded ids nor the rows of A that are gathered for them pass a limit,
however long one text of a batch is: a very long one has a chunk of its own, and its rows are taken in blocks
(`export.sums`).
"""

from dataclasses import dataclass

from onnx import TensorProto

from export.graph import Graph, value
from export.patterns import at_most_bytes, matches_all_and

MEMORY_LIMIT = 64 << 20
"""Bytes that a chunk's gathered rows of A may take, in float32 and float64 together."""
BYTES_PER_WEIGHT = 12
"""A gathered weight in float32 and in float64."""
CACHE_CELLS = 2_400
"""Texts times labels of a chunk, at most: the rows of larger ones, of texts of all lengths that are padded to
the longest, fall out of the processor's cache (at 77 and 150 labels)."""
WHOLE_CELLS = 7_200
"""The same of texts that are taken without a Loop: up to here they are as fast as in several chunks."""
MAX_CHUNK = 256
"""Texts that are taken at once, at most."""
MAX_NGRAM_CHUNK = 16
"""The same where features are n-grams, of which a text has many."""
MAX_WIDTH = 255
"""Tokens of a text in a full chunk, at most."""
MAX_BLOCK = 1 << 16
"""Ids that are gathered at once, at most: with few labels the memory would allow millions, and then no text
of the parity ladder would be long enough to come to the blocks."""
ROW_ENDS = 4
"""Places that a text takes beyond one for each of its code points, where features are n-grams."""
SHORT_TEXT = 200
"""Bytes that a text in a full chunk may have at least, where features are n-grams."""
MAX_SHORT_TEXT = 2 * MAX_WIDTH
"""The same at most: to load a pattern for tens of thousands of bytes takes RE2 seconds."""


@dataclass(frozen=True, kw_only=True)
class Chunking:
    """How many texts are taken at once, for K labels."""

    size: int
    """Texts of a full chunk."""
    whole_size: int
    """Texts that are taken at once where there are no others."""
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
        whole_size = min(MAX_CHUNK, max(1, min(WHOLE_CELLS // num_labels, cells // width)))
        return cls._of(size, whole_size, 2 * width, cells)

    @classmethod
    def of_ngrams(cls, num_labels: int, ids_per_byte: int) -> "Chunking":
        """The same where each byte of a text, and each of `ROW_ENDS`, may have so many features."""
        cells = min(MAX_BLOCK, max(1, MEMORY_LIMIT // (BYTES_PER_WEIGHT * num_labels)))
        size = min(MAX_NGRAM_CHUNK, max(1, cells // (ids_per_byte * (SHORT_TEXT + ROW_ENDS))))
        short_bytes = min(MAX_SHORT_TEXT, max(1, cells // (ids_per_byte * size) - ROW_ENDS))
        return cls._of(size, 1, short_bytes, cells)

    @classmethod
    def _of(cls, size: int, whole_size: int, short_bytes: int, cells: int) -> "Chunking":
        return cls(
            size=size,
            whole_size=whole_size,
            short_bytes=short_bytes,
            medium_size=max(1, size // 8),
            block=min(MAX_BLOCK, cells),
        )


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
    most = _add_chunk_size(graph, chunking)
    number = _quotient(graph, "num_texts", most)
    # The chunks are of one size, so that no more places are left over than there are chunks.
    size = _quotient(graph, "num_texts", graph.add("Max", number, one))
    end = graph.add("Squeeze", graph.add("Mul", number, size))
    places = graph.add("Range", graph.constant(0), end, graph.constant(1))
    within = graph.add("Min", places, graph.add("Sub", "num_texts", one))
    shape = graph.add("Concat", number, size, axis=0)
    graph.add("Reshape", within, shape, allowzero=1, output=f"{graph.prefix}chunks")


def _add_chunk_size(graph: Graph, chunking: Chunking) -> str:
    """How many texts a chunk may have, by the longest of them all: int64 [1]."""
    short, longer = Graph(f"{graph.prefix}short/"), Graph(f"{graph.prefix}longer/")
    short.add("Identity", short.constant([chunking.size]), output=f"{short.prefix}size")
    yes = graph.constant([True])
    is_medium = matches_all_and(longer, "text", at_most_bytes(chunking.medium_bytes), yes)
    medium, one = longer.constant([chunking.medium_size]), longer.constant([1])
    longer.add("Where", is_medium, medium, one, output=f"{longer.prefix}size")
    (size,) = graph.add_if(
        matches_all_and(graph, "text", at_most_bytes(chunking.short_bytes), yes),
        then=short,
        otherwise=longer,
        outputs={"size": (TensorProto.INT64, [1])},
    )
    return size


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
