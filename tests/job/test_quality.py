"""The quality gate's rule, and the figure that a new model is compared with."""

import shutil
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from job.baseline import Baseline, TestData, baseline_of, open_latest
from job.dataset import DataSpec
from job.environment import load_settings
from job.quality import failed_gate, quality_error
from job.run import run
from job.telling.output import Output
from serving.bundle import FILES, DataRecord, MetricsSummary, open_bundle
from serving.errors import ArtifactError, DataError, ExitCode
from serving.quality import read_failed_gate

NAN = float("nan")


def summary(accuracy: float) -> MetricsSummary:
    return MetricsSummary(rows=400, accuracy=accuracy, macro_f1=0.5, weighted_f1=0.5, log_loss=1.0)


def in_service(accuracy: float) -> Baseline:
    return Baseline(run="old", accuracy=accuracy, scored_anew=False)


@pytest.mark.parametrize(
    ("min_accuracy", "max_drop", "accuracy", "old", "passes"),
    [
        (None, None, 0.1, 0.9, True),
        (0.9, None, 0.9, None, True),
        (0.9, None, 0.8999, None, False),
        (None, 0.02, 0.88, 0.9, True),  # 0.9 - 0.88 is more than 0.02 in floating point
        (None, 0.02, 0.8775, 0.9, False),
        (None, 0.02, 0.95, 0.9, True),
        (None, 0.0, 0.9, 0.9, True),
        (None, 0.0, 0.8975, 0.9, False),
        (None, 0.02, 0.1, None, True),  # nothing to drop from
        (0.5, 0.02, 0.4, 0.9, False),
        (0.95, 0.1, 0.9, 0.9, False),
        (0.1, 0.02, 0.8, 0.9, False),
        (0.0, None, NAN, None, False),
        (None, 1.0, NAN, 0.9, False),
        (None, 1.0, 0.9, NAN, False),
    ],
)
def test_a_model_passes_where_it_is_within_both_limits(
    min_accuracy: float | None, max_drop: float | None, accuracy: float, old: float | None, passes: bool
) -> None:
    """If it failed, a bad model would go into service, or a good one would not."""
    baseline = None if old is None else in_service(old)
    failed = failed_gate(min_accuracy, max_drop, summary(accuracy), baseline)
    assert (failed is None) == passes


def test_a_model_that_nobody_scored_fails_every_limit() -> None:
    """If it failed, a gate without a figure would be open."""
    assert failed_gate(0.0, None, None, None) is not None
    assert failed_gate(None, 1.0, None, in_service(0.0)) is not None


def test_the_error_gives_both_figures_and_what_to_do(tmp_path: Path) -> None:
    """If it failed, who is on duty would not learn how bad it is, where to look, or how to go on."""
    failed = failed_gate(0.9, 0.02, summary(0.3125), in_service(0.95))
    assert failed is not None
    error = quality_error(failed, tmp_path / "run", tmp_path / "latest")
    assert error.exit_code == ExitCode.QUALITY_GATE == 7
    for words in (
        "test accuracy 0.3125 on 400 rows",
        "BOW_MIN_ACCURACY asks for at least 0.9",
        "and old, which is in service, has 0.9500 on the same rows",
        "BOW_MAX_DROP allows a drop of 0.02",
        f"{tmp_path / 'run'}: ",
        "there is no latest",
        str(tmp_path / "run" / FILES.metrics),
        "change or unset BOW_MIN_ACCURACY and BOW_MAX_DROP",
    ):
        assert words in str(error)
    (tmp_path / "old").mkdir()
    (tmp_path / "latest").symlink_to("old")
    only = failed_gate(0.2, 0.02, summary(0.3125), in_service(0.95))
    assert only is not None
    message = str(quality_error(only, tmp_path / "run", tmp_path / "latest"))
    assert "latest still names old" in message
    assert "change or unset BOW_MAX_DROP," in message


def test_what_is_written_into_a_bundle_is_read_again(tmp_path: Path) -> None:
    """If it failed, nobody could tell later why `latest` was not moved."""
    failed = failed_gate(0.9, 0.02, summary(0.3125), in_service(0.95))
    assert failed is not None
    assert read_failed_gate(tmp_path) is None
    (tmp_path / FILES.failed_gate).write_bytes(failed.to_json())
    assert read_failed_gate(tmp_path) == failed


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b'{"accuracy": "high"}', b"[" * 200_000])
def test_a_mark_that_cannot_be_read_is_not_taken_for_none(tmp_path: Path, content: bytes) -> None:
    """If it failed, half a file would put a model that did not pass into service."""
    (tmp_path / FILES.failed_gate).write_bytes(content)
    with pytest.raises(ArtifactError, match=FILES.failed_gate):
        read_failed_gate(tmp_path)


def rows(path: Path, *lines: str) -> Path:
    path.write_text("text\tlabel\tother\n" + "".join(f"{line}\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An output folder whose `latest` was scored on test.tsv: 3 of 4 rows right."""
    folder = tmp_path_factory.mktemp("quality")
    train = rows(folder / "train.tsv", *["good one\tup\tx", "bad one\tdown\tx"] * 20)
    rows(folder / "test.tsv", "good\tup\tup", "bad\tdown\tup", "good\tdown\tup", "bad bad\tdown\tup")
    environ = {"BOW_TRAIN_DATA": str(train), "BOW_OUTPUT_DIR": str(folder), "BOW_DEVICE": "cpu"}
    environ |= {"BOW_TEST_DATA": str(folder / "test.tsv"), "BOW_RUN_NAME": "old"}
    run(load_settings(environ), Output(for_people=False))
    return folder


def read_from(folder: Path, name: str, **settings: str) -> TestData:
    content = (folder / name).read_bytes()
    return TestData(
        cache_dir=None,
        spec=DataSpec(location=str(folder / name), setting="BOW_TEST_DATA", **settings),  # type: ignore[arg-type]
        record=DataRecord(sha256=sha256(content).hexdigest(), rows=content.count(b"\n") - 1, rejected=0),
        settings={"data_format": "auto", "text_column": None, "label_column": None, **settings},
        num_threads=2,
    )


def test_the_figure_of_the_manifest_holds_for_the_same_rows(folder: Path) -> None:
    """If it failed, the test data would be read twice each night for a figure that is known."""
    bundle = open_latest(folder / "latest")
    assert bundle is not None
    test = read_from(folder, "test.tsv")
    gone = replace(test, spec=DataSpec(location="gone.tsv", setting="BOW_TEST_DATA"))
    assert baseline_of(bundle, gone) == Baseline(run="old", accuracy=0.75, scored_anew=False)


def test_on_other_rows_the_bundle_in_service_is_scored_anew(folder: Path) -> None:
    """If it failed, a harder test set would look like a worse model, and an easier one hide one."""
    bundle = open_latest(folder / "latest")
    assert bundle is not None
    harder = rows(folder / "harder.tsv", *["good\tdown\tx"] * 3, "bad\tdown\tx", "good\tunknown label\tx")
    test = read_from(folder, harder.name)
    assert baseline_of(bundle, test) == Baseline(run="old", accuracy=0.2, scored_anew=True)
    many = rows(folder / "many.tsv", *["good\tup\tx", "bad\tup\tx"] * 3000)
    assert baseline_of(bundle, read_from(folder, many.name)).accuracy == 0.5
    other_column = read_from(folder, "test.tsv", label_column="other")
    assert baseline_of(bundle, other_column) == Baseline(run="old", accuracy=0.5, scored_anew=True)
    tutorial = replace(test, spec=None)
    assert baseline_of(bundle, tutorial) == Baseline(run="old", accuracy=0, scored_anew=True)


@pytest.mark.parametrize(
    ("setting", "value"), [("data_format", "tsv"), ("text_column", "text"), ("label_column", "label")]
)
def test_rows_that_are_read_in_another_way_are_other_rows(folder: Path, setting: str, value: str) -> None:
    """If it failed, two models would be compared on different columns of the same file."""
    bundle = open_latest(folder / "latest")
    assert bundle is not None
    test = read_from(folder, "test.tsv")
    test = replace(test, settings={**test.settings, setting: value})
    assert baseline_of(bundle, test) == Baseline(run="old", accuracy=0.75, scored_anew=True)


def test_test_data_that_changed_meanwhile_is_an_error(folder: Path) -> None:
    """If it failed, two models would be compared on different rows."""
    bundle = open_latest(folder / "latest")
    assert bundle is not None
    test = read_from(folder, rows(folder / "grows.tsv", "good\tup\tx").name)
    rows(folder / "grows.tsv", "good\tup\tx", "good\tup\tx")
    with pytest.raises(DataError, match=r"BOW_TEST_DATA=.*grows\.tsv: the files changed"):
        baseline_of(bundle, test)


def test_without_a_bundle_in_service_there_is_nothing_to_compare_with(tmp_path: Path) -> None:
    """If it failed, the first night, or one after `latest` was deleted by hand, could never pass."""
    assert open_latest(tmp_path / "latest") is None
    (tmp_path / "latest").symlink_to("deleted")
    assert open_latest(tmp_path / "latest") is None


def test_something_in_service_that_is_no_bundle_closes_the_gate(tmp_path: Path) -> None:
    """If it failed, a damaged bundle in service would let any model pass."""
    (tmp_path / "damaged").mkdir()
    (tmp_path / "latest").symlink_to("damaged")
    with pytest.raises(ArtifactError, match=r"BOW_MAX_DROP compares with .* Point it at a whole bundle"):
        open_latest(tmp_path / "latest")


def test_a_damaged_model_in_service_is_not_scored(folder: Path, tmp_path: Path) -> None:
    """If it failed, a model file that was altered would decide what goes into service."""
    shutil.copytree(folder / "old", tmp_path / "copy")
    with (tmp_path / "copy" / FILES.text_model).open("ab") as file:
        file.write(b"\0")
    test = read_from(folder, rows(folder / "once.tsv", "good\tup\tx").name)
    with pytest.raises(ArtifactError, match=r"model\.onnx differs"):
        baseline_of(open_bundle(tmp_path / "copy"), test)
