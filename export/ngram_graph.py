"""The features of texts in `model.onnx` where they are more than the tokens of `str.split()`.

A chunk of texts is taken as the codes of its code points, one row a text, with boundaries around; then as
one row of numbers, in which the boundaries keep texts and tokens apart. All steps but the first are
arithmetic and lookups of whole numbers (see `serving.lookup`), the same in every runtime.
"""

import numpy as np
from onnx import AttributeProto, GraphProto, TensorProto

from export.chunks import Chunking, add_chunk_texts, add_chunks, add_log_probs, add_size_by_length, chunk_body
from export.graph import Graph, nodes
from export.weighting_graph import add_values
from serving.code_points import WORD_RANGES
from serving.features import FeatureSpec
from serving.lookup import APOSTROPHE_CODES, BOUNDARY, UNKNOWN, Tables

WORD = "[" + "".join(f"\\x{{{first:X}}}-\\x{{{last:X}}}" for first, last in WORD_RANGES) + "]"
"""Matches a code point that stands in words, in RE2's syntax; RE2's own classes go by its own Unicode."""


def add(main: Graph, tables: Tables, spec: FeatureSpec, num_labels: int) -> None:
    """Adds `log_probs`, float32 [N, K], of `text`; `fill_lookups` then gives the lookups their keys."""
    num_kinds = 1 + len(tables.word_levels) + len(tables.char_levels) + (tables.char_features is not None)
    chunking = Chunking.of_ngrams(num_labels, num_kinds)
    add_size_by_length(main, chunking, "size")
    body = chunk_body()
    ids = add_feature_ids(body, add_chunk_texts(body), tables, only_words=spec.tokenizer == "words")
    values = None
    if spec.is_weighted:
        ids, values = add_values(body, ids, tables, spec)
    add_log_probs(body, ids, values, chunking, num_labels)
    add_chunks(main, body, num_labels)


def add_feature_ids(graph: Graph, texts: str, tables: Tables, *, only_words: bool) -> str:
    """The ids of the features in c texts, c > 0: int32 [c, M], in no order, and V in all other places.

    only_words: whether tokens are words alone, rather than what whitespace separates.
    """
    codes = _add_codes(graph, texts, only_words=only_words)  # [c, C + 2]
    shape = graph.add("Shape", codes)
    flat = graph.add("Reshape", codes, graph.constant([-1]))  # [n]
    if only_words:
        flat = _add_inner_apostrophes(graph, flat)
    none = graph.add("Expand", graph.constant(np.int32(tables.none)), graph.add("Shape", flat))
    parts = _add_token_features(graph, flat, shape, none, tables)
    parts += _add_char_features(graph, flat, tables)
    rows = [graph.add("Reshape", part, shape) for part in parts]
    return graph.add("Concat", *rows, axis=1)


def fill_lookups(graph: GraphProto, tables: Tables) -> None:
    """Gives the lookups what they look up, last of all: graphs are copied while they are put together."""
    lookups = tables.lookups()
    for node in nodes(graph):
        if node.op_type == "LabelEncoder":
            keys, numbers = lookups[node.name]
            if isinstance(keys[0], bytes):
                node.attribute.add(name="keys_strings", type=AttributeProto.STRINGS, strings=keys)
            else:
                node.attribute.add(name="keys_int64s", type=AttributeProto.INTS, ints=keys)
            node.attribute.add(name="values_int64s", type=AttributeProto.INTS, ints=numbers)
            node.attribute.add(name="default_int64", type=AttributeProto.INT, i=UNKNOWN)


def _add_codes(graph: Graph, texts: str, *, only_words: bool) -> str:
    """The code of every code point, with a boundary around each text and where it ends early: [c, C + 2]."""
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
    codes = graph.add("Pad", codes, graph.constant([0, 1, 0, 1]), graph.constant(BOUNDARY))
    return _add_unlisted_boundaries(graph, characters, codes) if only_words else codes


def _add_unlisted_boundaries(graph: Graph, characters: str, codes: str) -> str:
    """The codes, with that of a boundary for unknown code points that stand in no word."""
    some = Graph("unlisted/")
    is_unknown = some.add("Equal", codes, some.constant(UNKNOWN))
    places = some.add("Transpose", some.add("NonZero", is_unknown), perm=[1, 0])  # [u, 2]
    characters_at = some.add("Sub", places, some.constant([0, 1]))  # each row of codes begins with a boundary
    is_word = some.add("RegexFullMatch", some.add("GatherND", characters, characters_at), pattern=WORD)
    found = some.add("Where", is_word, some.constant(UNKNOWN), some.constant(BOUNDARY))
    some.add("ScatterND", codes, places, found, output="unlisted/codes")
    none = Graph("listed/")
    none.add("Identity", codes, output="listed/codes")
    graph.add_if(
        graph.add("Equal", graph.add("ReduceMin", codes, keepdims=0), graph.constant(UNKNOWN)),
        then=some,
        otherwise=none,
        outputs={"codes": (TensorProto.INT64, ["c", "n"])},
    )
    return "codes"


def _add_inner_apostrophes(graph: Graph, flat: str) -> str:
    """The codes [n], with that of a boundary for apostrophes that stand beside no word character."""
    # Below the other codes, and above that of an unknown one, which stands in words.
    last = max(APOSTROPHE_CODES)
    is_other = graph.add("Less", graph.add("Sub", flat, graph.constant(BOUNDARY)), graph.constant(last))
    is_other = graph.add("And", is_other, graph.add("Greater", flat, graph.constant(UNKNOWN)))
    # The first and the last place are boundaries: of those between. A boundary becomes one again.
    beside = graph.add("Or", _part(graph, is_other, 0, -2), _part(graph, is_other, 2))
    is_outer = graph.add("And", _part(graph, is_other, 1, -1), beside)
    inner = graph.add("Where", is_outer, graph.constant(BOUNDARY), _part(graph, flat, 1, -1))
    return graph.add("Pad", inner, graph.constant([1, 1]), graph.constant(BOUNDARY))


def _add_token_features(graph: Graph, flat: str, shape: str, none: str, tables: Tables) -> list[str]:
    """The ids of tokens, and of word n-grams, each where its last token ends: int32 [n] for each length."""
    is_inside = graph.add("Not", graph.add("Equal", flat, graph.constant(BOUNDARY)))
    if tables.tokens is None:
        ends = _places(graph, is_inside)
        numbers = graph.add("Gather", flat, ends)
    else:
        ends, numbers = _add_tokens(graph, flat, is_inside, tables)
    found = [_put(graph, none, ends, graph.add("Gather", "tokens/features", numbers))]
    if not tables.word_levels:
        return found
    row = graph.add("Div", ends, graph.add("Slice", shape, graph.constant([1]), graph.constant([2])))
    base, shorter = graph.constant(len(tables.token_features)), numbers
    for length in range(2, len(tables.word_levels) + 2):
        key = graph.add(
            "Add",
            graph.add("Mul", _part(graph, shorter, 0, -1), base),
            _part(graph, numbers, length - 1),
        )
        is_one_text = graph.add("Equal", _part(graph, row, 0, 1 - length), _part(graph, row, length - 1))
        key = graph.add("Where", is_one_text, key, graph.constant(UNKNOWN))
        shorter, ids = _look_up(graph, key, f"words/{length}")
        found.append(_put(graph, none, _part(graph, ends, length - 1), ids))
    return found


def _add_tokens(graph: Graph, flat: str, is_inside: str, tables: Tables) -> tuple[str, str]:
    """Where each of W tokens ends, its last place, and its number: int64 [W] both."""
    assert tables.tokens is not None
    inside = graph.add("Cast", is_inside, to=TensorProto.INT64)
    step = graph.add(
        "Sub", _part(graph, inside, 1), _part(graph, inside, 0, -1)
    )  # between two places, [n - 1]
    is_start = graph.add("Equal", step, graph.constant(1))
    # Of the places from 1, which what follows numbers from 0: a token ends before the second of these.
    starts = _places(graph, is_start)
    ends = _places(graph, graph.add("Equal", step, graph.constant(-1)))

    codes = _part(graph, flat, 1)
    zero = graph.constant(0)
    some = graph.add("CumSum", graph.add("Cast", is_start, to=TensorProto.INT64), zero)
    token = graph.add("Max", graph.add("Sub", some, graph.constant(1)), zero)  # the one at each place
    start = graph.add("Gather", graph.add("Concat", starts, graph.constant([0]), axis=0), token)
    place = graph.add("Sub", graph.add("Range", zero, graph.add("Size", codes), graph.constant(1)), start)
    place = graph.add("Clip", place, zero, graph.constant(len(tables.tokens.factors) - 1))
    terms = graph.add("Mul", codes, graph.add("Gather", "tokens/factors", place))
    candidate = graph.add(
        "LabelEncoder", _sums(graph, terms, starts, ends), domain="ai.onnx.ml", name="tokens"
    )

    begin = graph.add(
        "Gather", "tokens/ends", graph.add("Max", graph.add("Sub", candidate, graph.constant(1)), zero)
    )
    length = graph.add("Sub", graph.add("Gather", "tokens/ends", candidate), begin)
    is_as_long = graph.add("Equal", length, graph.add("Sub", ends, starts))
    begin_here = graph.add("Gather", graph.add("Concat", begin, graph.constant([0]), axis=0), token)
    where = graph.add(
        "Min", graph.add("Add", begin_here, place), graph.constant(len(tables.tokens.codes) - 1)
    )
    differs = graph.add("Not", graph.add("Equal", graph.add("Gather", "tokens/codes", where), codes))
    num_different = _sums(graph, graph.add("Cast", differs, to=TensorProto.INT64), starts, ends)
    is_found = graph.add("And", is_as_long, graph.add("Equal", num_different, zero))
    return ends, graph.add("Where", is_found, candidate, graph.constant(UNKNOWN))


def _add_char_features(graph: Graph, flat: str, tables: Tables) -> list[str]:
    """The ids of character n-grams, each where it begins: int32 [n] for each length."""
    found = []
    if tables.char_features is not None:
        found.append(graph.add("Gather", "characters/features", flat))
    longest = len(tables.char_levels) + 1
    base, shorter = graph.constant(tables.num_codes), flat
    padded = graph.add("Pad", flat, graph.constant([0, longest]), graph.constant(UNKNOWN))
    for length in range(2, longest + 1):
        last = _part(graph, padded, length - 1, length - 1 - longest)
        shorter, ids = _look_up(
            graph, graph.add("Add", graph.add("Mul", shorter, base), last), f"characters/{length}"
        )
        if (tables.char_levels[length - 2].features[1:] != tables.none).any():
            found.append(ids)
    return found


def _look_up(graph: Graph, keys: str, name: str) -> tuple[str, str]:
    """The numbers that the keys have, and the features of these."""
    numbers = graph.add("LabelEncoder", keys, domain="ai.onnx.ml", name=name)
    return numbers, graph.add("Gather", f"{name}/features", numbers)


def _places(graph: Graph, is_one: str) -> str:
    """Where it is true: int64 [W]."""
    return graph.add("Reshape", graph.add("NonZero", is_one), graph.constant([-1]))


def _part(graph: Graph, vector: str, start: int, end: int | None = None) -> str:
    """`vector[start:end]`."""
    last = np.iinfo(np.int64).max if end is None else end
    return graph.add("Slice", vector, graph.constant([start]), graph.constant([last]))


def _put(graph: Graph, vector: str, places: str, values: str) -> str:
    """The vector with values at some places."""
    return graph.add("ScatterElements", vector, places, values, axis=0)


def _sums(graph: Graph, terms: str, starts: str, ends: str) -> str:
    """The sums of `terms[start:end]`, [W]."""
    sums = graph.add("CumSum", terms, graph.constant(0), exclusive=1)
    return graph.add("Sub", graph.add("Gather", sums, ends), graph.add("Gather", sums, starts))
