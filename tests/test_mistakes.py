"""The mistakes of the first hour: each gives one clear message and its exit code, and never a traceback."""

from pathlib import Path

import pytest

from export.main import main as export_main
from job.main import main as job_main
from job.stopping import Stop
from serving.errors import ExitCode
from serving.main import main as serving_main

GOOD = "text\tlabel\na b\tx\nc d\ty\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a good data file and several bad ones, as the working directory."""
    monkeypatch.chdir(tmp_path)
    files = {
        "good.tsv": GOOD,
        "one-label.tsv": "text\tlabel\na\tx\nb\tx\n",
        "empty.tsv": "",
        "header-only.tsv": "text\tlabel\n",
        "no-header.tsv": "I like it\tgood\nI hate it\tbad\n",
        "other-columns.tsv": "utterance\tclass_name\na\tx\nb\ty\n",
        "unlabelled.tsv": "text\tlabel\na\tx\nb\ty\nc\t\nd\t\n",
        "weightless.tsv": "text\tlabel\tw\na\tx\t0\nb\ty\t0\n",
        "bad-weight.tsv": "text\tlabel\tw\na\tx\t1\nb\ty\t-1\n",
        "wordless.tsv": "text\tlabel\n \tx\n \ty\n",
        "data.xlsx": "PK\x03\x04",
        "two words.txt": "two words\n",
        "not-json.jsonl": "text,label\na,x\n",
        "file": "",
    }
    for name, content in files.items():
        (tmp_path / name).write_text(content)
    (tmp_path / "utf16.tsv").write_bytes(GOOD.encode("utf-16"))
    (tmp_path / "image.parquet").write_bytes(b"\x89PNG\r\n\x1a\n" * 100)
    (tmp_path / "cut.tsv.gz").write_bytes(b"\x1f\x8b\x08\0\0\0")
    (tmp_path / "empty-folder").mkdir()
    return tmp_path


@pytest.mark.parametrize(
    ("environ", "code", "says"),
    [
        (
            "",
            2,
            [
                "BOW_TRAIN_DATA: expected a file, a folder or a glob, or a URL of one; found nothing",
                "tutorial",
            ],
        ),
        ("BOW_TRAIN_DATA=nowhere.tsv", 3, ["BOW_TRAIN_DATA=nowhere.tsv", "found nothing at that path"]),
        ("BOW_TRAIN_DATA=*.csv", 3, ["*.csv", "no file"]),
        ("BOW_TRAIN_DATA=empty-folder", 3, ["empty-folder", "no "]),
        ("BOW_TRAIN_DATA=empty.tsv", 3, ["empty.tsv", "expected"]),
        ("BOW_TRAIN_DATA=header-only.tsv", 3, ["header-only.tsv", "found none"]),
        ("BOW_TRAIN_DATA=no-header.tsv", 3, ["no-header.tsv", "I like it", "BOW_"]),
        ("BOW_TRAIN_DATA=other-columns.tsv", 3, ["'utterance', 'class_name'", "BOW_LABEL_COLUMN"]),
        ("BOW_TRAIN_DATA=good.tsv BOW_TEXT_COLUMN=body", 3, ["'body'", "text", "label", "BOW_TEXT_COLUMN"]),
        ("BOW_TRAIN_DATA=good.tsv BOW_LABEL_COLUMN=kind", 3, ["'kind'", "BOW_LABEL_COLUMN"]),
        ("BOW_TRAIN_DATA=good.tsv BOW_WEIGHT_COLUMN=w", 3, ["'w'", "'text', 'label'", "BOW_WEIGHT_COLUMN"]),
        ("BOW_TRAIN_DATA=weightless.tsv BOW_WEIGHT_COLUMN=w", 3, ["2 training rows", "BOW_WEIGHT_COLUMN"]),
        (
            "BOW_TRAIN_DATA=bad-weight.tsv BOW_WEIGHT_COLUMN=w",
            3,
            ["weight is not a finite number of at least 0, first bad-weight.tsv:3", "BOW_MAX_REJECTED"],
        ),
        ('BOW_TRAIN_DATA=good.tsv BOW_CLASS_WEIGHTS={"z":2}', 3, ["BOW_CLASS_WEIGHTS", "'z'", "'x', 'y'"]),
        ("BOW_TRAIN_DATA=good.tsv BOW_CLASS_WEIGHTS=even", 2, ["BOW_CLASS_WEIGHTS", "balanced", "'even'"]),
        ("BOW_TRAIN_DATA=good.tsv BOW_PATIENCE=2", 2, ["BOW_PATIENCE", "BOW_VALIDATION_SPLIT=0.1"]),
        ("BOW_TRAIN_DATA=one-label.tsv", 3, ["at least two labels", "'x'"]),
        (
            "BOW_TRAIN_DATA=unlabelled.tsv",
            3,
            ["2 of 4 rows", "no label", "unlabelled.tsv:4", "BOW_MAX_REJECTED"],
        ),
        ("BOW_TRAIN_DATA=wordless.tsv", 3, ["no word", "BOW_TEXT_COLUMN"]),
        ("BOW_TRAIN_DATA=data.xlsx", 3, ["data.xlsx", "BOW_DATA_FORMAT"]),
        ("BOW_TRAIN_DATA=utf16.tsv", 3, ["utf16.tsv", "UTF-16"]),
        ("BOW_TRAIN_DATA=not-json.jsonl", 3, ["not-json.jsonl:1", "JSON object"]),
        ("BOW_TRAIN_DATA=image.parquet", 3, ["image.parquet", "Parquet"]),
        ("BOW_TRAIN_DATA=cut.tsv.gz", 3, ["cut.tsv.gz"]),
        ("BOW_TRAIN_DATA=good.tsv BOW_TEST_DATA=nowhere.tsv", 3, ["BOW_TEST_DATA=nowhere.tsv"]),
        ("BOW_TRAIN_DATA=good.tsv BOW_DATA_FORMAT=parquet", 3, ["good.tsv", "Parquet"]),
        ("BOW_TRAIN_DATA=good.tsv BOW_VOCABULARY_FILE=none.txt", 3, ["BOW_VOCABULARY_FILE=none.txt"]),
        ("BOW_TRAIN_DATA=good.tsv BOW_VALIDATION_SPLIT=0.1", 3, ["BOW_VALIDATION_SPLIT", "no row"]),
        ("BOW_TRAIN_DATA=good.tsv BOW_EPOCH=3", 2, ["BOW_EPOCH: there is no such setting", "BOW_EPOCHS?"]),
        ("BOW_TRAIN_DATA=good.tsv BOW_EPOCHS=0", 2, ["BOW_EPOCHS", "at least 1", "'0'"]),
        ("BOW_TRAIN_DATA=good.tsv BOW_EPOCHS=ten", 2, ["BOW_EPOCHS", "a whole number", "'ten'"]),
        ("BOW_TRAIN_DATA=good.tsv BOW_OPTIMIZER=adamw", 2, ["BOW_OPTIMIZER", "sgd, adagrad, adam, rmsprop"]),
        ("BOW_TRAIN_DATA=good.tsv BOW_PARITY_ATOL=1", 2, ["BOW_PARITY_ATOL", "at most 0.0001"]),
        ("BOW_TRAIN_DATA=good.tsv BOW_RUN_NAME=a/b", 2, ["BOW_RUN_NAME", "'a/b'"]),
        ("BOW_TRAIN_DATA=good.tsv BOW_DEVICE=gpu", 2, ["BOW_DEVICE", "cuda:N"]),
        ("BOW_TRAIN_DATA=good.tsv BOW_OUTPUT_DIR=file", 74, ["file", "BOW_OUTPUT_DIR"]),
        ("BOW_TRAIN_DATA=good.tsv BOW_OUTPUT_DIR=/proc/none", 74, ["/proc/none", "BOW_OUTPUT_DIR"]),
        ("BOW_TRAIN_DATA=good.tsv BOW_OPTIMIZER=sgd BOW_LEARNING_RATE=1e37 BOW_EPOCHS=99", 4, ["step"]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_mistake_in_training_gives_one_clear_message(
    folder: Path, capfd: pytest.CaptureFixture[str], environ: str, code: int, says: list[str]
) -> None:
    """If it failed, a newcomer would have to read our source to learn what is wrong with their file."""
    settings = dict(part.split("=", 1) for part in environ.split())
    environment = {"BOW_LOG_FORMAT": "console", "BOW_DEVICE": "cpu", **settings}
    assert job_main([], environment, Stop()) == code
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err.count("error: ") == 1
    message = captured.err.partition("error: ")[2]
    assert "Traceback" not in captured.err
    for words in says:
        assert words in message
    assert not any(path.is_dir() for path in (folder / "artifacts").glob("*"))


def test_a_missing_gpu_is_an_error_where_one_is_required(
    folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """If it failed, a GPU job would burn hours on a CPU."""
    environ = {"BOW_TRAIN_DATA": "good.tsv", "BOW_REQUIRE_GPU": "true", "BOW_DEVICE": "cuda:99"}
    assert job_main([], environ | {"BOW_LOG_FORMAT": "console"}, Stop()) == ExitCode.PLATFORM
    assert "BOW_REQUIRE_GPU=true, but BOW_DEVICE=cuda:99 cannot be used" in capfd.readouterr().err


def one_line_says(words: list[str], capfd: pytest.CaptureFixture[str]) -> None:
    """All that a command has written is one line, an error, in which these words are."""
    captured = capfd.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ")
    assert captured.err.count("\n") == 1
    for each in words:
        assert each in captured.err


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ("", 2, ["--help"]),
        ("train", 2, ["invalid choice: 'train'", "--help"]),
        ("verify", 2, ["BUNDLE"]),
        ("verify nowhere", 6, ["nowhere: expected a bundle", "found nothing", "artifacts/latest"]),
        ("verify good.tsv", 6, ["good.tsv: expected a bundle", "found a file"]),
        ("verify empty-folder", 6, ["empty-folder", "no manifest.json"]),
        (
            "verify empty-folder --against localhost:8080",
            2,
            ["--against", "http://HOST:PORT", "'localhost:8080'"],
        ),
        ("verify nowhere --against http://localhost:1", 6, ["nowhere: expected a bundle"]),
        ("predict empty-folder", 6, ["empty-folder", "no manifest.json"]),
        ("predict empty-folder --top-k 0", 2, ["--top-k", "a whole number from 1"]),
        ("predict empty-folder --threshold 2", 2, ["--threshold", "a probability from 0 to 1"]),
    ],
)
def test_a_mistake_in_serving_gives_one_clear_message(
    folder: Path, capfd: pytest.CaptureFixture[str], arguments: str, code: int, says: list[str]
) -> None:
    """If it failed, a wrong path would look like a broken bundle, or end in a traceback."""
    assert serving_main(arguments.split()) == code
    one_line_says(says, capfd)


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        ("", 2, ["COMMAND", "--help"]),
        ("onnx", 2, ["invalid choice: 'onnx'", "--help"]),
        ("triton", 2, ["BUNDLE, REPOSITORY"]),
        ("triton empty-folder", 2, ["REPOSITORY"]),
        ("triton nowhere models", 6, ["nowhere: expected a bundle", "artifacts/latest"]),
        ("triton empty-folder models", 6, ["empty-folder", "no manifest.json"]),
        ("triton {bundle} file", 2, ["file: expected a folder, or nothing, found a file", "REPOSITORY"]),
        ("triton {bundle} file/models", 74, ["Not a directory", "REPOSITORY"]),
        ("triton {bundle} s3://bucket/models", 2, ["expected a folder", "'s3://bucket/models'"]),
        ("triton {bundle} models --name a/b", 2, ["'a/b'", "letters, digits"]),
        ("triton {bundle} models --max-batch-size 0", 2, ["--max-batch-size", "from 1"]),
        ("triton {bundle} models --instances two", 2, ["--instances", "'two'"]),
    ],
)
def test_a_mistake_in_exporting_gives_one_clear_message(
    folder: Path, capfd: pytest.CaptureFixture[str], arguments: str, code: int, says: list[str]
) -> None:
    """If it failed, a wrong path would end in a traceback, or leave half a model repository."""
    if "{bundle}" in arguments:
        environ = {"BOW_TRAIN_DATA": "good.tsv", "BOW_DEVICE": "cpu", "BOW_LOG_FORMAT": "console"}
        assert job_main([], environ, Stop()) == ExitCode.DONE
        capfd.readouterr()
    assert export_main(arguments.format(bundle="artifacts/latest").split()) == code
    one_line_says(says, capfd)
    assert not (folder / "models").exists()
