from pathlib import Path
from typing import Any

import pytest
import structlog

from job import labels, tutorial
from job.corpus.bags import Bags, concatenate
from job.corpus.corpus import Corpus
from job.corpus.prepare import FeatureLimits, prepare
from job.dataset import DataSpec
from job.environment import load_settings
from job.features.ngrams import Limits
from job.inputs import Inputs, read_inputs, read_vocabulary
from job.run import run
from job.telling.output import Output
from serving.errors import DataError
from serving.features.specification import PLAIN


def read(tmp_path: Path, vocabulary: Path | None = None, **files: str) -> Inputs:
    specs = {}
    for use, content in files.items():
        path = tmp_path / f"{use}.tsv"
        path.write_text("text\tlabel\n" + content)
        specs[use] = DataSpec(location=str(path), setting=f"BOW_{use.upper()}_DATA")
    return read_inputs(specs, vocabulary, num_threads=1, max_rejected=0.5)


def whole(corpus: Corpus) -> Bags:
    return concatenate(list(corpus))


def features(*, min_count: int = 1) -> dict[str, Any]:
    """Of `prepare`: the tokens of `str.split()`, as often seen as that."""
    limits = Limits(min_count=min_count, max_size=None)
    return {
        "spec": PLAIN,
        "limits": FeatureLimits(tokens=limits, word_ngrams=limits, char_ngrams=limits),
    }


def test_each_data_set_is_read_for_its_use(tmp_path: Path) -> None:
    """If it failed, test rows could be trained on."""
    inputs = read(tmp_path, train="a b\tx\nc\ty\nbad row\n", validation="a\tx\n", test="d\tz\na\tx\n")
    assert {use: corpus.num_rows for use, corpus in inputs.corpora.items()} == {
        "train": 2,
        "validation": 1,
        "test": 2,
    }
    assert inputs.label_names == ["x", "y"]
    assert labels.unseen(inputs) == {"test": ["z"]}
    assert inputs.records["train"].rejected == 1
    assert len(inputs.rejected) == 1
    prepared = prepare(inputs, validation_split=0, seed=1, **features())
    assert prepared.vocabulary.words == ["a", "b", "c"]
    assert whole(prepared.corpora["test"]).labels.tolist() == [-1, 0]


def test_the_tutorial_brings_its_own_test_data_and_vocabulary() -> None:
    """If it failed, `make train` would have nothing to show for the tutorial's sentences."""
    inputs = read_inputs(
        {"train": DataSpec(location="tutorial", setting="BOW_TRAIN_DATA")},
        None,
        num_threads=1,
        max_rejected=0,
    )
    assert inputs.is_tutorial
    assert inputs.label_names == ["SPANISH", "ENGLISH"]
    prepared = prepare(inputs, validation_split=0, seed=1, **features())
    assert prepared.vocabulary.words == tutorial.vocabulary().words
    assert whole(prepared.corpora["train"]).labels.tolist() == [0, 1, 0, 1]
    assert whole(prepared.corpora["test"]).labels.tolist() == [0, 1]


def test_one_label_is_not_enough(tmp_path: Path) -> None:
    """If it failed, a model that can only say one thing would be trained without a word."""
    with pytest.raises(DataError, match=r"at least two labels, found only 'x' in 2 rows.*BOW_LABEL_COLUMN"):
        read(tmp_path, train="a\tx\nb\tx\n")
    with pytest.raises(DataError, match=r"only 'x' in 1 rows \(1 more were rejected\)"):
        read(tmp_path, train="a\tx\nb\t\n")


def test_labels_that_look_the_same_are_told(tmp_path: Path) -> None:
    """If it failed, the space that a CSV has behind its commas would split a class, and nobody would know."""
    (tmp_path / "train.csv").write_text("text,label\na,spam\nb, spam\nc,Spam\nd,ham\n")
    settings = load_settings({"BOW_TRAIN_DATA": f"{tmp_path}/train.csv", "BOW_OUTPUT_DIR": f"{tmp_path}/out"})
    with structlog.testing.capture_logs() as logs:
        run(settings, Output(for_people=False))
    (told,) = [each for each in logs if each["event"] == "labels_alike"]
    assert (told["groups"], told["number"]) == ([[" spam", "Spam", "spam"]], 1)


def test_validation_rows_are_taken_out_of_the_training_rows(tmp_path: Path) -> None:
    """If it failed, the validation accuracy would be that of texts the model has seen."""
    inputs = read(tmp_path, train="".join(f"w{row}\t{'xy'[row % 2]}\n" for row in range(20)))
    prepared = prepare(inputs, validation_split=0.2, seed=1, **features())
    train, validation = prepared.corpora["train"], prepared.corpora["validation"]
    assert (train.num_rows, validation.num_rows) == (16, 4)
    assert (
        len(whole(validation).ids) == 0
    )  # every word occurs once, so the held-out ones are not in the vocabulary
    assert len(prepared.vocabulary) == 16


def test_a_split_that_takes_no_row_is_refused(tmp_path: Path) -> None:
    """If it failed, the validation accuracy would be a division by zero."""
    inputs = read(tmp_path, train="a\tx\nb\ty\n")
    with pytest.raises(DataError, match=r"BOW_VALIDATION_SPLIT=0\.1 holds out no row"):
        prepare(inputs, validation_split=0.1, seed=1, **features())


@pytest.mark.parametrize(("content", "min_count"), [("a\tx\nb\ty\n", 2), (" \tx\n\u3000\ty\n", 1)])
def test_a_vocabulary_without_words_is_refused(tmp_path: Path, content: str, min_count: int) -> None:
    """If it failed, a model that knows no word would be trained and published."""
    with pytest.raises(DataError, match="no word that occurs at least"):
        prepare(read(tmp_path, train=content), validation_split=0, seed=1, **features(min_count=min_count))


def test_a_fixed_vocabulary_keeps_its_order(tmp_path: Path) -> None:
    """If it failed, ids that another system relies on would change."""
    path = tmp_path / "words.txt"
    path.write_bytes("\ufeffc\r\na\r\nunseen\r\n".encode())
    inputs = read(tmp_path, path, train="a b\tx\nc\ty\n")
    assert inputs.records["vocabulary"].rows == 3
    prepared = prepare(inputs, validation_split=0, seed=1, **features())
    assert prepared.vocabulary.words == ["c", "a", "unseen"]
    assert whole(prepared.corpora["train"]).ids.tolist() == [1, 0]


def test_a_vocabulary_of_other_data_is_refused(tmp_path: Path) -> None:
    """If it failed, the wrong file would give a model that knows no word of its texts."""
    path = tmp_path / "words.txt"
    path.write_text("p\nq\n")
    inputs = read(tmp_path, path, train="a\tx\nb\ty\n")
    with pytest.raises(DataError, match="none of the 2 words of BOW_VOCABULARY_FILE"):
        prepare(inputs, validation_split=0, seed=1, **features())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a\n\nb\n", "words.txt:2: expected one token without whitespace, found ''"),
        (b"a\n" + b"b" * 1025, "words.txt:2: expected a token of at most 1,024 bytes, found 1,025"),
        (b"a\ntwo words\n", "words.txt:2: expected one token without whitespace, found 'two words'"),
        (b"a\nb\na\n", "words.txt:3: 'a' is in line 1 already"),
        (b"a\nb\xff\n", "words.txt:2: expected UTF-8"),
        (b"a\0b\n", "words.txt:1: expected one token"),
        (b"", "words.txt:1: expected one token"),
    ],
)
def test_a_vocabulary_file_that_is_none(tmp_path: Path, content: bytes, message: str) -> None:
    """If it failed, a word that can never occur would take a column, or the ids would shift unnoticed."""
    path = tmp_path / "words.txt"
    path.write_bytes(content)
    with pytest.raises(DataError) as caught:
        read_vocabulary(path)
    assert message in str(caught.value)


def test_the_vocabulary_of_a_bundle_is_read_as_one(tmp_path: Path) -> None:
    """If it failed, its quotes would be taken for parts of the words, and hardly any be found."""
    path = tmp_path / "vocabulary.jsonl"
    path.write_text('"card"\n"ca\\u0301rd"\n"\\"quoted\\""\n')
    vocabulary, _ = read_vocabulary(path)
    assert list(vocabulary.words) == ["card", "ca\u0301rd", '"quoted"']
    path.write_text('"card"\nplain\n')
    with pytest.raises(DataError, match=r"vocabulary\.jsonl:2: expected a JSON string, .* found 'plain'"):
        read_vocabulary(path)


def test_a_vocabulary_file_that_is_missing(tmp_path: Path) -> None:
    """If it failed, a wrong path would end in a traceback."""
    with pytest.raises(DataError, match=r"BOW_VOCABULARY_FILE=.*cannot be read \(No such file"):
        read_vocabulary(tmp_path / "none.txt")
