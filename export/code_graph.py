"""Texts as the codes of their code points, one row a text: what features are then found in.

All steps but the first are arithmetic and lookups of whole numbers (see `serving.features.tables`), the same
in every runtime.
"""

import numpy as np
from onnx import TensorProto

from export.graph import Graph
from serving.features.code_points import WORD_RANGES
from serving.features.hashes import BOUNDARY
from serving.features.tables import UNKNOWN, UNLISTED

WORD = "[" + "".join(f"\\x{{{first:X}}}-\\x{{{last:X}}}" for first, last in WORD_RANGES) + "]"
"""Matches a code point that stands in words, in RE2's syntax; RE2's own classes go by its own Unicode."""
_CODES = (TensorProto.INT64, ["c", "n"])


def add_codes(graph: Graph, texts: str, *, only_words: bool) -> str:
    """The code of every code point of c texts, c > 0: int64 [c, w].

    A row begins with UNKNOWN, a token that is in no feature and so keeps the texts apart; a boundary follows,
    and two end the row, more where the text is shorter than others.

    only_words: whether tokens are words alone, rather than what whitespace separates.
    """
    characters = graph.tokenize(texts, separator="")
    codes = graph.add("LabelEncoder", characters, domain="ai.onnx.ml", name="codes")
    if only_words:
        codes = _add_final_codes(graph, characters, codes)
    codes = graph.add("Pad", codes, graph.constant([0, 1, 0, 2]), graph.constant(BOUNDARY))
    return graph.add("Pad", codes, graph.constant([0, 1, 0, 0]), graph.constant(UNKNOWN))


def _add_final_codes(graph: Graph, characters: str, codes: str) -> str:
    """The codes, [c, n], with those below 0 made final: many texts have none, and few an unlisted one."""
    least = graph.add("ReduceMin", codes, keepdims=0)
    final, mixed = _branch(graph, "final"), _branch(graph, "mixed")
    final.add("Identity", codes, output=f"{final.prefix}codes")
    listed, unlisted = _branch(mixed, "listed"), _branch(mixed, "unlisted")
    listed.add("Identity", codes, output=f"{listed.prefix}seen")
    _add_listed(unlisted, characters, codes)
    (seen,) = mixed.add_if(
        mixed.add("Equal", least, mixed.constant(UNLISTED)),
        then=unlisted,
        otherwise=listed,
        outputs={"seen": _CODES},
    )
    _add_inner_apostrophes(mixed, seen)
    (found,) = graph.add_if(
        graph.add("Greater", least, graph.constant(0)), then=final, otherwise=mixed, outputs={"codes": _CODES}
    )
    return found


def _branch(graph: Graph, name: str) -> Graph:
    return Graph(f"{graph.prefix}{name}/")


def _add_listed(graph: Graph, characters: str, codes: str) -> None:
    """The codes, with UNKNOWN for code points without one that stand in words, and BOUNDARY for others."""
    is_unlisted = graph.add("Equal", codes, graph.constant(UNLISTED))
    places = graph.add("Transpose", graph.add("NonZero", is_unlisted), perm=[1, 0])  # [u, 2]
    is_word = graph.add("RegexFullMatch", graph.add("GatherND", characters, places), pattern=WORD)
    found = graph.add("Where", is_word, graph.constant(UNKNOWN), graph.constant(BOUNDARY))
    graph.add("ScatterND", codes, places, found, output=f"{graph.prefix}seen")


def _add_inner_apostrophes(graph: Graph, codes: str) -> None:
    """The codes, with that of a boundary for apostrophes that stand beside no word character.

    codes: those of apostrophes are below 0.
    """
    padded = graph.add("Pad", codes, graph.constant([0, 1, 0, 1]), graph.constant(BOUNDARY))
    before, after = (
        graph.add("Slice", padded, graph.constant([start]), graph.constant([end]), graph.constant([1]))
        for start, end in ((0, -2), (2, np.iinfo(np.int64).max))
    )
    # A code up to the boundary's is that of what stands in no word by itself.
    is_outer = graph.add("LessOrEqual", graph.add("Min", before, after), graph.constant(BOUNDARY))
    own = graph.add("Sub", graph.constant(1), codes)  # the inverse of `first_code`
    apostrophe = graph.add("Where", is_outer, graph.constant(BOUNDARY), own)
    # That of any other code point is not above its code.
    graph.add("Max", codes, apostrophe, output=f"{graph.prefix}codes")
