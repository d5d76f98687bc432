"""`predict`: a line in, a JSON line out, in order, as they come."""

import json
import math
import os
import random
import threading
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.bundle import FILES, Bundle
from serving.errors import ArtifactError, DataError
from serving.predict import MAX_BATCH, READ_BYTES, predict
from serving.predictor import USED, Predictor
from serving.selection import Selection
from serving.session import TextModel
from tests.serving.conftest import WORDS

LABELS = [f"label {number}é" for number in range(5)]


@pytest.fixture(scope="module")
def text_model(bundle: Bundle) -> TextModel:
    return TextModel(bundle.path / FILES.text_model, len(LABELS))


@pytest.fixture(scope="module")
def predictor(trained: Path) -> Predictor:
    return Predictor.load(trained)


def answers(
    predictor: Predictor, content: bytes, tmp_path: Path, **selection: Any
) -> list[list[dict[str, Any]]]:
    """The predictions for each line of the content."""
    path = tmp_path / "texts"
    path.write_bytes(content)
    sink = BytesIO()
    with path.open("rb") as source:
        predict(predictor, source, str(path), sink, Selection(**selection))
    return told(sink.getvalue())


def told(output: bytes) -> list[list[dict[str, Any]]]:
    lines = output.decode().split("\n")
    assert lines.pop() == ""
    objects = [json.loads(line) for line in lines]
    assert all(list(each) == ["predictions"] for each in objects)
    return [each["predictions"] for each in objects]


@pytest.mark.parametrize(
    ("content", "texts"),
    [
        (b"", []),
        (b"w1 w2\n", ["w1 w2"]),
        (b"w1 w2", ["w1 w2"]),
        (b"\n", [""]),
        (b"\n\n\n", ["", "", ""]),
        (b"w1\n\nw2\n", ["w1", "", "w2"]),
        (b"w1\r\nw2\r\n", ["w1", "w2"]),
        (b"w1\r\nw2\r", ["w1", "w2"]),
        (b"\r\n", [""]),
        (b"w1\rw2\n", ["w1 w2"]),
        (b"w1\r\r\n", ["w1"]),
        (b"\xef\xbb\xbfw1\n\xef\xbb\xbfw2\n", ["w1", "\ufeffw2"]),
        ("w1\u2028w2\u0085w4\x0bw5\n".encode(), ["w1 w2 w4 w5"]),
        ("café 東京 שלום 😀\n".encode(), ["café 東京 שלום 😀"]),
    ],
)
def test_each_line_has_an_answer(
    predictor: Predictor, text_model: TextModel, tmp_path: Path, content: bytes, texts: list[str]
) -> None:
    """If it failed, answers could not be put beside the texts that they belong to."""
    found = answers(predictor, content, tmp_path, top_k=5)
    expected = text_model.log_probs(texts)
    assert len(found) == len(texts)
    for predictions, row in zip(found, expected, strict=True):
        by_label = {each["label"]: each["log_prob"] for each in predictions}
        assert [np.float32(by_label[label]) for label in LABELS] == row.tolist()


def test_answers_are_the_models_own_numbers_most_probable_first(
    predictor: Predictor, text_model: TextModel, tmp_path: Path
) -> None:
    """If it failed, the command would answer otherwise than the model does elsewhere."""
    generator = random.Random(1)
    texts = [" ".join(generator.choices([*WORDS, "unknown"], k=generator.randrange(12))) for _ in range(60)]
    found = answers(predictor, "\n".join(texts).encode(), tmp_path, top_k=5)
    log_probs, best = text_model.predict(texts)
    for predictions, row, label in zip(found, log_probs, best, strict=True):
        assert [list(each) for each in predictions] == [["label", "prob", "log_prob"]] * 5
        values = [each["log_prob"] for each in predictions]
        assert values == sorted(values, reverse=True)
        assert predictions[0]["label"] == label
        for each in predictions:
            assert np.float32(each["log_prob"]) == row[LABELS.index(each["label"])]
            assert each["prob"] == pytest.approx(np.exp(each["log_prob"]), rel=1e-5)
        assert sum(each["prob"] for each in predictions) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize(("top_k", "number"), [(1, 1), (2, 2), (5, 5), (6, 5), (10**30, 5)])
def test_as_many_labels_as_asked_for_and_no_more_than_there_are(
    predictor: Predictor, tmp_path: Path, top_k: int, number: int
) -> None:
    """If it failed, `--top-k` would give too few labels, or end in a traceback."""
    everything = answers(predictor, b"w1\n\n", tmp_path, top_k=5)
    assert answers(predictor, b"w1\n\n", tmp_path, top_k=top_k) == [each[:number] for each in everything]


def test_labels_below_the_threshold_are_left_out(predictor: Predictor, tmp_path: Path) -> None:
    """If it failed, a caller that wants sure answers alone would get others too, or lose the line."""
    (everything,) = answers(predictor, b"w1 w2\n", tmp_path, top_k=5)
    exact = [math.exp(np.float32(each["log_prob"])) for each in everything]
    for number, least in enumerate(exact, 1):
        assert answers(predictor, b"w1 w2\n", tmp_path, top_k=5, threshold=least) == [everything[:number]]
        assert answers(predictor, b"w1 w2\n", tmp_path, top_k=1, threshold=least) == [everything[:1]]
    assert answers(predictor, b"w1 w2\n\n", tmp_path, top_k=5, threshold=1.0) == [[], []]
    assert answers(predictor, b"w1 w2\n", tmp_path, top_k=5, threshold=0.0) == [everything]


def test_equally_probable_labels_stand_in_the_models_order(
    predictor: Predictor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it failed, `predict` and the model's own output `label` would name different labels."""
    ties = np.log(np.array([[0.1, 0.3, 0.2, 0.3, 0.1], [0.2] * 5], dtype=np.float32))
    # A trained model has no ties.
    monkeypatch.setattr(TextModel, "log_probs", lambda _, texts: ties[: len(texts)])
    first, second = answers(predictor, b"a\nb\n", tmp_path, top_k=5)
    assert [each["label"] for each in first] == [LABELS[label] for label in (1, 3, 2, 0, 4)]
    assert [each["label"] for each in second] == LABELS
    assert [each["label"] for (each,) in answers(predictor, b"a\nb\n", tmp_path)] == [LABELS[1], LABELS[0]]


def test_many_lines_are_answered_in_order(predictor: Predictor, tmp_path: Path) -> None:
    """If it failed, a file longer than a batch would lose, repeat or exchange answers."""
    texts = [f"{WORDS[row % 303]} {WORDS[row * row % 303]}" for row in range(MAX_BATCH + 976)]
    assert len(texts) == 2000
    found = answers(predictor, "\n".join(texts).encode(), tmp_path)
    every = {text: answers(predictor, text.encode(), tmp_path) for text in set(texts[::50])}
    assert len(found) == 2000
    assert [found[row] for row in range(0, 2000, 50)] == [every[text][0] for text in texts[::50]]


def test_a_line_of_a_megabyte_is_one_text(
    predictor: Predictor, text_model: TextModel, tmp_path: Path
) -> None:
    """If it failed, a long text would be cut where a read ends, or within a character."""
    long = "é " + "w1 café unknown " * 65_000
    assert len(long.encode()) > 1 << 20 > READ_BYTES
    first, found, last = answers(predictor, f"w1\n{long}\nw2\n".encode(), tmp_path, top_k=5)
    assert [first, last] == answers(predictor, b"w1\nw2\n", tmp_path, top_k=5)
    row = text_model.log_probs([long])[0]
    assert {each["label"]: np.float32(each["log_prob"]) for each in found} == dict(
        zip(LABELS, row, strict=True)
    )


@pytest.mark.parametrize(
    ("bad", "what"),
    [
        (b"w1 \xff w2", "byte 0xff at place 4"),
        (b"\xe2\x82", "byte 0xe2 at place 1"),
        (b"\xed\xa0\x80", "byte 0xed at place 1"),
        (b"w1\0w2", "a NUL character"),
        (b"\0", "a NUL character"),
        ("w1".encode("utf-16"), "byte 0xff at place 1"),
    ],
)
@pytest.mark.parametrize("before", [0, 2, MAX_BATCH, MAX_BATCH + 1])
def test_a_line_that_is_no_text_is_named_after_the_lines_before_it_were_answered(
    predictor: Predictor, tmp_path: Path, bad: bytes, what: str, before: int
) -> None:
    """If it failed, nobody could find the bad line, or would know which ones were answered."""
    path, sink = tmp_path / "texts", BytesIO()
    path.write_bytes(b"w1\n" * before + bad + b"\nw2\n")
    with path.open("rb") as source, pytest.raises(DataError) as caught:
        predict(predictor, source, str(path), sink, Selection())
    assert f"{path}:{before + 1}: expected a text in UTF-8 without NUL, found {what};" in str(caught.value)
    assert len(told(sink.getvalue())) == before


def test_a_character_may_come_in_two_reads(predictor: Predictor, tmp_path: Path) -> None:
    """If it failed, texts that come over a slow network would be refused at random."""
    outcome: list[bytes] = []
    reader, writer = os.pipe()

    def run() -> None:
        sink = BytesIO()
        with os.fdopen(reader, "rb") as source:
            predict(predictor, source, "pipe", sink, Selection())
        outcome.append(sink.getvalue())

    thread = threading.Thread(target=run)
    thread.start()
    for number in "café\r\nnaïve".encode():
        os.write(writer, bytes([number]))
    os.close(writer)
    thread.join(30)
    assert told(outcome[0]) == answers(predictor, "café\nnaïve\n".encode(), tmp_path)


@pytest.mark.parametrize("name", USED)
def test_a_damaged_file_that_predict_uses_is_refused(copy: Path, tmp_path: Path, name: str) -> None:
    """If it failed, a damaged model would be served."""
    (copy / name).write_bytes((copy / name).read_bytes() + b"\n")
    with pytest.raises(ArtifactError, match=f"{name} differs"):
        answers(Predictor.load(copy), b"w1\n", tmp_path)


def test_files_that_predict_does_not_use_may_be_left_behind(copy: Path, tmp_path: Path) -> None:
    """If it failed, a small image could not hold the text model alone."""
    for name in set(FILES.hashed) - set(USED):
        (copy / name).unlink()
    assert len(answers(Predictor.load(copy), b"w1\n", tmp_path)) == 1
