"""The features of one text by its tokens as it spells them, each found with its character n-grams at once.

A token that has no such spelling is looked at by its code points where its parts are features, and where it
may be a known one all the same: in odd case, or with more parts than there are places for.
"""

from onnx import TensorProto

from export.code_graph import WORD, add_codes
from export.graph import Graph
from export.lookup_graph import add_char_ids, add_places, add_token_numbers, add_tokens, add_word_ids
from export.patterns import characters, matches_all_and
from export.token_graph import add_split_tokens
from export.vectors import joined, places_of, where
from serving.features.code_points import LOWER
from serving.features.hashes import BOUNDARY
from serving.features.levels import NO_NUMBER
from serving.features.specification import APOSTROPHES
from serving.features.tables import Tables

WORDS = f"{WORD}+(?:[{characters(APOSTROPHES)}]{WORD}+)*"
"""Matches a word with the apostrophes in it, in RE2's syntax."""
NO_CAPITALS = f"[^{characters(LOWER)}]*"
"""Matches a token in lower case."""


def add_ids_of_one(graph: Graph, text: str, tables: Tables) -> str:
    """The ids of the features in one text, string [1]: int64 [M], in no order, V among them, and a last -1.

    That names the last row of A, of zeros, as V does: so there is always something to sum.
    """
    if tables.spellings is None:
        numbers, of_chars = _add_by_code(graph, text, tables)
    else:
        numbers, of_chars = _add_by_spelling(graph, text, tables)
    return joined(graph, [*add_word_ids(graph, numbers, tables), *of_chars, graph.constant([-1])])


def _add_by_code(graph: Graph, text: str, tables: Tables) -> tuple[str, list[str]]:
    """The numbers of the tokens, int64 [W], and the ids of their character n-grams, int64 [..] each."""
    codes = add_codes(graph, text, only_words=tables.has_words)  # [1, n]
    flat = graph.add("Reshape", codes, graph.constant([-1]))
    places = add_places(graph, flat, tables)
    _, _, numbers = add_tokens(graph, flat, places, tables)
    return numbers, add_char_ids(graph, flat, places, tables)


def _add_by_spelling(graph: Graph, text: str, tables: Tables) -> tuple[str, list[str]]:
    """The same where tokens have spellings."""
    # [1, W]
    tokens = graph.tokenize(text, token=WORDS) if tables.has_words else add_split_tokens(graph, text)
    spelled = graph.add("LabelEncoder", tokens, domain="ai.onnx.ml", name="spellings")
    spelled = graph.add("Reshape", spelled, graph.constant([-1]))
    if not tables.has_odd_codes:
        return spelled, []
    if tables.char_grams is None:
        return _add_odd_tokens(graph, _unknown(graph, tokens, spelled), None, spelled, tables), []

    known, others = Graph(f"{graph.prefix}known/"), Graph(f"{graph.prefix}others/")
    known.add("Identity", spelled, output=f"{known.prefix}numbers")
    known.add("Identity", _char_ids_of_known(known, spelled), output=f"{known.prefix}char_ids")

    unknown = _unknown(others, tokens, spelled)
    codes = _add_token_codes(others, unknown)
    # Two boundaries or more keep tokens apart: no n-gram has one but at its ends.
    ended = others.add("Pad", codes, others.constant([0, 1, 0, 1]), others.constant(BOUNDARY))
    flat = others.add("Reshape", ended, others.constant([-1]))
    of_unknown = add_char_ids(others, flat, places_of(others, flat), tables)
    parts = [_char_ids_of_known(others, spelled), *of_unknown]
    others.add("Concat", *parts, axis=0, output=f"{others.prefix}char_ids")
    numbers = _add_odd_tokens(others, unknown, codes, spelled, tables)
    others.add("Identity", numbers, output=f"{others.prefix}numbers")

    # With a number there is always one to take the least of.
    least = graph.add("ReduceMin", graph.add("Concat", spelled, graph.constant([1]), axis=0), keepdims=0)
    numbers, char_ids = graph.add_if(
        graph.add("Greater", least, graph.constant(NO_NUMBER)),
        then=known,
        otherwise=others,
        outputs={"numbers": (TensorProto.INT64, ["W"]), "char_ids": (TensorProto.INT64, ["m"])},
    )
    return numbers, [char_ids]


def _unknown(graph: Graph, tokens: str, spelled: str) -> str:
    """The u of the tokens, string [1, W], that have no number, int64 [W]: string [u]."""
    return graph.add("Compress", tokens, graph.add("Equal", spelled, graph.constant(NO_NUMBER)))


def _char_ids_of_known(graph: Graph, spelled: str) -> str:
    """The character n-grams of tokens by their numbers, int64 [W]: int64 [W * L], V among them."""
    ids = graph.add("Gather", "tokens/char_features", spelled)  # [W, L]
    return graph.add("Cast", graph.add("Reshape", ids, graph.constant([-1])), to=TensorProto.INT64)


def _add_token_codes(graph: Graph, tokens: str) -> str:
    """The codes of the code points of u tokens, u > 0: int64 [u, w], boundaries after the end."""
    codes = graph.add("LabelEncoder", graph.tokenize(tokens, separator=""), domain="ai.onnx.ml", name="codes")
    # An apostrophe in a token stands within it, and what is not listed there stands in words.
    return graph.add("Max", codes, graph.add("Sub", graph.constant(1), codes))


def _add_odd_tokens(graph: Graph, unknown: str, codes: str | None, spelled: str, tables: Tables) -> str:
    """The numbers of all W tokens, with those that are known though not in this spelling: int64 [W].

    unknown: the u tokens without a spelling, string [u]; codes: theirs, [u, w], where they are at hand.
    spelled: the numbers by the spellings, [W].
    """
    assert tables.spellings is not None
    if not tables.has_odd_tokens:
        return spelled
    if not tables.spellings.are_of_all:  # so there are character n-grams, and u > 0
        return _add_found(graph, unknown, codes, spelled, tables)
    settled, odd = Graph(f"{graph.prefix}settled/"), Graph(f"{graph.prefix}odd/")
    settled.add("Identity", spelled, output=f"{settled.prefix}token_numbers")
    found = _add_found(odd, unknown, codes, spelled, tables)
    odd.add("Identity", found, output=f"{odd.prefix}token_numbers")
    # What has no capital is in no odd case.
    (numbers,) = graph.add_if(
        matches_all_and(graph, unknown, NO_CAPITALS, graph.constant([True])),
        then=settled,
        otherwise=odd,
        outputs={"token_numbers": (TensorProto.INT64, ["W"])},
    )
    return numbers


def _add_found(graph: Graph, unknown: str, codes: str | None, spelled: str, tables: Tables) -> str:
    """The same where u > 0, with each of the u tokens looked at."""
    assert tables.tokens is not None
    found = add_token_numbers(graph, codes or _add_token_codes(graph, unknown), tables.tokens)
    places = where(graph, graph.add("Equal", spelled, graph.constant(NO_NUMBER)))
    return graph.add("ScatterElements", spelled, places, found, axis=0)
