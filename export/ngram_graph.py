"""The features of texts in `model.onnx` where they are more than the tokens of `str.split()`.

A chunk of texts is taken as the codes of its code points, one row a text, with boundaries around; then as
one row of numbers, in which the boundaries keep texts and tokens apart. All steps but the first are
arithmetic and lookups of whole numbers (see `serving.features.lookup`), the same in every runtime.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import AttributeProto, GraphProto, TensorProto

from export.chunks import (
    Chunking,
    Weighted,
    add_chunk_texts,
    add_chunks_by_length,
    add_log_probs,
    add_loop,
    chunk_body,
)
from export.graph import Graph, nodes
from export.weighting_graph import add_weights
from serving.features.code_points import WORD_RANGES
from serving.features.levels import NO_NUMBER
from serving.features.lookup import APOSTROPHE_CODES, BOUNDARY, UNKNOWN, Tables
from serving.features.specification import FeatureSpec

WORD = "[" + "".join(f"\\x{{{first:X}}}-\\x{{{last:X}}}" for first, last in WORD_RANGES) + "]"
"""Matches a code point that stands in words, in RE2's syntax; RE2's own classes go by its own Unicode."""


def add(main: Graph, tables: Tables, spec: FeatureSpec, num_labels: int) -> None:
    """Adds `log_probs`, float32 [N, K], of `text`; `fill_lookups` then gives the lookups their keys."""
    num_kinds = -(-(1 + len(tables.word_levels)) // 2) + len(tables.char_lengths) + len(tables.char_levels)
    chunking = Chunking.of_ngrams(num_labels, num_kinds)
    add_chunks_by_length(main, chunking)
    body = chunk_body()
    ids = add_feature_ids(body, add_chunk_texts(body, "chunks"), tables, only_words=spec.tokenizer == "words")
    weighted = add_weights(body, ids, tables, spec) if spec.is_weighted else Weighted(ids=ids)
    add_log_probs(body, weighted, chunking, num_labels)
    add_loop(main, body, num_labels)


def add_feature_ids(graph: Graph, texts: str, tables: Tables, *, only_words: bool) -> str:
    """The ids of the features in c texts, c > 0: int32 [c, M], in no order, and V in all other places.

    only_words: whether tokens are words alone, rather than what whitespace separates.
    """
    codes = _add_codes(graph, texts, only_words=only_words)  # [c, w]
    flat = graph.add("Reshape", codes, graph.constant([-1]))  # [n]
    places = _Places.of(graph, flat)
    parts = [
        *_add_token_features(graph, flat, places, tables),
        *_add_char_features(graph, flat, places, tables),
    ]
    rows = graph.add("Concat", graph.add("Shape", codes, end=1), graph.constant([-1]), axis=0)
    found = [graph.add("Reshape", part, rows) for part in parts]
    return found[0] if len(found) == 1 else graph.add("Concat", *found, axis=1)


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


def _add_codes(graph: Graph, texts: str, *, only_words: bool) -> str:
    """The code of every code point, one row a text: int64 [c, w].

    A row begins with UNKNOWN, a token that is in no feature and so keeps the texts apart; a boundary follows,
    and two end the row, more where the text is shorter than others.
    """
    characters = graph.add(
        "Tokenizer",
        texts,
        domain="com.microsoft",
        mark=0,
        mincharnum=1,
        pad_value="",
        separators=[""],
    )
    codes = graph.add("LabelEncoder", characters, domain="ai.onnx.ml", name="codes")
    if only_words:
        codes = _add_unlisted_boundaries(graph, characters, codes)
        codes = graph.add("Pad", codes, graph.constant([0, 2, 0, 3]), graph.constant(BOUNDARY))
        codes = _add_inner_apostrophes(graph, codes)
    else:
        codes = graph.add("Pad", codes, graph.constant([0, 1, 0, 2]), graph.constant(BOUNDARY))
    return graph.add("Pad", codes, graph.constant([0, 1, 0, 0]), graph.constant(UNKNOWN))


def _add_unlisted_boundaries(graph: Graph, characters: str, codes: str) -> str:
    """The codes, with UNKNOWN for code points without one that stand in words, and BOUNDARY for others."""
    some = Graph("unlisted/")
    is_unknown = some.add("Equal", codes, some.constant(NO_NUMBER))
    places = some.add("Transpose", some.add("NonZero", is_unknown), perm=[1, 0])  # [u, 2]
    is_word = some.add("RegexFullMatch", some.add("GatherND", characters, places), pattern=WORD)
    found = some.add("Where", is_word, some.constant(UNKNOWN), some.constant(BOUNDARY))
    some.add("ScatterND", codes, places, found, output="unlisted/codes")
    none = Graph("listed/")
    none.add("Identity", codes, output="listed/codes")
    (listed,) = graph.add_if(
        graph.add("Cast", graph.add("ReduceMin", codes, keepdims=0), to=TensorProto.BOOL),
        then=none,
        otherwise=some,
        outputs={"codes": (TensorProto.INT64, ["c", "n"])},
    )
    return listed


def _add_inner_apostrophes(graph: Graph, codes: str) -> str:
    """The codes [c, w - 2], with that of a boundary for apostrophes that stand beside no word character.

    codes: [c, w]; the first and last of each row are boundaries.
    """
    code, before, after = (
        graph.add("Slice", codes, graph.constant([start]), graph.constant([end]), graph.constant([1]))
        for start, end in ((1, -1), (0, -2), (2, np.iinfo(np.int64).max))
    )
    # Codes up to the apostrophes' are those of what stands in no word by itself.
    most = graph.add("Max", code, graph.add("Min", before, after))
    is_outer = graph.add("LessOrEqual", most, graph.constant(max(APOSTROPHE_CODES)))
    return graph.add("Where", is_outer, graph.constant(BOUNDARY), code)


@dataclass(frozen=True, kw_only=True)
class _Places:
    """The places of a row of codes, [n], by number."""

    all: str
    """From 0: int64 [n]."""
    before: str
    """The place before each, and -1 for the first: [n]."""

    @classmethod
    def of(cls, graph: Graph, flat: str) -> "_Places":
        every = graph.add("Range", graph.constant(0), graph.add("Size", flat), graph.constant(1))
        return cls(all=every, before=graph.add("Sub", every, graph.constant(1)))


def _add_token_features(graph: Graph, flat: str, places: _Places, tables: Tables) -> list[str]:
    """The ids of tokens, and of word n-grams: int32 [n] for every two lengths.

    Those of tokens are where these start, of pairs where the second one ends, and so on.
    """
    if tables.tokens is None:
        starts = _where(graph, graph.add("Greater", flat, graph.constant(BOUNDARY)))
        numbers, ends = graph.add("Gather", flat, starts), None
    else:
        starts, ends, numbers = _add_tokens(graph, flat, places, tables)
    found = [(starts, graph.add("Gather", "tokens/features", numbers))]
    base, shorter = graph.constant(len(tables.token_features)), numbers
    for length in range(2, len(tables.word_levels) + 2):
        begun = graph.add("Mul", _part(graph, shorter, 0, -1), base)
        key = graph.add("Add", begun, _part(graph, numbers, length - 1))
        shorter, ids = _look_up(graph, key, f"words/{length}")
        place = starts if ends is None or length % 2 else ends
        found.append((_part(graph, place, length - 1), ids))
    none = graph.add("Expand", graph.constant(np.int32(tables.none)), graph.add("Shape", flat))
    # A token has two places of its own where it has an end; two lengths stand beside each other then.
    together = 1 if ends is None else 2
    groups = [found[first : first + together] for first in range(0, len(found), together)]
    return [_put(graph, none, group) for group in groups]


def _add_tokens(graph: Graph, flat: str, places: _Places, tables: Tables) -> tuple[str, str, str]:
    """Where each of W tokens starts, the place after its end, and its number: int64 [W] each."""
    assert tables.tokens is not None
    inside = graph.add("Min", flat, graph.constant(BOUNDARY + 1))
    step = graph.add("Sub", inside, graph.add("Gather", inside, places.before))
    up = graph.add("Max", step, graph.constant(0))
    starts = _where(graph, up)
    ends = _where(graph, graph.add("Sub", up, step))

    # The first place starts a token, so that each place has one: that which started last.
    token = graph.add("Sub", graph.add("CumSum", up, graph.constant(0)), graph.constant(1))
    place = graph.add("Sub", places.all, graph.add("Gather", starts, token))
    place = graph.add("Min", place, graph.constant(len(tables.tokens.factors) - 1))
    terms = graph.add("Mul", flat, graph.add("Gather", "tokens/factors", place))
    before_start, before_end = _sums(graph, terms, starts, ends, exclusive=1)
    hashes = graph.add("Sub", before_end, before_start)
    candidate = graph.add("LabelEncoder", hashes, domain="ai.onnx.ml", name="tokens")

    begin = graph.add("Gather", graph.add("Gather", "tokens/starts", candidate), token)
    expected = graph.add("Gather", "tokens/codes", graph.add("Add", begin, place))
    difference = graph.add("Abs", graph.add("Sub", expected, flat))
    # After the start until the boundary that ends the token: the first codes are the same where all others
    # and the hashes are, since the first factor is odd.
    is_found = graph.add("Equal", *_sums(graph, difference, starts, ends, exclusive=0))
    return starts, ends, graph.add("Where", is_found, candidate, graph.constant(NO_NUMBER))


def _add_char_features(graph: Graph, flat: str, places: _Places, tables: Tables) -> list[str]:
    """The ids of character n-grams: int32 [n, ...] with what ends at each place."""
    if tables.char_grams is None:
        return []
    base, longest = tables.num_codes, tables.char_lengths[-1]
    # Before the first place come the last ones, no matter which: the first has an unknown code point.
    window = graph.add(
        "Add",
        graph.add("Unsqueeze", places.all, graph.constant([1])),
        graph.constant(np.arange(1 - longest, 1)),
    )
    codes = graph.add("Gather", flat, window)  # [n, longest]
    powers = np.array(
        [[base**after if after < length else 0 for length in tables.char_lengths] for after in range(longest)]
    )[::-1]
    ones = np.array([base**length for length in tables.char_lengths])
    keys = graph.add("Add", graph.add("MatMul", codes, graph.constant(powers)), graph.constant(ones))
    shorter, ids = _look_up(graph, keys, "characters")  # [n, lengths]
    found = [ids]
    if tables.char_levels:
        shorter = graph.add("Gather", shorter, graph.constant(-1), axis=1)
    for length, _ in enumerate(tables.char_levels, tables.packed + 1):
        begun = graph.add("Mul", graph.add("Gather", shorter, places.before), graph.constant(base))
        shorter, ids = _look_up(graph, graph.add("Add", begun, flat), f"characters/{length}")
        found.append(ids)
    return found


def _look_up(graph: Graph, keys: str, name: str) -> tuple[str, str]:
    """The numbers that the keys have, and the features of these."""
    numbers = graph.add("LabelEncoder", keys, domain="ai.onnx.ml", name=name)
    return numbers, graph.add("Gather", f"{name}/features", numbers)


def _where(graph: Graph, vector: str) -> str:
    """Where it is not zero: int64 [W]."""
    return graph.add("Reshape", graph.add("NonZero", vector), graph.constant([-1]))


def _part(graph: Graph, vector: str, start: int, end: int | None = None) -> str:
    """`vector[start:end]`."""
    last = np.iinfo(np.int64).max if end is None else end
    return graph.add("Slice", vector, graph.constant([start]), graph.constant([last]))


def _put(graph: Graph, vector: str, parts: Sequence[tuple[str, str]]) -> str:
    """The vector with the parts' values at their places, no two of which are the same."""
    places, values = (
        each[0] if len(each) == 1 else graph.add("Concat", *each, axis=0) for each in zip(*parts, strict=True)
    )
    return graph.add("ScatterElements", vector, places, values, axis=0)


def _sums(graph: Graph, terms: str, *places: str, exclusive: int) -> Iterator[str]:
    """The sums of all terms until each of the places, with or without its own: [W] for each of the places."""
    sums = graph.add("CumSum", terms, graph.constant(0), exclusive=exclusive)
    return (graph.add("Gather", sums, some) for some in places)
