"""The features of texts in `model.onnx` where they are more than the tokens of `str.split()`.

Texts are taken as the codes of their code points (`export.code_graph`), and these as one row of numbers, in
which boundaries keep texts and tokens apart. What follows is arithmetic and lookups of whole numbers (see
`serving.features.tables`), the same in every runtime.

There are two ways through the graph, which give the same. One short text, alone, needs neither the Loop over
chunks nor rows of one length, which take half of its time, and most such texts need not be looked at code
point by code point (`export.spelling_graph`). Each way has lookups of its own, and they are what takes memory
and time to load: where they are large there is only the way of the chunks.
"""

from onnx import AttributeProto, GraphProto, TensorProto

from export.chunks import (
    ROW_ENDS,
    SHORT_TEXT,
    Chunking,
    add_chunk_texts,
    add_chunks_by_length,
    add_loop,
    chunk_body,
)
from export.code_graph import add_codes
from export.graph import Graph, nodes
from export.lookup_graph import add_char_ids, add_places, add_tokens, add_word_ids
from export.patterns import at_most_bytes, matches_all_and
from export.spelling_graph import add_ids_of_one
from export.sums import Weighted, WeightTable, add_log_probs, add_log_softmax
from export.vectors import joined, part, put
from export.weighting_graph import add_sums_of_one, add_weights
from serving.features.tables import Tables


def add(main: Graph, table: WeightTable, tables: Tables) -> None:
    """Adds `log_probs`, float32 [N, K], of `text`; `fill_lookups` then gives the lookups their keys."""
    num_kinds = -(-(1 + len(tables.word_levels)) // 2) + len(tables.char_lengths) + len(tables.char_levels)
    chunking = Chunking.of_ngrams(table.num_labels, num_kinds)
    if not tables.has_two_lookups:
        _add_chunks(main, table, tables, chunking)
        return
    alone, cut = Graph("alone/"), Graph("cut/")
    most_bytes = min(SHORT_TEXT, chunking.short_bytes)
    _add_alone(alone, table, tables, most_bytes)
    _add_chunks(cut, table, tables, chunking)
    main.add_if(
        _is_short_and_alone(main, most_bytes),
        then=alone,
        otherwise=cut,
        outputs={"log_probs": (TensorProto.FLOAT, ["N", table.num_labels])},
    )


def _is_short_and_alone(graph: Graph, most_bytes: int) -> str:
    """Whether there is one text, of at most so many bytes: bool [1]."""
    is_one = graph.add("Equal", graph.add("Shape", "text"), graph.constant([1]))
    return matches_all_and(graph, "text", at_most_bytes(most_bytes), is_one)


def _add_alone(graph: Graph, table: WeightTable, tables: Tables, most_bytes: int) -> None:
    """The log-probabilities of one text of at most so many bytes."""
    ids = add_ids_of_one(graph, "text", tables)
    sums = add_sums_of_one(graph, ids, table, tables, most_bytes + ROW_ENDS)
    add_log_softmax(graph, sums, f"{graph.prefix}log_probs")


def _add_chunks(graph: Graph, table: WeightTable, tables: Tables, chunking: Chunking) -> None:
    """Those of any texts, in a Loop over chunks."""
    add_chunks_by_length(graph, chunking)
    body = chunk_body()
    texts = add_chunk_texts(body, f"{graph.prefix}chunks")
    ids = add_feature_ids(body, texts, tables)
    weighted = add_weights(body, ids, tables) if tables.spec.is_weighted else Weighted(ids=ids)
    add_log_probs(body, weighted, table, chunking.block)
    add_loop(graph, body, table.num_labels)


def add_feature_ids(graph: Graph, texts: str, tables: Tables) -> str:
    """The ids of the features in c texts, c > 0: int64 [c, M], in no order, and V in all other places."""
    codes = add_codes(graph, texts, only_words=tables.has_words)  # [c, w]
    flat = graph.add("Reshape", codes, graph.constant([-1]))  # [n]
    places = add_places(graph, flat, tables)
    none = graph.add("Expand", graph.constant(tables.none), graph.add("Shape", flat))
    starts, ends, numbers = add_tokens(graph, flat, places, tables)
    # Those of tokens stand where these start, of pairs where the second one ends, and so on by turns.
    of_words = [
        (part(graph, ends if place % 2 else starts, place), ids)
        for place, ids in enumerate(add_word_ids(graph, numbers, tables))
    ]
    # A token has two places of its own where it has an end; two lengths stand beside each other then.
    step = 1 if tables.tokens is None else 2
    parts = [put(graph, none, of_words[first : first + step]) for first in range(0, len(of_words), step)]
    num_parts = len(parts) + len(tables.char_lengths) + len(tables.char_levels)
    found = joined(graph, [*parts, *add_char_ids(graph, flat, places, tables)])
    shape = graph.add("Concat", graph.constant([num_parts]), graph.add("Shape", codes), axis=0)
    by_text = graph.add("Transpose", graph.add("Reshape", found, shape), perm=[1, 0, 2])
    return graph.add("Reshape", by_text, graph.constant([0, -1]))


def fill_lookups(graph: GraphProto, tables: Tables) -> None:
    """Gives the lookups what they look up, last of all: graphs are copied while they are put together."""
    lookups = tables.lookups()
    for node in nodes(graph):
        if node.op_type == "LabelEncoder":
            lookup = lookups[node.name]
            if node.name in ("codes", "spellings"):
                node.attribute.add(name="keys_strings", type=AttributeProto.STRINGS, strings=lookup.keys)
            else:
                node.attribute.add(name="keys_int64s", type=AttributeProto.INTS, ints=lookup.keys)
            node.attribute.add(name="values_int64s", type=AttributeProto.INTS, ints=lookup.numbers)
            node.attribute.add(name="default_int64", type=AttributeProto.INT, i=lookup.default)
