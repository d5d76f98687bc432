"""The features of texts in `model.onnx` where they are more than the tokens of `str.split()`.

Texts are taken as the codes of their code points (`export.code_graph`), and these as one row of numbers, in
which boundaries keep texts and tokens apart. All steps are arithmetic and lookups of whole numbers (see
`serving.features.lookup`), the same in every runtime.

There are two ways through the graph, which give the same. One short text, alone, needs neither the Loop over
chunks nor rows of one length, which take half of its time. Each way has lookups of its own, and they are what
takes memory and time to load: where they are large there is only the way of the chunks.
"""

from collections.abc import Iterator, Sequence

import numpy as np
from onnx import AttributeProto, GraphProto, TensorProto

from export.chunks import (
    ROW_ENDS,
    SHORT_TEXT,
    Chunking,
    add_chunk_texts,
    add_chunks_by_length,
    add_loop,
    at_most_bytes,
    chunk_body,
    matches_all_and,
)
from export.code_graph import add_codes
from export.graph import Graph, nodes
from export.sums import Weighted, WeightTable, add_log_probs, add_log_softmax
from export.weighting_graph import add_sums_of_one, add_weights
from serving.features.levels import NO_NUMBER
from serving.features.lookup import BOUNDARY, Tables
from serving.features.specification import FeatureSpec


def add(main: Graph, table: WeightTable, tables: Tables, spec: FeatureSpec) -> None:
    """Adds `log_probs`, float32 [N, K], of `text`; `fill_lookups` then gives the lookups their keys."""
    num_kinds = -(-(1 + len(tables.word_levels)) // 2) + len(tables.char_lengths) + len(tables.char_levels)
    chunking = Chunking.of_ngrams(table.num_labels, num_kinds)
    if not tables.has_two_lookups:
        _add_chunks(main, table, tables, spec, chunking)
        return
    alone, cut = Graph("alone/"), Graph("cut/")
    most_bytes = min(SHORT_TEXT, chunking.short_bytes)
    _add_alone(alone, table, tables, spec, most_bytes)
    _add_chunks(cut, table, tables, spec, chunking)
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


def _add_alone(graph: Graph, table: WeightTable, tables: Tables, spec: FeatureSpec, most_bytes: int) -> None:
    """The log-probabilities of one text of at most so many bytes."""
    ids = add_ids_of_one(graph, "text", tables, only_words=spec.tokenizer == "words")
    sums = add_sums_of_one(graph, ids, table, tables, spec, most_bytes + ROW_ENDS)
    add_log_softmax(graph, sums, f"{graph.prefix}log_probs")


def _add_chunks(
    graph: Graph, table: WeightTable, tables: Tables, spec: FeatureSpec, chunking: Chunking
) -> None:
    """Those of any texts, in a Loop over chunks."""
    add_chunks_by_length(graph, chunking)
    body = chunk_body()
    texts = add_chunk_texts(body, f"{graph.prefix}chunks")
    ids = add_feature_ids(body, texts, tables, only_words=spec.tokenizer == "words")
    weighted = add_weights(body, ids, tables, spec) if spec.is_weighted else Weighted(ids=ids)
    add_log_probs(body, weighted, table, chunking.block)
    add_loop(graph, body, table.num_labels)


def add_feature_ids(graph: Graph, texts: str, tables: Tables, *, only_words: bool) -> str:
    """The ids of the features in c texts, c > 0: int64 [c, M], in no order, and V in all other places.

    only_words: whether tokens are words alone, rather than what whitespace separates.
    """
    codes = add_codes(graph, texts, only_words=only_words)  # [c, w]
    flat = graph.add("Reshape", codes, graph.constant([-1]))  # [n]
    places = _places(graph, flat)
    none = graph.add("Expand", graph.constant(tables.none), graph.add("Shape", flat))
    of_words = _add_word_features(graph, flat, places, tables)
    # A token has two places of its own where it has an end; two lengths stand beside each other then.
    together = 1 if tables.tokens is None else 2
    parts = [
        _put(graph, none, of_words[first : first + together]) for first in range(0, len(of_words), together)
    ]
    num_parts = len(parts) + len(tables.char_lengths) + len(tables.char_levels)
    parts += _add_char_features(graph, flat, places, tables)
    found = _joined(graph, parts)
    shape = graph.add("Concat", graph.constant([num_parts]), graph.add("Shape", codes), axis=0)
    by_text = graph.add("Transpose", graph.add("Reshape", found, shape), perm=[1, 0, 2])
    return graph.add("Reshape", by_text, graph.constant([0, -1]))


def add_ids_of_one(graph: Graph, text: str, tables: Tables, *, only_words: bool) -> str:
    """The ids of the features in one text, string [1]: int64 [M], in no order, V among them, and a last -1.

    That names the last row of A, of zeros, as V does: so there is always something to sum.
    """
    codes = add_codes(graph, text, only_words=only_words)  # [1, n]
    flat = graph.add("Reshape", codes, graph.constant([-1]))
    places = _places(graph, flat)
    of_words = [ids for _, ids in _add_word_features(graph, flat, places, tables)]
    return _joined(graph, [*of_words, *_add_char_features(graph, flat, places, tables), graph.constant([-1])])


def fill_lookups(graph: GraphProto, tables: Tables) -> None:
    """Gives the lookups what they look up, last of all: graphs are copied while they are put together."""
    lookups = tables.lookups()
    for node in nodes(graph):
        if node.op_type == "LabelEncoder":
            lookup = lookups[node.name]
            if node.name == "codes":
                node.attribute.add(name="keys_strings", type=AttributeProto.STRINGS, strings=lookup.keys)
            else:
                node.attribute.add(name="keys_int64s", type=AttributeProto.INTS, ints=lookup.keys)
            node.attribute.add(name="values_int64s", type=AttributeProto.INTS, ints=lookup.numbers)
            node.attribute.add(name="default_int64", type=AttributeProto.INT, i=lookup.default)


def _add_word_features(graph: Graph, flat: str, places: str, tables: Tables) -> list[tuple[str, str]]:
    """The ids of tokens, of pairs of them, and so on, and places of their own: int64 [..] each.

    Those of tokens are where these start, of pairs where the second one ends, and so on by turns.
    """
    if tables.tokens is None:
        starts = _where(graph, graph.add("Greater", flat, graph.constant(BOUNDARY)))
        ends, numbers = starts, graph.take(flat, starts)
    else:
        starts, ends, numbers = _add_tokens(graph, flat, places, tables)
    found = [(starts, graph.take("tokens/features", numbers))]
    base, shorter = graph.constant(len(tables.token_features)), numbers
    longest = len(tables.word_levels) + 1
    for length in range(2, longest + 1):
        begun = graph.add("Mul", _part(graph, shorter, 0, -1), base)
        key = graph.add("Add", begun, _part(graph, numbers, length - 1))
        shorter, ids = _look_up(graph, key, f"words/{length}", is_last=length == longest)
        found.append((_part(graph, starts if length % 2 else ends, length - 1), ids))
    return found


def _add_tokens(graph: Graph, flat: str, places: str, tables: Tables) -> tuple[str, str, str]:
    """Where each of W tokens starts, the place after its end, and its number: int64 [W] each."""
    assert tables.tokens is not None
    inside = graph.add("Min", flat, graph.constant(BOUNDARY + 1))
    before = _after(graph, BOUNDARY, inside)
    step = graph.add("Sub", inside, before)
    up = graph.add("Max", step, graph.constant(0))
    starts = _where(graph, up)
    ends = _where(graph, graph.add("Sub", up, step))

    # The first place starts a token, so that each place has one: that which started last.
    token = graph.add("Sub", graph.add("CumSum", up, graph.constant(0)), graph.constant(1))
    place = graph.add("Sub", places, graph.take(starts, token))
    place = graph.add("Min", place, graph.constant(len(tables.tokens.factors) - 1))
    terms = graph.add("Mul", flat, graph.take("tokens/factors", place))
    before_start, before_end = _sums(graph, terms, starts, ends, exclusive=1)
    hashes = graph.add("Sub", before_end, before_start)
    candidate = graph.add("LabelEncoder", hashes, domain="ai.onnx.ml", name="tokens")

    begin = graph.take(graph.take("tokens/starts", candidate), token)
    expected = graph.take("tokens/codes", graph.add("Add", begin, place))
    difference = graph.add("Abs", graph.add("Sub", expected, flat))
    # After the start until the boundary that ends the token: the first codes are the same where all others
    # and the hashes are, since the first factor is odd.
    is_found = graph.add("Equal", *_sums(graph, difference, starts, ends, exclusive=0))
    return starts, ends, graph.add("Where", is_found, candidate, graph.constant(NO_NUMBER))


def _add_char_features(graph: Graph, flat: str, places: str, tables: Tables) -> list[str]:
    """The ids of character n-grams: int64 [.. n], length by length what ends at each of n places."""
    if tables.char_grams is None:
        return []
    base, longest = tables.num_codes, tables.char_lengths[-1]
    # Before the first place come the last ones, no matter which: the first has an unknown code point.
    steps = graph.constant(np.arange(1 - longest, 1)[:, np.newaxis])
    window = graph.add("Add", places, steps)
    codes = graph.take(flat, graph.add("Reshape", window, graph.constant([-1])))
    codes = graph.add("Reshape", codes, graph.constant([longest, -1]))  # [longest, n]
    powers = np.array(
        [[base**after if after < length else 0 for after in range(longest)] for length in tables.char_lengths]
    )[:, ::-1]
    keys = graph.add("MatMul", graph.constant(powers), codes)  # [lengths, n]
    keys = graph.add("Reshape", keys, graph.constant([-1]))
    numbers, ids = _look_up(graph, keys, "characters", is_last=not tables.char_levels)
    found = [ids]
    if tables.char_levels:
        by_length = graph.add("Reshape", numbers, graph.constant([len(tables.char_lengths), -1]))
        numbers = graph.add("Gather", by_length, graph.constant(-1))
    most = tables.packed + len(tables.char_levels)
    for length in range(tables.packed + 1, most + 1):
        begun = graph.add("Mul", _after(graph, NO_NUMBER, numbers), graph.constant(base))
        key = graph.add("Add", begun, flat)
        numbers, ids = _look_up(graph, key, f"characters/{length}", is_last=length == most)
        found.append(ids)
    return found


def _look_up(graph: Graph, keys: str, name: str, *, is_last: bool) -> tuple[str, str]:
    """The numbers that the keys have, and the features of these; of the last table the features alone."""
    found = graph.add("LabelEncoder", keys, domain="ai.onnx.ml", name=name)
    return found, found if is_last else graph.take(f"{name}/features", found)


def _places(graph: Graph, vector: str) -> str:
    """The places of a vector, by number from 0: int64 [n]."""
    return graph.add("Range", graph.constant(0), graph.add("Size", vector), graph.constant(1))


def _where(graph: Graph, vector: str) -> str:
    """Where it is not zero: int64 [W]."""
    return graph.add("Reshape", graph.add("NonZero", vector), graph.constant([-1]))


def _after(graph: Graph, first: int, vector: str) -> str:
    """The value before each, and before the first one this."""
    return graph.add("Pad", vector, graph.constant([1, -1]), graph.constant(first))


def _part(graph: Graph, vector: str, start: int, end: int | None = None) -> str:
    """`vector[start:end]`."""
    last = np.iinfo(np.int64).max if end is None else end
    return graph.add("Slice", vector, graph.constant([start]), graph.constant([last]))


def _joined(graph: Graph, vectors: Sequence[str]) -> str:
    """One vector after the other."""
    return vectors[0] if len(vectors) == 1 else graph.add("Concat", *vectors, axis=0)


def _put(graph: Graph, vector: str, parts: Sequence[tuple[str, str]]) -> str:
    """The vector with the parts' values at their places, no two of which are the same."""
    places, values = (_joined(graph, each) for each in zip(*parts, strict=True))
    return graph.add("ScatterElements", vector, places, values, axis=0)


def _sums(graph: Graph, terms: str, *places: str, exclusive: int) -> Iterator[str]:
    """The sums of all terms until each of the places, with or without its own: [W] for each of the places."""
    sums = graph.add("CumSum", terms, graph.constant(0), exclusive=exclusive)
    return (graph.take(sums, some) for some in places)
