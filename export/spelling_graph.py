"""The features of one text by its tokens as it spells them, each found with its character n-grams at once.

A text with a token that has no such spelling, an unknown word or a known one in a mixture of cases, is looked
at by its code points, as texts of a batch are; where no part of a word is a feature, an unknown word in lower
case needs no second look.
"""

from onnx import TensorProto

from export.code_graph import WORD, add_codes
from export.graph import Graph
from export.lookup_graph import add_char_ids, add_tokens, add_word_ids
from export.patterns import characters, matches_all_and
from export.token_graph import add_split_tokens
from export.vectors import joined, places_of
from serving.features.code_points import LOWER
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
    places = places_of(graph, flat)
    _, _, numbers = add_tokens(graph, flat, places, tables)
    return numbers, add_char_ids(graph, flat, places, tables)


def _add_by_spelling(graph: Graph, text: str, tables: Tables) -> tuple[str, list[str]]:
    """The same where tokens have spellings."""
    # [1, W]
    tokens = graph.tokenize(text, token=WORDS) if tables.has_words else add_split_tokens(graph, text)
    spelled = graph.add("LabelEncoder", tokens, domain="ai.onnx.ml", name="spellings")
    spelled = graph.add("Reshape", spelled, graph.constant([-1]))
    if not tables.looks_at_others:
        return spelled, []

    all_spelled, some_not = Graph(f"{graph.prefix}spelled/"), Graph(f"{graph.prefix}others/")
    all_spelled.add("Identity", spelled, output=f"{all_spelled.prefix}numbers")
    numbers, of_chars = _add_by_code(some_not, text, tables)
    some_not.add("Identity", numbers, output=f"{some_not.prefix}numbers")
    outputs = {"numbers": (TensorProto.INT64, ["W"])}
    if tables.char_grams is None:
        are_found = _has_no_unknown_capital(graph, tokens, spelled)
    else:
        are_found = _are_all_spelled(graph, spelled)
        ids = all_spelled.add("Gather", "tokens/char_features", spelled)  # [W, L]
        ids = all_spelled.add("Reshape", ids, all_spelled.constant([-1]))
        all_spelled.add("Cast", ids, to=TensorProto.INT64, output=f"{all_spelled.prefix}char_ids")
        some_not.add("Concat", *of_chars, axis=0, output=f"{some_not.prefix}char_ids")
        outputs["char_ids"] = (TensorProto.INT64, ["m"])
    numbers, *of_chars = graph.add_if(are_found, then=all_spelled, otherwise=some_not, outputs=outputs)
    return numbers, of_chars


def _are_all_spelled(graph: Graph, spelled: str) -> str:
    """Whether each of W tokens, of numbers int64 [W], is spelled in a way that is in the lookup: bool []."""
    # With a number there is always one to take the least of.
    least = graph.add("ReduceMin", graph.add("Concat", spelled, graph.constant([1]), axis=0), keepdims=0)
    return graph.add("Greater", least, graph.constant(NO_NUMBER))


def _has_no_unknown_capital(graph: Graph, tokens: str, spelled: str) -> str:
    """Whether no token without a number has a capital, and so may be a known one in odd case: bool [1]."""
    unknown = graph.add("Compress", tokens, graph.add("Equal", spelled, graph.constant(NO_NUMBER)))
    return matches_all_and(graph, unknown, NO_CAPITALS, graph.constant([True]))
