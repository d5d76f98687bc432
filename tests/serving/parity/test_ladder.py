"""The ladder's samples, and both ONNX models in onnxruntime."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.bundle import FILES, Bundle
from serving.errors import ArtifactError
from serving.features.specification import WHITESPACE
from serving.parity import ladder
from serving.parity.adversarial import (
    LOOK_ALIKES,
    MAX_CHARACTERS,
    REPETITIONS,
    adversarial_texts,
    in_batches,
)
from serving.parity.ladder import Sample, dense_rungs, samples
from serving.parity.reference import Bags, Reference, Scores
from serving.parity.rungs import Tolerance
from serving.parity.verify import read_parameters
from serving.session import BowModel, TextModel
from tests.serving.damage import replaced


@pytest.fixture(scope="module")
def reference(bundle: Bundle) -> Reference:
    parameters = read_parameters(bundle)
    return Reference.of(parameters.weight, parameters.bias, parameters.vocabulary)


@pytest.fixture(scope="module")
def text_model(bundle: Bundle) -> TextModel:
    return TextModel(bundle.path / FILES.text_model, 5)


# --- texts ----------------------------------------------------------------------------------------------


def test_the_adversarial_texts_hold_what_breaks_tokenizers() -> None:
    """If it failed, a runtime could split at another code point, or sum too coarsely, unseen."""
    some = adversarial_texts([f"w{number}" for number in range(20)])
    assert some[0] == ""
    for point in (*WHITESPACE, *LOOK_ALIKES):
        assert f"w0{chr(point)}w19" in some
        assert f"{chr(point)}w0{chr(point)}" in some
    assert " ".join(["w0"] * REPETITIONS) in some
    assert len(some[-1].split()) == 100_000
    assert not any("\0" in text for text in some)
    assert all(text.encode() for text in some[1:])


def test_long_words_make_no_longer_texts() -> None:
    """If it failed, texts without spaces, as in Chinese, would cost the proof gigabytes."""
    some = adversarial_texts(["語" * 50_000, "w"])
    assert max(map(len, some)) < 2_100_000
    assert len(adversarial_texts([f"word{number}" for number in range(2000)])[-1].split()) == 100_000


@pytest.mark.parametrize("vocabulary", [[], ["only"], ["a", "b"]])
def test_a_model_of_hardly_any_words_has_adversarial_texts_too(vocabulary: list[str]) -> None:
    """If it failed, such a model could not be verified."""
    assert len(adversarial_texts(vocabulary)) > 100


@pytest.mark.parametrize("number", [0, 1, 2, 8, 9, 264, 265, 600])
def test_batches_of_0_1_7_and_256_hold_every_text_once_in_order(number: int) -> None:
    """If it failed, a batch size would go untested, or a text."""
    texts = [str(each) for each in range(number)]
    batches = list(in_batches(texts))
    assert [text for batch in batches for text in batch] == texts
    sizes = [0, 1, 7, 256] * 3
    assert all(len(batch) == size for batch, size in zip(batches[:-1], sizes, strict=False))
    assert number == 0 or 0 < len(batches[-1]) <= sizes[len(batches) - 1]


def test_every_word_stands_in_a_sample(bundle: Bundle, reference: Reference) -> None:
    """If it failed, a word could have another id in a runtime unseen."""
    vocabulary = bundle.vocabulary()
    by_name = {sample.name: sample for sample in samples(reference, vocabulary, {"mine": ["a"], "none": []})}
    assert list(by_name) == ["adversarial texts", "every-word texts", "mine"]
    assert " ".join(by_name["every-word texts"].texts).split() == vocabulary
    assert all(len(sample.scores) == len(sample.texts) for sample in by_name.values())


def test_texts_that_were_given_are_left_out_where_they_are_longer_than_ours(reference: Reference) -> None:
    """If it failed, one row of 20 MiB would take all the memory that there is to prove a model."""
    longest = "x" * MAX_CHARACTERS
    *_, mine = samples(reference, ["a"], {"mine": ["a", longest + "x", longest]})
    assert mine.texts == ["a", longest]


@pytest.mark.parametrize(("number", "limit", "expected"), [(3, 3, 3), (3, 9, 3), (100, 7, 7), (5, 2, 2)])
def test_a_part_of_a_sample_is_spread_from_the_first_to_the_last(
    number: int, limit: int, expected: int
) -> None:
    """If it failed, the longest text, which comes last, would be left out, or held to another's scores."""
    log_probs = np.arange(number, dtype=np.float64)[:, None]
    scores = Scores(log_probs=log_probs, rounding_scale=log_probs[:, 0])
    none = np.zeros(number + 1, np.int64)
    bags = Bags(ids=none[:0], offsets=none)
    sample = Sample(name="x", texts=[str(row) for row in range(number)], bags=bags, scores=scores)
    rows = sample.spread(limit).tolist()
    assert len(set(rows)) == len(rows) == expected
    assert (rows[0], rows[-1]) == (0, number - 1)


def test_a_dense_rung_takes_no_more_cells_at_once_than_it_may(
    reference: Reference, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it failed, a model of 500,000 words could not be verified in the memory of one machine."""
    monkeypatch.setattr(ladder, "DENSE_CELLS", 303 * 3)
    monkeypatch.setattr(ladder, "MAX_DENSE_CELLS", 0)
    monkeypatch.setattr(ladder, "MIN_DENSE_TEXTS", 8)
    texts = [f"w{number}" for number in range(20)]
    sizes = []

    def log_probs(bow: Any) -> Any:
        sizes.append(len(bow))
        logits = bow.astype(np.float64) @ reference.weight.T.astype(np.float64) + reference.bias
        return logits - np.logaddexp.reduce(logits, axis=1)[:, None]

    sample = Sample.of("texts", texts, reference)
    (rung,) = dense_rungs("x", log_probs, reference, [sample], Tolerance(), float32_sums=False)
    assert sizes == [3, 3, 2]
    assert rung.count == 8
    assert rung.holds
    assert rung.largest_difference < 1e-12


# --- models ---------------------------------------------------------------------------------------------

TEXTS = ["w1 w1 w2é café", "", " ", "nothing known", "Straße\u3000東京", "w4\tw5", "w1" * 50, "😀 " * 400]


def test_the_text_model_gives_the_reference_and_its_first_best_label(
    bundle: Bundle, reference: Reference, text_model: TextModel
) -> None:
    """If it failed, what is served would not be what was trained."""
    expected = reference.score(TEXTS).log_probs
    log_probs, labels = text_model.predict(TEXTS)
    assert log_probs.dtype == np.float32
    np.testing.assert_allclose(log_probs, expected, rtol=1e-5, atol=1e-5)
    assert labels == [bundle.labels()[best] for best in log_probs.argmax(axis=1)]
    one_by_one = np.vstack([text_model.log_probs([text]) for text in TEXTS])
    np.testing.assert_allclose(one_by_one, expected, rtol=1e-5, atol=1e-5)


def test_both_models_take_no_texts(bundle: Bundle, text_model: TextModel) -> None:
    """If it failed, an empty request would be an error."""
    log_probs, labels = text_model.predict([])
    assert log_probs.shape == (0, 5)
    assert labels == []
    bow_model = BowModel(bundle.path / FILES.bow_model, 5, 303)
    assert bow_model.log_probs(np.zeros((0, 303), np.float32)).shape == (0, 5)


@pytest.mark.parametrize("point", WHITESPACE)
def test_a_text_alone_is_split_at_every_whitespace(
    reference: Reference, text_model: TextModel, point: int
) -> None:
    """If it failed, the short texts' path would split at other code points than the general one."""
    text = f"w1{chr(point)}w2"
    expected = reference.score(["w1 w2"]).log_probs
    np.testing.assert_allclose(text_model.log_probs([text]), expected, rtol=1e-5, atol=1e-5)


def test_models_of_another_size_or_kind_are_refused(bundle: Bundle) -> None:
    """If it failed, a model of other labels would be served with this bundle's names."""
    text_model, bow_model = bundle.path / FILES.text_model, bundle.path / FILES.bow_model
    for load in (
        lambda: TextModel(text_model, 4),
        lambda: TextModel(bow_model, 5),
        lambda: BowModel(bow_model, 5, 302),
        lambda: BowModel(bow_model, 6, 303),
        lambda: BowModel(text_model, 5, 303),
    ):
        with pytest.raises(ArtifactError, match=r"expected Signature.*found Signature"):
            load()


def test_a_missing_or_broken_model_is_refused(tmp_path: Path) -> None:
    """If it failed, onnxruntime's own errors would end in a traceback."""
    path = tmp_path / "model.onnx"
    with pytest.raises(ArtifactError, match="there is no such file"):
        TextModel(path, 5)
    path.write_bytes(b"not a model")
    with pytest.raises(ArtifactError, match=r"onnxruntime [\d.]+ cannot load it"):
        TextModel(path, 5)


def test_a_refused_model_prints_nothing(copy: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """If it failed, standard output would hold lines that are not answers."""
    replaced(FILES.text_model, b"Tokenizer", b"Tokenize\xff")(copy)
    with pytest.raises(ArtifactError, match="cannot load it"):
        TextModel(copy / FILES.text_model, 5)
    assert capfd.readouterr().out == ""
