"""`model.onnx` where features are the tokens of `str.split()`: looked up as strings (LabelEncoder).

There are two ways to a chunk's tokens, which give the same:

- the fast one takes a batch of few, short texts whose only whitespace is U+0020, as one chunk: StringSplit is
  three times as fast as Tokenizer but separates at U+0020 alone, so a regular expression looks first;
- the general one takes everything else, in chunks.

The lookup stands in the Loop, for both: it is what takes memory, 350 bytes a word, and time to load.
"""

from collections.abc import Sequence

import numpy as np
from onnx import AttributeProto, GraphProto, TensorProto

from export.chunks import (
    CHUNKS,
    Chunking,
    Weighted,
    add_chunk_texts,
    add_chunks_by_length,
    add_log_probs,
    add_loop,
    chunk_body,
    matches_all,
)
from export.graph import Graph, nodes
from serving.features.specification import WHITESPACE


def _character_class(code_points: Sequence[int]) -> str:
    return "".join(f"\\x{{{code_point:X}}}" for code_point in code_points)


SEPARATOR = f"[{_character_class(WHITESPACE)}]"
ONLY_SPACES = f"[^{_character_class([point for point in WHITESPACE if point != 0x20])}]*"
"""Matches a text whose whitespace is U+0020 alone, in RE2's syntax."""


def add(main: Graph, num_labels: int) -> None:
    """Adds `log_probs`, float32 [N, K], of `text`; `fill_lookups` then gives the lookup its words."""
    chunking = Chunking.of_tokens(num_labels)
    _add_fast_tokens(main, chunking)
    whole, cut = Graph("whole/"), Graph("cut/")
    whole.add("Identity", whole.constant([[0]]), output="whole/chunks")  # one chunk, and its tokens are there
    whole.add("Identity", whole.constant(np.array([""], dtype=object)), output="whole/all_texts")
    add_chunks_by_length(cut, chunking)
    main.add_if("is_fast", then=whole, otherwise=cut, outputs=CHUNKS)
    body = chunk_body()
    split = Graph("split/")
    split.add("Identity", "tokens", output="split/chunk_tokens")
    (tokens,) = body.add_if(
        "is_fast",
        then=split,
        otherwise=_tokenized_chunk(),
        outputs={"chunk_tokens": (TensorProto.STRING, ["c", "t"])},
    )
    ids = body.add("LabelEncoder", tokens, domain="ai.onnx.ml")
    add_log_probs(body, Weighted(ids=ids), chunking, num_labels)
    add_loop(main, body, num_labels)


def fill_lookups(graph: GraphProto, vocabulary: Sequence[str]) -> None:
    """Gives the lookup its words, last of all: graphs are copied while they are put together.

    What the vocabulary lacks, padding too, has the id V.
    """
    (lookup,) = (node for node in nodes(graph) if node.op_type == "LabelEncoder")
    words = [word.encode() for word in vocabulary]
    lookup.attribute.add(name="keys_strings", type=AttributeProto.STRINGS, strings=words)
    lookup.attribute.add(name="values_int64s", type=AttributeProto.INTS, ints=range(len(words)))
    lookup.attribute.add(name="default_int64", type=AttributeProto.INT, i=len(words))


def _add_fast_tokens(graph: Graph, chunking: Chunking) -> None:
    """`tokens`, string [N, T], of a batch that the fast way takes, and `is_fast`, bool [1]: if it does."""
    num_texts = graph.add("Size", "text")
    clipped = graph.add("Clip", num_texts, graph.constant(1), graph.constant(chunking.size))
    few = Graph("few/")
    # With a limit on its splits, StringSplit leaves the rest of a longer text whole in one more column.
    tokens = few.add("StringSplit", "text", maxsplit=chunking.width, output=["few/tokens", "few/lengths"])
    narrow = few.add("LessOrEqual", few.add("Shape", tokens, start=1), few.constant([chunking.width]))
    few.add("And", narrow, matches_all(few, "text", ONLY_SPACES), output="few/is_fast")
    many = Graph("many/")
    many.add("Identity", many.constant(np.empty((0, 0), dtype=object)), output="many/tokens")
    many.add("Identity", many.constant([False]), output="many/is_fast")
    graph.add_if(
        graph.add("Equal", num_texts, clipped),
        then=few,
        otherwise=many,
        outputs={"tokens": (TensorProto.STRING, ["n", "t"]), "is_fast": (TensorProto.BOOL, [1])},
    )


def _tokenized_chunk() -> Graph:
    graph = Graph("tokenize/")
    graph.add(
        "Tokenizer",
        add_chunk_texts(graph),
        domain="com.microsoft",
        mark=0,
        mincharnum=1,
        pad_value="",
        separators=[SEPARATOR],
        output="tokenize/chunk_tokens",
    )
    return graph
