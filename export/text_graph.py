"""`model.onnx`: raw text in, log-probabilities out, in operators of stock onnxruntime builds.

A Loop takes the texts in chunks: their tokens are looked up (LabelEncoder), their rows of A gathered and
summed in float64, and the sums normalized. There are two ways to a chunk's tokens, which give the same:

- the fast one takes a batch of few, short texts whose only whitespace is U+0020, as one chunk: StringSplit is
  three times as fast as Tokenizer but separates at U+0020 alone, so a regular expression looks first;
- the general one takes everything else, in chunks small enough that neither the padded tokens nor their
  gathered rows pass a limit: a text of 100,000 tokens has a chunk of its own, and its rows are gathered in
  blocks.

The lookup stands in the Loop, for both: it is what takes memory, 350 bytes a word, and time to load.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from onnx import AttributeProto, GraphProto, TensorProto

from export.graph import Graph, nodes, value
from export.onnx_file import OnnxFile
from serving.features import WHITESPACE

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
"""Tokens that are gathered at once, at most: with few labels the memory would allow millions, and then no
text of the parity ladder would be long enough to come to the blocks."""


def _character_class(code_points: Sequence[int]) -> str:
    return "".join(f"\\x{{{code_point:X}}}" for code_point in code_points)


SEPARATOR = f"[{_character_class(WHITESPACE)}]"
ONLY_SPACES = f"[^{_character_class([point for point in WHITESPACE if point != 0x20])}]*"
"""Matches a text whose whitespace is U+0020 alone, in RE2's syntax."""


def at_most_bytes(limit: int) -> str:
    """Matches a text of at most `limit` UTF-8 bytes; RE2 repeats at most 1,000 times, so in steps of that."""
    steps, rest = divmod(limit, 1000)
    return "\\C{0,1000}" * steps + f"\\C{{0,{rest}}}"


@dataclass(frozen=True, kw_only=True)
class Chunking:
    """How many texts are taken at once, for K labels."""

    size: int
    """Texts of a full chunk."""
    width: int
    """Tokens that each of them may have."""
    medium_size: int
    """Texts of a chunk of longer ones, eight times as many tokens each."""
    block: int
    """Tokens whose rows are gathered at once where one text passes all limits."""

    @property
    def short_bytes(self) -> int:
        """Bytes that a text of a full chunk may have: w tokens and their separators take 2w - 1 or more."""
        return 2 * self.width

    @property
    def medium_bytes(self) -> int:
        """Bytes that a text of a medium chunk may have."""
        return 8 * self.short_bytes

    @classmethod
    def of(cls, num_labels: int) -> "Chunking":
        """The largest chunks that keep within the limits."""
        cells = max(1, MEMORY_LIMIT // (BYTES_PER_WEIGHT * num_labels))  # a full chunk's are below MAX_BLOCK
        size = min(MAX_CHUNK, max(1, CACHE_CELLS // num_labels))
        width = max(1, min(MAX_WIDTH, cells // size))
        return cls(size=size, width=width, medium_size=max(1, size // 8), block=min(MAX_BLOCK, cells))


def build(
    weight: npt.NDArray[np.float32],
    bias: npt.NDArray[np.float32],
    vocabulary: Sequence[str],
    labels: Sequence[str],
    metadata: Mapping[str, str],
) -> OnnxFile:
    """The text model: input `text` string [N]; outputs `log_probs` float32 [N, K] and `label` string [N].

    weight: A, [K, V]; bias: b, [K]. N may be 0. `label` is the first of the largest log-probabilities.
    """
    num_labels = len(labels)
    chunking = Chunking.of(num_labels)
    main = Graph()
    _add_fast_tokens(main, chunking)
    _add_chunk_size(main, chunking)
    _add_chunks(main, chunking, num_labels)
    main.add("Gather", "labels", main.add("ArgMax", "log_probs", axis=1, keepdims=0), output="label")
    graph = main.build(
        inputs=[value("text", TensorProto.STRING, ["N"])],
        outputs=[
            value("log_probs", TensorProto.FLOAT, ["N", num_labels]),
            value("label", TensorProto.STRING, ["N"]),
        ],
    )
    _fill_lookup(graph, vocabulary)
    return OnnxFile(
        graph=graph,
        arrays={
            # The row after the last word's is zero: unknown words and padding add nothing.
            "weight": [weight.T, np.zeros((1, num_labels), np.float32)],
            "bias": [bias.astype(np.float64)],
        },
        strings={"labels": labels},
        metadata=metadata,
    )


def _fill_lookup(graph: GraphProto, vocabulary: Sequence[str]) -> None:
    """Gives the lookup its words, last of all: graphs are copied while they are put together.

    What the vocabulary lacks, padding too, has the id V.
    """
    (lookup,) = (node for node in nodes(graph) if node.op_type == "LabelEncoder")
    words = [word.encode() for word in vocabulary]
    lookup.attribute.add(name="keys_strings", type=AttributeProto.STRINGS, strings=words)
    lookup.attribute.add(name="values_int64s", type=AttributeProto.INTS, ints=range(len(words)))
    lookup.attribute.add(name="default_int64", type=AttributeProto.INT, i=len(words))


def _if(
    graph: Graph,
    condition: str,
    *,
    then: Graph,
    otherwise: Graph,
    outputs: list[str],
    dtypes: list[int],
    shapes: list[list[int | str]],
) -> None:
    """Adds an If; each branch names its outputs as the branch's prefix and the output."""

    def branch(of: Graph) -> object:
        names = zip(outputs, dtypes, shapes, strict=True)
        return of.build([value(of.prefix + name, dtype, shape) for name, dtype, shape in names])

    graph.add("If", condition, output=outputs, then_branch=branch(then), else_branch=branch(otherwise))


def _all(graph: Graph, texts: str, pattern: str) -> str:
    """Whether every one of one or more texts matches: bool [1]."""
    return graph.add("ReduceMin", graph.add("RegexFullMatch", texts, pattern=pattern), keepdims=1)


def _add_fast_tokens(graph: Graph, chunking: Chunking) -> None:
    """`tokens`, string [N, T], of a batch that the fast way takes, and `is_fast`, bool [1]: if it does."""
    num_texts = graph.add("Size", "text")
    clipped = graph.add("Clip", num_texts, graph.constant(1), graph.constant(chunking.size))
    few = Graph("few/")
    # With a limit on its splits, StringSplit leaves the rest of a longer text whole in one more column.
    tokens = few.add("StringSplit", "text", maxsplit=chunking.width, output=["few/tokens", "few/lengths"])
    narrow = few.add("LessOrEqual", few.add("Shape", tokens, start=1), few.constant([chunking.width]))
    few.add("And", narrow, _all(few, "text", ONLY_SPACES), output="few/is_fast")
    many = Graph("many/")
    many.add("Identity", many.constant(np.empty((0, 0), dtype=object)), output="many/tokens")
    many.add("Identity", many.constant([False]), output="many/is_fast")
    _if(
        graph,
        graph.add("Equal", num_texts, clipped),
        then=few,
        otherwise=many,
        outputs=["tokens", "is_fast"],
        dtypes=[TensorProto.STRING, TensorProto.BOOL],
        shapes=[["n", "t"], [1]],
    )


def _add_chunk_size(graph: Graph, chunking: Chunking) -> None:
    """`size`, int64 [1]: how many texts a chunk takes, which is all of them where the fast way is taken."""
    whole = Graph("whole/")
    whole.add("Shape", "text", output="whole/size")
    cut = Graph("cut/")
    # An empty string is put beside the texts, since a minimum over none is not defined.
    texts = cut.add("Concat", "text", cut.constant(np.array([""], dtype=object)), axis=0)
    short = _all(cut, texts, at_most_bytes(chunking.short_bytes))
    medium = _all(cut, texts, at_most_bytes(chunking.medium_bytes))
    longer = cut.add("Where", medium, cut.constant([chunking.medium_size]), cut.constant([1]))
    most = cut.add("Where", short, cut.constant([chunking.size]), longer)
    cut.add("Max", cut.constant([1]), cut.add("Min", cut.add("Shape", "text"), most), output="cut/size")
    _if(
        graph,
        "is_fast",
        then=whole,
        otherwise=cut,
        outputs=["size"],
        dtypes=[TensorProto.INT64],
        shapes=[[1]],
    )


def _add_chunks(graph: Graph, chunking: Chunking, num_labels: int) -> None:
    """`log_probs`, float32 [N, K], chunk by chunk."""
    num_texts = graph.add("Shape", "text")  # [1]
    last = graph.add("Sub", "size", graph.constant([1]))
    num_chunks = graph.add("Div", graph.add("Add", num_texts, last), "size")
    chunks = graph.add(
        "Loop",
        graph.add("Squeeze", num_chunks),
        "",
        body=_chunk_body(chunking, num_labels).build(
            inputs=[value("chunk/index", TensorProto.INT64, []), value("chunk/go", TensorProto.BOOL, [])],
            outputs=[
                value("chunk/go_on", TensorProto.BOOL, []),
                value("chunk/log_probs", TensorProto.FLOAT, ["c", num_labels]),
            ],
        ),
    )  # [num_chunks, size, K]
    rows = graph.add("Reshape", chunks, graph.constant([-1, num_labels]))
    graph.add("Slice", rows, graph.constant([0]), num_texts, output="log_probs")


def _chunk_body(chunking: Chunking, num_labels: int) -> Graph:
    """One chunk of texts to its log-probabilities [size, K]; rows past the last text are padding."""
    body = Graph("chunk/")
    split = Graph("split/")
    split.add("Identity", "tokens", output="split/chunk_tokens")
    _if(
        body,
        "is_fast",
        then=split,
        otherwise=_tokenized_chunk(),
        outputs=["chunk_tokens"],
        dtypes=[TensorProto.STRING],
        shapes=[["c", "t"]],
    )
    ids = body.add("LabelEncoder", "chunk_tokens", domain="ai.onnx.ml")  # `_fill_lookup` gives it the words

    at_once = Graph("at_once/")
    at_once.add("Identity", _sum_rows(at_once, ids, axis=1), output="at_once/sums")
    in_blocks = Graph("in_blocks/")
    _sum_in_blocks(in_blocks, ids, chunking.block, num_labels)
    _if(
        body,
        body.add("LessOrEqual", body.add("Size", ids), body.constant(chunking.block)),
        then=at_once,
        otherwise=in_blocks,
        outputs=["sums"],
        dtypes=[TensorProto.DOUBLE],
        shapes=[["c", num_labels]],
    )
    log_probs = _normalize(body, "sums")
    missing = body.add("Sub", "size", body.add("Shape", log_probs, end=1))
    zero = body.constant([0])
    body.add(
        "Pad", log_probs, body.add("Concat", zero, zero, missing, zero, axis=0), output="chunk/log_probs"
    )
    body.add("Identity", "chunk/go", output="chunk/go_on")
    return body


def _tokenized_chunk() -> Graph:
    graph = Graph("tokenize/")
    start = graph.add("Mul", graph.add("Reshape", "chunk/index", graph.constant([1])), "size")
    graph.add(
        "Tokenizer",
        graph.add("Slice", "text", start, graph.add("Add", start, "size")),
        domain="com.microsoft",
        mark=0,
        mincharnum=1,
        pad_value="",
        separators=[SEPARATOR],
        output="tokenize/chunk_tokens",
    )
    return graph


def _sum_in_blocks(graph: Graph, ids: str, block: int, num_labels: int) -> None:
    """The sums of the rows of one text, ids [1, T], in a Loop over blocks of its tokens: [1, K]."""
    row = graph.add("Reshape", ids, graph.constant([-1]))
    num_tokens = graph.add("Size", ids)
    num_blocks = graph.add(
        "Div", graph.add("Add", num_tokens, graph.constant(block - 1)), graph.constant(block)
    )
    body = Graph("block/")
    start = body.add("Reshape", body.add("Mul", "block/index", body.constant(block)), body.constant([1]))
    part = body.add("Slice", row, start, body.add("Add", start, body.constant([block])))
    body.add(
        "Add",
        "block/sums",
        body.add("Unsqueeze", _sum_rows(body, part, axis=0), body.constant([0])),
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


def _sum_rows(graph: Graph, ids: str, *, axis: int) -> str:
    """The rows of A that the ids name, summed over an axis of the ids in float64."""
    rows = graph.add("Cast", graph.add("Gather", "weight", ids), to=TensorProto.DOUBLE)
    return graph.add("ReduceSum", rows, graph.constant([axis]), keepdims=0)


def _normalize(graph: Graph, sums: str) -> str:
    """log softmax(sums + b), float32 [n, K], of float64 sums.

    The largest logit is taken off in float64; what is left loses no more than its last bit in float32,
    whose exponentials are several times as fast.
    """
    logits = graph.add("Add", sums, "bias")
    largest = graph.add("ReduceMax", logits, graph.constant([1]), keepdims=1)
    shifted = graph.add("Cast", graph.add("Sub", logits, largest), to=TensorProto.FLOAT)
    return graph.add("LogSoftmax", shifted, axis=1)
