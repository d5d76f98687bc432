"""The n-gram graph: small in memory, whole on every path, and the same bytes twice."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from export.chunks import MAX_BLOCK, MAX_CHUNK, ROW_ENDS, SHORT_TEXT, Chunking
from export.limits import GRAPH_BYTES, check_size, text_model_bytes
from serving.errors import SettingsError
from serving.features.lookup import BOUNDARY
from serving.features.specification import FeatureSpec, features
from serving.parity.verify import reference_of
from serving.weights import Parameters
from tests.export.models import TextModelSession, assert_close, text_file
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
    assert_close(session.run(["ba"])[0], reference.score([""]).log_probs)


@pytest.mark.parametrize("ids_per_byte", [1, 5, 11])
@pytest.mark.parametrize("num_labels", [1, 2, 75, 150, 5000, 1 << 20, 1 << 23])
def test_chunks_keep_within_the_limits(num_labels: int, ids_per_byte: int) -> None:
    """If it failed, a batch would ask for more memory than was planned, or a chunk would hold no text."""
    chunking = Chunking.of_ngrams(num_labels, ids_per_byte)
    assert 1 <= chunking.medium_size <= chunking.size <= MAX_CHUNK
    assert 1 <= chunking.block <= MAX_BLOCK
    assert chunking.size == 1 or chunking.short_bytes >= SHORT_TEXT
    for size, length in (
        (chunking.size, chunking.short_bytes),
        (chunking.medium_size, chunking.medium_bytes),
    ):
        assert size == 1 or size * ids_per_byte * (length + ROW_ENDS) <= chunking.block


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
