"""`model.onnx` where features are the tokens of `str.split()`: looked up as strings (LabelEncoder).

There are two ways to the tokens of some texts, which give the same. StringSplit is three times as fast as
Tokenizer, but separates at U+0020 alone: so a regular expression looks first whether any other whitespace is
there.

And there are two ways through the graph. A few short texts are one chunk, and need no Loop over chunks, which
takes a quarter of one text's time. Each way has a lookup of its own, and that is what takes memory and time
to load: of a large vocabulary there is only one, in the Loop.
"""

from collections.abc import Sequence
from typing import Any

from onnx import AttributeProto, GraphProto, TensorProto

from export.chunks import (
    Chunking,
    add_chunk_texts,
    add_chunks_by_length,
    add_loop,
    chunk_body,
)
from export.graph import Graph, nodes
from export.patterns import at_most_bytes, characters, matches_all, matches_all_and
from export.sums import Weighted, WeightTable, add_log_probs, add_log_softmax, add_weighted_sum
from serving.features.lookup import MAX_SECOND_LOOKUP, WORD_BYTES
from serving.features.specification import WHITESPACE

SEPARATOR = f"[{characters(WHITESPACE)}]"
ONLY_SPACES = f"[^{characters([point for point in WHITESPACE if point != 0x20])}]*"
"""Matches a text whose whitespace is U+0020 alone, in RE2's syntax."""


def has_two_lookups(num_words: Any, num_bytes: Any) -> Any:
    """Whether so many words, of so many bytes in UTF-8 together, have two: for numbers, or arrays of them."""
    return WORD_BYTES * num_words + 2 * num_bytes <= MAX_SECOND_LOOKUP


def add(main: Graph, table: WeightTable, vocabulary: Sequence[str]) -> None:
    """Adds `log_probs`, float32 [N, K], of `text`; `fill_lookups` then gives the lookups their words."""
    chunking = Chunking.of_tokens(table.num_labels)
    if not has_two_lookups(len(vocabulary), sum(len(word.encode()) for word in vocabulary)):
        _add_chunks(main, chunking, table)
        return
    whole, cut = Graph("whole/"), Graph("cut/")
    _add_whole(whole, table)
    _add_chunks(cut, chunking, table)
    main.add_if(
        _is_one_chunk(main, chunking),
        then=whole,
        otherwise=cut,
        outputs={"log_probs": (TensorProto.FLOAT, ["N", table.num_labels])},
    )


def _is_one_chunk(graph: Graph, chunking: Chunking) -> str:
    """Whether there are some texts, so few that no Loop is needed, and all of them short: bool [1]."""
    number = graph.add("Shape", "text")
    clipped = graph.add("Clip", number, graph.constant(1), graph.constant(chunking.whole_size))
    are_some = graph.add("Equal", number, clipped)
    return matches_all_and(graph, "text", at_most_bytes(chunking.short_bytes), are_some)


def _add_whole(graph: Graph, table: WeightTable) -> None:
    """The log-probabilities of all texts, at once."""
    add_weighted_sum(graph, _add_ids(graph, "text"), None, table, f"{graph.prefix}sums")
    add_log_softmax(graph, f"{graph.prefix}sums", f"{graph.prefix}log_probs")


def _add_chunks(graph: Graph, chunking: Chunking, table: WeightTable) -> None:
    """The same in a Loop over chunks."""
    add_chunks_by_length(graph, chunking)
    body = chunk_body()
    ids = _add_ids(body, add_chunk_texts(body, f"{graph.prefix}chunks"))
    add_log_probs(body, Weighted(ids=ids), table, chunking.block)
    add_loop(graph, body, table.num_labels)


def _add_ids(graph: Graph, texts: str) -> str:
    """The ids of the tokens of c texts, c > 0: int64 [c, T], V in all other places."""
    return graph.add("LabelEncoder", add_split_tokens(graph, texts), domain="ai.onnx.ml")


def add_split_tokens(graph: Graph, texts: str) -> str:
    """The tokens of `str.split()` of c texts, c > 0: string [c, T], padded with ""."""
    split, tokenized = Graph(f"{graph.prefix}split/"), Graph(f"{graph.prefix}tokenized/")
    split.add("StringSplit", texts, output=[f"{split.prefix}tokens", f"{split.prefix}lengths"])
    tokenized.tokenize(texts, separator=SEPARATOR, output=f"{tokenized.prefix}tokens")
    (tokens,) = graph.add_if(
        matches_all(graph, texts, ONLY_SPACES),
        then=split,
        otherwise=tokenized,
        outputs={"tokens": (TensorProto.STRING, ["c", "t"])},
    )
    return tokens


def fill_lookups(graph: GraphProto, vocabulary: Sequence[str]) -> None:
    """Gives the lookups their words, last of all: graphs are copied while they are put together.

    What the vocabulary lacks, padding too, has the id V.
    """
    words = [word.encode() for word in vocabulary]
    for node in nodes(graph):
        if node.op_type == "LabelEncoder":
            node.attribute.add(name="keys_strings", type=AttributeProto.STRINGS, strings=words)
            node.attribute.add(name="values_int64s", type=AttributeProto.INTS, ints=range(len(words)))
            node.attribute.add(name="default_int64", type=AttributeProto.INT, i=len(words))
