"""Features by the lookups of `serving.features.tables`: tokens, word n-grams and character n-grams."""

import numpy as np
from onnx import TensorProto

from export.graph import Graph
from export.vectors import after, part, places_of, sums_until, where
from serving.features.hashes import BOUNDARY, Tokens
from serving.features.levels import NO_NUMBER
from serving.features.tables import Tables


def add_places(graph: Graph, flat: str, tables: Tables) -> str:
    """The place of each of n codes, int64 [n]; "" where none are needed: of tokens that are code points."""
    return "" if tables.tokens is None and tables.char_grams is None else places_of(graph, flat)


def add_tokens(graph: Graph, flat: str, places: str, tables: Tables) -> tuple[str, str, str]:
    """Where each of W tokens starts, the place after its end, and its number: int64 [W] each.

    flat: the codes of texts, one after the other, and places: as of `add_places`, int64 [n] each.
    A token that is a code point has but one place, that where it is.
    """
    if tables.tokens is not None:
        return _add_hashed_tokens(graph, flat, places, tables.tokens)
    starts = where(graph, graph.add("Greater", flat, graph.constant(BOUNDARY)))
    return starts, starts, graph.take(flat, starts)


def add_word_ids(graph: Graph, numbers: str, tables: Tables) -> list[str]:
    """The ids of tokens, of pairs of them, and so on, by the tokens' numbers, [W]: int64 [W], [W - 1], .."""
    found = [graph.take("tokens/features", numbers)]
    shorter, longest = numbers, len(tables.word_levels) + 1
    for length in range(2, longest + 1):
        base = graph.constant(len(tables.token_features))
        begun = graph.add("Mul", part(graph, shorter, 0, -1), base)
        key = graph.add("Add", begun, part(graph, numbers, length - 1))
        shorter, ids = _look_up(graph, key, f"words/{length}", is_last=length == longest)
        found.append(ids)
    return found


def add_char_ids(graph: Graph, flat: str, places: str, tables: Tables) -> list[str]:
    """The ids of character n-grams: int64 [.. n], length by length what ends at each of n places."""
    if tables.char_grams is None:
        return []
    base, longest = tables.num_codes, tables.char_lengths[-1]
    # With boundaries before the first place each has so many; no n-gram has one but at its ends.
    padded = graph.add("Pad", flat, graph.constant([longest - 1, 0]), graph.constant(BOUNDARY))
    window = graph.add("Add", places, graph.constant(np.arange(longest)[:, np.newaxis]))
    codes = graph.take(padded, graph.add("Reshape", window, graph.constant([-1])))
    codes = graph.add("Reshape", codes, graph.constant([longest, -1]))  # [longest, n]
    powers = np.array(
        [[base**place if place < length else 0 for place in range(longest)] for length in tables.char_lengths]
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
        begun = graph.add("Mul", after(graph, NO_NUMBER, numbers), graph.constant(base))
        key = graph.add("Add", begun, flat)
        numbers, ids = _look_up(graph, key, f"characters/{length}", is_last=length == most)
        found.append(ids)
    return found


def add_token_numbers(graph: Graph, codes: str, tokens: Tokens) -> str:
    """The numbers of u tokens by their codes, int64 [u, w], boundaries after the end: int64 [u]."""
    ended = graph.add("Pad", codes, graph.constant([0, 0, 0, 1]), graph.constant(BOUNDARY))  # [u, w + 1]
    width = graph.add("Squeeze", graph.add("Shape", ended, start=1))
    places = graph.add("Range", graph.constant(0), width, graph.constant(1))
    place = graph.add("Min", places, graph.constant(len(tokens.factors) - 1))
    is_code = graph.add("Cast", graph.add("Greater", ended, graph.constant(BOUNDARY)), to=TensorProto.INT64)
    terms = graph.add("Mul", graph.add("Mul", ended, is_code), graph.take("tokens/factors", place))
    # ReduceSum adds whole numbers as float64, and loses their last digits.
    hashes = graph.add("Gather", graph.add("CumSum", terms, graph.constant(1)), graph.constant(-1), axis=1)
    candidate = graph.add("LabelEncoder", hashes, domain="ai.onnx.ml", name="tokens")

    begin = graph.add("Unsqueeze", graph.take("tokens/starts", candidate), graph.constant([1]))
    expected = graph.add("Gather", "tokens/codes", graph.add("Add", begin, place))
    difference = graph.add("Abs", graph.add("Sub", expected, ended))
    # Until the first boundary, which ends the token, that one included.
    until_end = graph.add("Pad", is_code, graph.constant([0, 1, 0, -1]), graph.constant(1))
    largest = graph.add("ReduceMax", graph.add("Mul", difference, until_end), graph.constant([1]), keepdims=0)
    is_found = graph.add("Equal", largest, graph.constant(0))
    return graph.add("Where", is_found, candidate, graph.constant(NO_NUMBER))


def _add_hashed_tokens(graph: Graph, flat: str, places: str, tokens: Tokens) -> tuple[str, str, str]:
    """The same of tokens of several code points, which are found by their hashes."""
    inside = graph.add("Min", flat, graph.constant(BOUNDARY + 1))
    before = after(graph, BOUNDARY, inside)
    step = graph.add("Sub", inside, before)
    up = graph.add("Max", step, graph.constant(0))
    starts = where(graph, up)
    ends = where(graph, graph.add("Sub", up, step))

    # The first place starts a token, so that each place has one: that which started last.
    token = graph.add("Sub", graph.add("CumSum", up, graph.constant(0)), graph.constant(1))
    place = graph.add("Sub", places, graph.take(starts, token))
    place = graph.add("Min", place, graph.constant(len(tokens.factors) - 1))
    terms = graph.add("Mul", flat, graph.take("tokens/factors", place))
    before_start, before_end = sums_until(graph, terms, starts, ends, exclusive=1)
    hashes = graph.add("Sub", before_end, before_start)
    candidate = graph.add("LabelEncoder", hashes, domain="ai.onnx.ml", name="tokens")

    begin = graph.take(graph.take("tokens/starts", candidate), token)
    expected = graph.take("tokens/codes", graph.add("Add", begin, place))
    difference = graph.add("Abs", graph.add("Sub", expected, flat))
    # After the start until the boundary that ends the token: the first codes are the same where all others
    # and the hashes are, since the first factor is odd.
    is_found = graph.add("Equal", *sums_until(graph, difference, starts, ends, exclusive=0))
    return starts, ends, graph.add("Where", is_found, candidate, graph.constant(NO_NUMBER))


def _look_up(graph: Graph, keys: str, name: str, *, is_last: bool) -> tuple[str, str]:
    """The numbers that the keys have, and the features of these; of the last table the features alone."""
    found = graph.add("LabelEncoder", keys, domain="ai.onnx.ml", name=name)
    return found, found if is_last else graph.take(f"{name}/features", found)
