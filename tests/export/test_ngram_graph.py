"""The n-gram graph: small in memory, whole on every path, and the same bytes twice."""

import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnxruntime as ort
import pytest
from onnx import GraphProto, NodeProto, TensorProto

from export.chunks import MAX_BLOCK, MAX_NGRAM_CHUNK, MAX_SHORT_TEXT, ROW_ENDS, SHORT_TEXT, Chunking
from export.graph import nodes, value
from export.limits import GRAPH_BYTES, check_size, text_model_bytes
from export.weighting_graph import MAX_COUNT
from serving.errors import SettingsError
from serving.features import tables
from serving.features.hashes import BOUNDARY
from serving.features.specification import FeatureSpec, features
from serving.parity.verify import reference_of
from serving.session import session_options
from serving.weights import Parameters
from tests.export.models import TextModelSession, assert_close, text_file, text_model
from tests.export.test_text_graph import MEASURE, REPOSITORY

SPECS = {
    "counts": FeatureSpec(char_ngrams=(1, 3)),
    "tfidf": FeatureSpec(
        tokenizer="words",
        lowercase=True,
        word_ngrams=2,
        char_ngrams=(2, 4),
        weighting="tfidf",
        normalize="l2",
    ),
}


def parameters_of(texts: Sequence[str], num_labels: int, spec: FeatureSpec) -> Parameters:
    names = list(dict.fromkeys(name for text in texts for name in features(text, spec)))
    names.sort(key=lambda name: name[0] == " ")
    generator = np.random.default_rng(0)
    return Parameters(
        weight=generator.standard_normal((num_labels, len(names))).astype(np.float32),
        bias=generator.standard_normal(num_labels).astype(np.float32),
        vocabulary=names,
        labels=[f"label {place}" for place in range(num_labels)],
        spec=spec,
        idf=(1 + generator.random(len(names))).astype(np.float32) if spec.weighting == "tfidf" else None,
    )


WORDS = [f"w{place}" for place in range(2000)]


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="the system does not tell the peak memory")
@pytest.mark.parametrize("num_labels", [2, 150])
@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_a_batch_with_one_very_long_text_takes_little_memory(
    tmp_path: Path, num_labels: int, spec: FeatureSpec
) -> None:
    """If it failed, one text of 100,000 tokens among 256 would end the server."""
    path = tmp_path / "model.onnx"
    parameters = parameters_of([" ".join(WORDS)], num_labels, spec)
    path.write_bytes(text_file(parameters).to_bytes())
    done = subprocess.run(
        [sys.executable, "-c", MEASURE, str(path)], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 400e6
    print(f"{num_labels} labels: {int(done.stdout) / 1e6:.0f} MB")


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_texts_of_all_lengths_in_a_batch_are_as_each_alone(spec: FeatureSpec) -> None:
    """If it failed, chunks of a large mixed batch would overlap, miss a text, or mix two."""
    generator = np.random.default_rng(1)
    lengths = (generator.random(400) ** 8 * 1500).astype(int)
    texts = [" ".join(generator.choice(WORDS[:300], length)) for length in lengths]
    parameters = parameters_of([" ".join(WORDS[:200])], 40, spec)
    session, reference = TextModelSession(parameters), reference_of(parameters)
    expected = reference.score(texts).log_probs
    assert_close(session.run(texts)[0], expected)
    order = np.argsort(lengths)
    assert_close(session.run([texts[place] for place in order])[0], expected[order])
    for place in range(0, 400, 40):
        assert_close(session.run([texts[place]])[0], expected[place : place + 1])


def test_a_token_that_shares_a_known_ones_hash_is_not_taken_for_it() -> None:
    """If it failed, whether a word is known would be a matter of chance."""
    spec = FeatureSpec(lowercase=True)
    parameters = parameters_of(["ab ba cd"], 3, spec)
    assert parameters.tables is not None
    assert parameters.tables.tokens is not None
    # With one factor for all places a token's hash is the sum of its codes: anagrams share it.
    parameters.tables.tokens.factors[:-1] = 1
    hashes = parameters.tables.tokens.hashes
    tokens = parameters.tables.tokens
    hashes[:] = np.add.reduceat(np.where(tokens.codes > BOUNDARY, tokens.codes, 0), tokens.starts[1:])
    hashes[1] = 10**6  # "ba" is not found at all
    session, reference = TextModelSession(parameters), reference_of(parameters)
    for text in ("ab", "dc", "cd", "abba", "a", "b"):
        assert_close(session.run([text])[0], reference.score([text]).log_probs)
        # With a second text, so that the first goes by its code points.
        assert_close(session.run([text, "x"])[0], reference.score([text, "x"]).log_probs)
    assert_close(session.run(["ba", "x"])[0], reference.score(["", "x"]).log_probs)
    # Alone, by their code points too: they are in no spelling.
    for text in ("aB", "dC", "cD", "aBx", "bAx"):
        assert_close(session.run([text])[0], reference.score([text]).log_probs)
    assert_close(session.run(["bA"])[0], reference.score([""]).log_probs)


@pytest.mark.parametrize("ids_per_byte", [1, 5, 11])
@pytest.mark.parametrize("num_labels", [1, 2, 75, 150, 5000, 1 << 20, 1 << 23])
def test_chunks_keep_within_the_limits(num_labels: int, ids_per_byte: int) -> None:
    """If it failed, a batch would ask for more memory than was planned, or a chunk would hold no text."""
    chunking = Chunking.of_ngrams(num_labels, ids_per_byte)
    assert 1 <= chunking.medium_size <= chunking.size <= MAX_NGRAM_CHUNK
    assert 1 <= chunking.block <= MAX_BLOCK
    assert chunking.short_bytes <= MAX_SHORT_TEXT
    assert chunking.size == 1 or chunking.short_bytes >= SHORT_TEXT
    for size, length in (
        (chunking.size, chunking.short_bytes),
        (chunking.medium_size, chunking.medium_bytes),
    ):
        assert size == 1 or size * ids_per_byte * (length + ROW_ENDS) <= chunking.block


@pytest.mark.parametrize("tokenizer", ["whitespace", "words", "characters"])
@pytest.mark.parametrize("word_ngrams", [1, 2, 3])
@pytest.mark.parametrize("char_ngrams", [None, (2, 4), (3, 8)])
@pytest.mark.parametrize(("weighting", "normalize"), [("count", "none"), ("tfidf", "l2")])
def test_a_graph_has_nothing_that_it_does_not_use(
    tokenizer: Any,
    word_ngrams: int,
    char_ngrams: tuple[int, int] | None,
    weighting: Any,
    normalize: Any,
) -> None:
    """If it failed, onnxruntime would warn of it wherever the model is loaded."""
    if tokenizer == "characters" and char_ngrams:
        pytest.skip("both are of code points")
    spec = FeatureSpec(
        tokenizer=tokenizer,
        lowercase=True,
        word_ngrams=word_ngrams,
        char_ngrams=char_ngrams,
        weighting=weighting,
        normalize=normalize,
    )
    graph = text_model(parameters_of(["to be or not to be", "that is the question"], 3, spec)).graph
    used = {name for node in nodes(graph) for name in node.input} | {value.name for value in graph.output}
    used |= {output.name for within in _graphs(graph) for output in within.output}
    made = {node.output[0] for node in nodes(graph)} | {tensor.name for tensor in graph.initializer}
    assert made <= used


def _graphs(graph: GraphProto) -> Iterator[GraphProto]:
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield attribute.g
                yield from _graphs(attribute.g)


@pytest.mark.parametrize("spec", SPECS.values(), ids=SPECS)
def test_the_size_of_the_file_is_known_before_training(spec: FeatureSpec) -> None:
    """If it failed, a model too large for one file would be refused after training, hours later."""
    parameters = parameters_of([" ".join(WORDS)], 3, spec)
    assert parameters.tables is not None
    token_bytes = np.array([len(name.encode()) for name in parameters.vocabulary])
    table_bytes = parameters.tables.num_bytes()
    own = len(text_file(parameters).to_bytes())
    most = int(text_model_bytes(token_bytes, parameters.labels, has_tables=True)[-1]) + table_bytes
    assert own <= most < 2 * own + GRAPH_BYTES
    check_size(token_bytes, parameters.labels, table_bytes=table_bytes, max_bytes=most)
    with pytest.raises(SettingsError, match=r"BOW_MAX_CHAR_NGRAMS: .* features in all"):
        check_size(token_bytes, parameters.labels, table_bytes=table_bytes, max_bytes=most - 1)


def at_the_limit(seed: int) -> list[str]:
    """Texts of nearly as many bytes as one may have that goes its own way, and of as many, and more."""
    generator = np.random.default_rng(seed)
    texts = []
    for alphabet in ("w1 ", "é1w ", "a b'\u2019", "日w "):
        for num_bytes in range(SHORT_TEXT - 4, SHORT_TEXT + 5):
            text = ""
            while len(text.encode()) < num_bytes:
                text += str(generator.choice(list(alphabet)))
            texts.append(text)
    return texts


@pytest.mark.parametrize("normalize", ["none", "l2"])
@pytest.mark.parametrize("weighting", ["count", "binary", "log", "tfidf"])
def test_one_short_text_is_summed_as_the_reference_does(weighting: str, normalize: str) -> None:
    """If it failed, a text would be classified otherwise alone than among others."""
    spec = msgspec.structs.replace(SPECS["tfidf"], weighting=weighting, normalize=normalize)
    often = ["a" * SHORT_TEXT, "a " * (SHORT_TEXT // 2), "\u2603" * 66, " " * SHORT_TEXT, "", "'", "zzz"]
    texts = [*often, *at_the_limit(0)]
    parameters = parameters_of([*WORDS[:50], "a a", *often[:3], *texts[::5]], 3, spec)
    session, reference = TextModelSession(parameters), reference_of(parameters)
    expected = reference.score(texts).log_probs
    assert_close(session.run(texts)[0], expected)
    assert_close(np.concatenate([session.run([text])[0] for text in texts]), expected)


def test_one_short_text_goes_its_own_way_and_nothing_else_does() -> None:
    """If it failed, a short text would take twice the time, or a long one the memory of many."""
    model = text_model(parameters_of(WORDS[:50], 3, SPECS["tfidf"]))
    (decision,) = (node for node in model.graph.node if node.op_type == "If")
    model.graph.output.append(value(decision.input[0], TensorProto.BOOL, [1]))
    session = ort.InferenceSession(model.SerializeToString(), session_options())

    def is_alone(*texts: str) -> bool:
        found: Any = session.run([decision.input[0]], {"text": np.array(texts, dtype=object)})
        return bool(found[0].item())

    for text in ("", "a", "\u2603", "a " * (SHORT_TEXT // 2), *at_the_limit(1)):
        assert is_alone(text) == (len(text.encode()) <= SHORT_TEXT)
    assert not is_alone()
    assert not is_alone("a", "b")
    assert not is_alone("a", "b" * 1000)


def test_a_large_vocabulary_is_looked_up_in_one_place(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it failed, a model of a million n-grams would take twice the memory, or give other numbers."""
    parameters = parameters_of(WORDS[:50], 3, SPECS["tfidf"])
    two = TextModelSession(parameters)
    assert len(list(lookups(parameters))) == 2 * 3 + 1  # that of spellings stands there once
    monkeypatch.setattr(tables, "MAX_SECOND_LOOKUP", 0)
    parameters = parameters_of(WORDS[:50], 3, SPECS["tfidf"])
    assert len(list(lookups(parameters))) == 3
    one = TextModelSession(parameters)
    for texts in ([], ["w1"], ["w1 w2 \u2603", "w3"], WORDS):
        np.testing.assert_array_equal(one.run(texts)[0], two.run(texts)[0])


def lookups(parameters: Parameters) -> Iterator[NodeProto]:
    return (node for node in nodes(text_model(parameters).graph) if node.op_type == "LabelEncoder")


@pytest.mark.parametrize("num_labels", [1, 150, 5000, 1 << 23])
def test_no_feature_of_a_short_text_occurs_too_often_to_be_counted(num_labels: int) -> None:
    """If it failed, the 256th occurrence would make a count of 0."""
    assert min(SHORT_TEXT, Chunking.of_ngrams(num_labels, 1).short_bytes) + ROW_ENDS <= MAX_COUNT
