"""One text by its tokens' spellings: the lookup has the usual ones, and all others are found all the same."""

from collections import Counter
from collections.abc import Sequence
from itertools import product

import numpy as np
import onnxruntime as ort
import pytest
from onnx import TensorProto

from export import ngram_graph
from export.graph import Graph, value
from export.graph import nodes as nodes_of
from export.ngram_graph import fill_lookups
from export.onnx_file import OnnxFile
from export.spelling_graph import add_ids_of_one
from export.sums import WeightTable
from serving.features import spelling
from serving.features import tables as tables_module
from serving.features.lookup import MAX_SECOND_LOOKUP
from serving.features.specification import FeatureSpec, Tokenizer, features
from serving.features.spelling import MAX_CHAR_FEATURES, Spellings
from serving.features.tables import Tables
from serving.session import session_options
from tests.ngrams import FeatureSession, by_reference

SPEC = FeatureSpec(tokenizer="words", lowercase=True, word_ngrams=2, char_ngrams=(2, 4))
LONG = "".join(chr(0x61 + place % 26) for place in range(MAX_CHAR_FEATURES))
"""A word with more character n-grams than the table has places for."""
TEXT = f"don't ask the bank, the élan is ǆ {LONG} ﬀ9_"


def names_of(spec: FeatureSpec) -> list[str]:
    names = list(dict.fromkeys(features(TEXT, spec)))
    return sorted(names, key=lambda name: name.startswith(" "))


TEXTS = [
    *("", "!?", "the", "The", "THE", "tHe", "the the tHe", "don't", "Don't", "DON'T", "dON't", "'don't'"),
    *(
        "don\u2019t",
        "Élan ÉLAN élan ÉlAN",
        "ǅ Ǆ ǆ",
        LONG,
        LONG.upper(),
        f"the {LONG}",
        "unknown",
        "the unknown bank",
    ),
    *(
        "ask the bank",
        "Ask the Bank, the the the",
        "ask\u2003the\tbank",
        "ask ☃ the bank",
        "K the \u212a",
        TEXT,
    ),
]
"""In all cases, with unknown words and with none."""


def is_spelled(spec: FeatureSpec, texts: Sequence[str]) -> list[bool]:
    """Whether each of the texts, alone, goes by its spellings."""
    tables = Tables.of(names_of(spec), spec)
    graph = Graph()
    add_ids_of_one(graph, "text", tables)
    (decision,) = (node for node in graph.nodes if node.output[0] in ("numbers", "token_numbers"))
    built = graph.build(
        inputs=[value("text", TensorProto.STRING, ["N"])],
        outputs=[value(decision.input[0], TensorProto.BOOL, [])],
    )
    fill_lookups(built, tables)
    arrays = {name: [array] for name, array in tables.arrays(None).items()}
    content = OnnxFile(graph=built, arrays=arrays, strings={}, metadata={}).to_bytes()
    session = ort.InferenceSession(content, session_options())
    return [bool(np.all(session.run(None, {"text": np.array([text], dtype=object)})[0])) for text in texts]


def test_a_text_of_usual_spellings_is_not_looked_at_by_its_code_points() -> None:
    """If it failed, most texts would take half as long again."""
    known = ["", "!?", "the", "The", "THE", "Don't ask", "ÉLAN", "Ask the Bank, the the the", "Ǆ ǆ"]
    others = ["tHe", "ǅ", "don\u2019t", "the unknown bank", LONG, "the \u212a"]
    assert is_spelled(SPEC, known) == [True] * len(known)
    assert is_spelled(SPEC, others) == [False] * len(others)


@pytest.mark.parametrize("tokenizer", ["words", "whitespace"])
def test_an_unknown_word_is_looked_at_again_only_where_its_parts_or_its_case_matter(
    tokenizer: Tokenizer,
) -> None:
    """If it failed, each unknown word would cost as much as all others, or one in odd cases be lost."""
    spec = FeatureSpec(tokenizer=tokenizer, lowercase=True, word_ngrams=2)
    known = ["", "the", "the unknown bank", "\u4e2d\u6587 \u00df1", "Ask THE Unbekannte".lower(), LONG]
    others = ["tHe", "ask the Unknown bank", "\u01c5", "the \u212a", "x\U0001e900"]
    assert is_spelled(spec, known) == [True] * len(known)
    assert is_spelled(spec, others) == [False] * len(others)


SPECS = {
    "all": SPEC,
    "no characters": FeatureSpec(tokenizer="words", lowercase=True, word_ngrams=2),
    "no lower case": FeatureSpec(tokenizer="words", word_ngrams=3, char_ngrams=(2, 2)),
    "spelled out": FeatureSpec(tokenizer="words", word_ngrams=2),
    "whitespace": FeatureSpec(word_ngrams=2),
    "whitespace, lower case": FeatureSpec(lowercase=True),
    "whitespace, characters": FeatureSpec(lowercase=True, char_ngrams=(1, 3)),
}


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_a_text_has_the_features_of_the_reference_however_it_is_spelled(spec: FeatureSpec) -> None:
    """If it failed, a capital or an unknown word would change what else is found in a text."""
    names = names_of(spec)[::2] + names_of(spec)[1:4]
    names.sort(key=lambda name: name.startswith(" "))
    session = FeatureSession(Tables.of(names, spec))
    assert list(session.alone(TEXTS)) == list(by_reference(TEXTS, names, spec))


def test_a_vocabulary_too_large_for_spellings_is_found_by_its_code_points(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """If it failed, a large vocabulary would take more memory than is set, or lose its features."""
    names = names_of(SPEC)
    assert Tables.of(names, SPEC).spellings is not None
    monkeypatch.setattr(spelling, "WORD_BYTES", MAX_SECOND_LOOKUP)
    tables = Tables.of(names, SPEC)
    assert tables.has_two_lookups
    assert tables.spellings is None
    session = FeatureSession(tables)
    assert list(session.alone(TEXTS)) == list(by_reference(TEXTS, names, SPEC))


@pytest.mark.parametrize("name", ["spelled out", "whitespace"])
def test_where_case_matters_what_is_not_spelled_so_is_no_token(name: str) -> None:
    """If it failed, each unknown word would be looked for twice."""
    tables, graph = Tables.of(names_of(SPECS[name]), SPECS[name]), Graph()
    add_ids_of_one(graph, "text", tables)
    assert tables.spellings is not None
    assert {node.name for node in nodes_of(graph.build([])) if node.op_type == "LabelEncoder"} == {
        "spellings",
        "words/2",
    }


@pytest.mark.parametrize("lookup_bytes", [0, 3_000, MAX_SECOND_LOOKUP])
@pytest.mark.parametrize(
    ("tokenizer", "char_ngrams"), [*product(["whitespace", "words"], [None, (1, 3)]), ("characters", None)]
)
@pytest.mark.parametrize("lowercase", [False, True])
def test_lookups_stand_in_the_graph_as_often_as_verify_asks(
    monkeypatch: pytest.MonkeyPatch,
    tokenizer: Tokenizer,
    char_ngrams: tuple[int, int] | None,
    lowercase: bool,
    lookup_bytes: int,
) -> None:
    """If it failed, `verify` would refuse a sound bundle, or let a lookup pass unseen."""
    monkeypatch.setattr(tables_module, "MAX_SECOND_LOOKUP", lookup_bytes)
    spec = FeatureSpec(tokenizer=tokenizer, lowercase=lowercase, word_ngrams=2, char_ngrams=char_ngrams)
    for names in (names_of(spec), [name for name in names_of(spec) if LONG not in name]):
        tables, main = Tables.of(names, spec), Graph()
        ngram_graph.add(main, WeightTable(num_labels=3, is_converted=True), tables)
        found = Counter(node.name for node in nodes_of(main.build([])) if node.op_type == "LabelEncoder")
        assert found == {name: each.times for name, each in tables.lookups().items()}


@pytest.mark.parametrize("num_more", [0, 1])
def test_a_word_of_more_parts_than_there_are_places_for_is_found_by_its_code_points(num_more: int) -> None:
    """If it failed, a long word would lose its last parts."""
    word = "".join(chr(0x4E00 + place) for place in range(MAX_CHAR_FEATURES + num_more))
    spec = FeatureSpec(tokenizer="words", char_ngrams=(1, 1))
    names = [word, *(f" {character}" for character in word)]
    tables = Tables.of(names, spec)
    assert tables.spellings is not None
    assert (word in tables.spellings.numbers) == (num_more == 0)
    texts = [word, f"{word} {word}", word[1:]]
    assert list(FeatureSession(tables).alone(texts)) == list(by_reference(texts, names, spec))


def test_words_without_a_known_part_have_none() -> None:
    """If it failed, an empty table would break the graph."""
    spec = FeatureSpec(tokenizer="words", char_ngrams=(2, 2))
    names = ["cd", " ab"]
    texts = ["cd", "ab", "abab cd", ""]
    assert list(FeatureSession(Tables.of(names, spec)).alone(texts)) == list(by_reference(texts, names, spec))


def test_the_table_has_the_character_ngrams_of_each_token() -> None:
    """If it failed, a word would be classified by its parts in a batch alone, or by another word's."""
    places = {"  a": 3, " ab": 4, " b ": 5}
    spec = FeatureSpec(tokenizer="words", lowercase=True, char_ngrams=(2, 2))
    found = Spellings.of({"ab": 1, "b": 2, "abb": 3}, places, spec, none=9)
    assert dict(found.numbers) == {
        "ab": 1,
        "Ab": 1,
        "AB": 1,
        "b": 2,
        "B": 2,
        "abb": 3,
        "Abb": 3,
        "ABB": 3,
    }
    assert found.char_features.tolist() == [[9, 9, 9], [3, 4, 5], [5, 9, 9], [3, 4, 5]]
