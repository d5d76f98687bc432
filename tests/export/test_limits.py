"""A model too large for one ONNX file is refused before training, with the value that fits."""

import re

import numpy as np
import numpy.typing as npt
import pytest

from export import text_graph
from export.limits import GRAPH_BYTES, MAX_BYTES, check_size, text_model_bytes
from serving.bundle import onnx_metadata
from serving.errors import ExitCode, SettingsError
from serving.features.specification import FeatureSpec
from tests.export.models import words


def token_bytes_of(vocabulary: list[str]) -> npt.NDArray[np.int64]:
    return np.array([len(token.encode()) for token in vocabulary], dtype=np.int64)


def real_size(vocabulary: list[str], labels: list[str]) -> int:
    weight = np.zeros((len(labels), len(vocabulary)), np.float32)
    metadata = onnx_metadata(labels, FeatureSpec(), {"seed": 1, "text_column": "text"}, {})
    return len(text_graph.build(weight, weight[:, 0], vocabulary, labels, metadata).to_bytes())


VOCABULARIES = {
    "one": ["word"],
    "short": [chr(0x4E00 + row) for row in range(20_000)],
    "usual": [f"word{row}" for row in range(30_000)],
    "long": [f"{row:x}" * 20 for row in range(20_000)],
    "very long": [f"{row}" * 50_000 for row in range(30)],
    "emoji": [f"👩\u200d👧{chr(0x1F300 + row)}" for row in range(500)],
    "letters": [chr(0x100 + row) for row in range(5000)],
}
LABELS = {
    "two": ["a", "b"],
    "tickets": [f"label {row}" for row in range(150)],
    "languages": [f"語{row}é" for row in range(75)],
    "control characters": ["\x01" * 100 + str(row) for row in range(50)],
    "very long": [f"{row}" + "👍🏽" * 5000 for row in range(20)],
    "many": [f"label-{row}" for row in range(3000)],
}


@pytest.mark.parametrize("vocabulary", VOCABULARIES.values(), ids=VOCABULARIES)
@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS)
def test_the_estimate_is_never_below_the_real_size_and_not_far_above(
    vocabulary: list[str], labels: list[str]
) -> None:
    """If it failed, training would end in a file that cannot be written, or a model that fits be refused."""
    vocabulary = vocabulary[: 5_000_000 // len(labels)]
    estimate, real = (
        int(text_model_bytes(token_bytes_of(vocabulary), labels)[-1]),
        real_size(vocabulary, labels),
    )
    assert real <= estimate
    # Labels, as JSON, may need six times their bytes; the numbers that go with a word at most 16 bytes more.
    slack = GRAPH_BYTES + sum(8 * len(label.encode()) + 112 for label in labels)
    assert estimate <= real + slack + 16 * len(vocabulary)
    if len(labels) > 2:
        assert estimate <= 1.25 * real + slack


def test_the_estimate_of_every_shorter_vocabulary_is_its_own() -> None:
    """If it failed, the value that the message names would be wrong."""
    vocabulary = [f"w{'é' * (row % 7)}{row}" for row in range(100)]
    sizes = text_model_bytes(token_bytes_of(vocabulary), ["a", "b"])
    assert len(sizes) == 101
    for number in (0, 1, 50, 100):
        shorter = text_model_bytes(token_bytes_of(vocabulary[:number]), ["a", "b"])
        assert shorter[-1] == sizes[number]


@pytest.mark.parametrize("num_labels", [2, 75, 1000])
@pytest.mark.parametrize("fits", [1, 2, 500, 999])
def test_the_vocabulary_size_that_is_named_is_the_largest_that_fits(num_labels: int, fits: int) -> None:
    """If it failed, a user who does what the message says would be refused again, or lose words."""
    token_bytes = np.random.default_rng(0).integers(1, 30, 1000)
    labels = words(num_labels)
    limit = int(text_model_bytes(token_bytes, labels)[fits])
    for max_bytes in (limit, int(text_model_bytes(token_bytes, labels)[fits + 1]) - 1):
        with pytest.raises(SettingsError, match=r"^BOW_MAX_VOCABULARY: 1,000 words") as caught:
            check_size(token_bytes, labels, max_bytes=max_bytes)
        named = re.search(r"set BOW_MAX_VOCABULARY=(\d+)$", str(caught.value))
        assert named is not None
        assert int(named[1]) == fits
        assert f"at most {max_bytes:,};" in str(caught.value)
        assert f"{num_labels:,} labels" in str(caught.value)
        assert caught.value.exit_code == ExitCode.SETTINGS
        check_size(token_bytes[: int(named[1])], labels, max_bytes=max_bytes)
        with pytest.raises(SettingsError):
            check_size(token_bytes[: int(named[1]) + 1], labels, max_bytes=max_bytes)


def test_the_limit_is_that_of_a_protobuf_message() -> None:
    """If it failed, a model of 537 million weights would be trained and could not be written."""
    assert MAX_BYTES == 2**31 - 1
    words_of_ten_bytes = np.full(6_000_000, 10)
    check_size(words_of_ten_bytes, words(75))
    with pytest.raises(SettingsError, match="BOW_MAX_VOCABULARY=6"):
        check_size(np.full(7_000_000, 10), words(75))


def test_labels_that_fill_the_file_alone_are_blamed_themselves() -> None:
    """If it failed, a text column taken for the label column would send the user after the vocabulary."""
    labels = [f"the whole text of row {row}, taken for a label" for row in range(1000)]
    with pytest.raises(SettingsError, match="BOW_LABEL_COLUMN") as caught:
        check_size(np.full(100, 5), labels, max_bytes=GRAPH_BYTES + 10_000)
    assert "1,000 labels are too many" in str(caught.value)
    assert "BOW_MAX_VOCABULARY" not in str(caught.value)


def test_a_model_that_fits_is_not_refused() -> None:
    """If it failed, a model at the limit could not be trained."""
    token_bytes = np.full(100, 5)
    check_size(token_bytes, ["a", "b"], max_bytes=int(text_model_bytes(token_bytes, ["a", "b"])[-1]))


def test_the_estimate_knows_how_many_lookups_a_vocabulary_has() -> None:
    """If it failed, a vocabulary just beyond those with two would be refused, or one just below not be."""
    vocabulary = [f"word{row}" for row in range(80_000)]
    sizes = text_model_bytes(token_bytes_of(vocabulary), ["a", "b"])
    (edge,) = np.flatnonzero(np.diff(sizes) < 0)
    for number in (edge, edge + 1):
        real = real_size(vocabulary[:number], ["a", "b"])
        assert real <= sizes[number] <= real + GRAPH_BYTES + 16 * number
