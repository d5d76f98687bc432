"""The whole run in this process: from files to a published bundle."""

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import structlog

from job import log
from job.dataset import rejected
from job.environment import load_settings
from job.run import run
from job.telling.output import Output
from serving.bundle import FILES, open_bundle
from serving.errors import DataError, ParityError, PlatformError, SettingsError, TrainingError
from serving.parity.rungs import check
from serving.parity.verify import verify

TEXTS = [
    ("reset my password please", "account"),
    ("I forgot the password", "account"),
    ("close my account", "account"),
    ("where is my parcel", "delivery"),
    ("the parcel did not arrive", "delivery"),
    ("track my parcel", "delivery"),
    ("", "other"),
    ("thanks a lot", "other"),
]


def write_tsv(path: Path, rows: list[tuple[str, str]]) -> Path:
    path.write_text("text\tlabel\n" + "".join(f"{text}\t{label}\n" for text, label in rows))
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_tsv(tmp_path / "train.tsv", TEXTS * 5)


def train(output_dir: Path, train_data: Path | str, **settings: object) -> Path:
    environ = {"BOW_TRAIN_DATA": str(train_data), "BOW_OUTPUT_DIR": str(output_dir), "BOW_DEVICE": "cpu"}
    environ |= {f"BOW_{name.upper()}": str(value) for name, value in settings.items()}
    return run(load_settings(environ), Output(for_people=False))


def run_record(bundle: Path) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((bundle / FILES.run).read_text())
    return record


def test_a_labelled_file_becomes_a_bundle_that_holds(tmp_path: Path, data: Path) -> None:
    """If it failed, the one thing that this project is for would not work."""
    bundle = train(tmp_path / "out", data, run_name="tickets", test_data=data, validation_split=0.2)
    verdict = verify(bundle, with_torch=True)
    check(verdict.rungs, "bundle")
    manifest = verdict.bundle.manifest
    assert manifest.labels == ["account", "delivery", "other"]
    assert set(manifest.metrics) == {"validation", "test"}
    assert manifest.metrics["test"].rows == 40
    assert manifest.metrics["test"].accuracy == 1
    assert sorted(path.name for path in bundle.iterdir()) == sorted(
        [*FILES.hashed, FILES.manifest, FILES.run]
    )
    assert (tmp_path / "out" / "latest").resolve() == bundle.resolve()
    assert os.readlink(tmp_path / "out" / "latest") == "tickets"  # noqa: PTH115 - as it is written
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["latest", "tickets"]


def test_the_run_record_says_where_the_time_went(tmp_path: Path, data: Path) -> None:
    """If it failed, nobody could tell which device was used, or which stage is slow."""
    record = run_record(train(tmp_path / "out", data, validation_data=data, epochs=2))
    assert list(record["stages"]) == ["read", "encode", "batches", "train", "evaluate", "export", "verify"]
    assert record["device"] == "cpu"
    assert record["num_rows"] == 40
    assert record["num_tokens"] == 5 * sum(len(text.split()) for text, _ in TEXTS)
    assert [epoch["validation_accuracy"] is not None for epoch in record["epochs"]] == [True, True]
    assert record["best_epoch"] is None
    assert record["settings"]["train_data"] == str(data)


def test_the_best_epoch_is_said_and_recorded(
    tmp_path: Path, data: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """If it failed, nobody could tell which epoch's model BOW_PATIENCE chose."""
    log.configure("json")
    record = run_record(train(tmp_path / "out", data, validation_data=data, epochs=50, patience=2))
    accuracies = [epoch["validation_accuracy"] for epoch in record["epochs"]]
    best = record["best_epoch"]
    assert best == accuracies.index(max(accuracies)) + 1
    assert len(accuracies) == best + 2 < 50
    events = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    (event,) = [event for event in events if event["event"] == "best_epoch"]
    assert {name: event[name] for name in ("epoch", "epochs_run", "validation_accuracy")} == {
        "epoch": best,
        "epochs_run": best + 2,
        "validation_accuracy": 1.0,
    }


def test_a_run_without_a_name_is_named_by_its_settings_and_data(tmp_path: Path, data: Path) -> None:
    """If it failed, two different runs would overwrite each other, or equal ones lie there twice."""
    output = tmp_path / "out"
    first = train(output, data)
    assert first.name.startswith("run-")
    moved = write_tsv(tmp_path / "elsewhere.tsv", TEXTS * 5)
    assert train(output, moved) == first
    assert train(output, data, seed=2) != first
    assert train(output, write_tsv(tmp_path / "more.tsv", TEXTS * 6)) != first


def test_a_run_that_has_its_bundle_already_leaves_it_alone(tmp_path: Path, data: Path) -> None:
    """If it failed, a retried cluster job would train again, or fail."""
    bundle = train(tmp_path / "out", data)
    before = (bundle / FILES.run).read_bytes()
    assert train(tmp_path / "out", data) == bundle
    assert (bundle / FILES.run).read_bytes() == before
    again = train(tmp_path / "out", data, overwrite=True)
    assert again == bundle
    assert (bundle / FILES.run).read_bytes() != before


def test_another_runs_bundle_is_not_replaced_unasked(tmp_path: Path, data: Path) -> None:
    """If it failed, a forgotten BOW_RUN_NAME would destroy a deployed model."""
    bundle = train(tmp_path / "out", data, run_name="mine")
    bundle_id = open_bundle(bundle).bundle_id
    with pytest.raises(SettingsError, match="of another run, with other epochs"):
        train(tmp_path / "out", data, run_name="mine", epochs=2)
    with pytest.raises(SettingsError, match=r"with other .*train data"):
        train(tmp_path / "out", write_tsv(tmp_path / "o.tsv", TEXTS), run_name="mine")
    assert open_bundle(bundle).bundle_id == bundle_id
    train(tmp_path / "out", data, run_name="mine", epochs=2, overwrite=True)
    assert open_bundle(bundle).bundle_id != bundle_id


def test_something_else_of_that_name_is_not_replaced_unasked(tmp_path: Path, data: Path) -> None:
    """If it failed, a folder of the user's own would be lost."""
    mine = tmp_path / "out" / "mine"
    mine.mkdir(parents=True)
    (mine / "notes.txt").write_text("keep me")
    with pytest.raises(SettingsError, match="not a whole bundle"):
        train(tmp_path / "out", data, run_name="mine")
    assert (mine / "notes.txt").read_text() == "keep me"


def test_rejected_rows_are_listed_beside_the_bundle(tmp_path: Path, data: Path) -> None:
    """If it failed, nobody would know which rows were not learned from."""
    data.write_bytes(data.read_bytes() + b"no label\t\nbad \xff byte\tother\n")
    bundle = train(tmp_path / "out", data, run_name="tickets", max_rejected=0.1)
    listed = bundle.parent / "tickets.rejected.jsonl"
    rows = [json.loads(line) for line in listed.read_text().splitlines()]
    assert rows == [
        {"file": str(data), "line": 42, "reason": "no label"},
        {"file": str(data), "line": 43, "reason": "invalid UTF-8"},
    ]
    assert open_bundle(bundle).manifest.data["train"].rejected == 2
    write_tsv(data, TEXTS)
    train(tmp_path / "out", data, run_name="tickets", overwrite=True)
    assert not listed.exists()


def test_too_many_rejected_rows_publish_nothing_but_the_list(tmp_path: Path, data: Path) -> None:
    """If it failed, a model of half the data would be deployed, or nobody could find the bad half."""
    data.write_text(data.read_text() + "no label\t\n" * 10)
    with pytest.raises(DataError, match="BOW_MAX_REJECTED"):
        train(tmp_path / "out", data, run_name="tickets")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["tickets.rejected.jsonl"]


def test_bad_data_is_bad_data_also_where_its_rows_cannot_be_listed(tmp_path: Path, data: Path) -> None:
    """If it failed, a full disk would let the scheduler try the same bad rows again and again."""
    (tmp_path / "out" / "run.rejected.jsonl").mkdir(parents=True)
    data.write_text(data.read_text() + "no label\t\n" * 10)
    with pytest.raises(DataError, match="BOW_MAX_REJECTED") as problem:
        train(tmp_path / "out", data)
    assert "run.rejected.jsonl: the rejected rows cannot be written" in problem.value.__notes__[0]


def test_a_bundle_that_has_the_name_of_the_list_is_an_error_that_says_so(tmp_path: Path, data: Path) -> None:
    """If it failed, a bundle of an odd name would look like a bug of ours to the next run."""
    (tmp_path / "out" / "tickets.rejected.jsonl").mkdir(parents=True)
    with pytest.raises(PlatformError, match=r"tickets\.rejected\.jsonl: .*directory"):
        train(tmp_path / "out", data, run_name="tickets")


def test_a_list_that_is_cut_is_said_to_be(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it failed, the rows of the list would be mended, and the rest stay bad unnoticed."""
    monkeypatch.setattr(rejected, "MAX_DETAILS", 3)
    data.write_text(data.read_text() + "no label\t\n" * 10)
    with pytest.raises(DataError) as problem:
        train(tmp_path / "out", data, run_name="tickets")
    listed = tmp_path / "out" / "tickets.rejected.jsonl"
    assert problem.value.__notes__ == [f"The first 3 rejected rows are listed in {listed}"]
    with structlog.testing.capture_logs() as logs:
        train(tmp_path / "out", data, run_name="tickets", max_rejected=1)
    (said,) = [each for each in logs if each["event"] == "rows_rejected"]
    assert (said["rows"], said["listed"]) == (10, 3)


def test_a_failed_gate_publishes_nothing(tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it failed, a model that answers otherwise than the trained one would be deployed."""
    from export import text_graph

    build = text_graph.build

    def wrong(weight: Any, bias: Any, *rest: Any) -> Any:
        return build(weight, bias + np.float32(1e-3) * (bias == bias.max()), *rest)

    train(tmp_path / "out", data, run_name="good")
    monkeypatch.setattr(text_graph, "build", wrong)
    with pytest.raises(ParityError, match=r"model\.onnx"):
        train(tmp_path / "out", data, run_name="bad")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["good", "latest"]
    assert os.readlink(tmp_path / "out" / "latest") == "good"  # noqa: PTH115


def test_a_diverged_training_publishes_nothing(tmp_path: Path, data: Path) -> None:
    """If it failed, a model of NaNs would be deployed."""
    with pytest.raises(TrainingError, match="BOW_LEARNING_RATE"):
        train(tmp_path / "out", data, optimizer="sgd", learning_rate=1e37, epochs=50)
    assert list((tmp_path / "out").iterdir()) == []


def test_a_model_too_large_for_one_file_is_refused_before_training(
    tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it failed, hours of training would end in a file that cannot be written."""
    from export import limits

    def smaller(token_bytes: Any, labels: Any, *, table_bytes: int) -> None:
        limits.check_size(token_bytes, labels, table_bytes=table_bytes, max_bytes=limits.GRAPH_BYTES + 800)

    monkeypatch.setattr("job.run.check_size", smaller)
    monkeypatch.setattr("job.run.learn", lambda *_, **__: pytest.fail("training began"))
    with pytest.raises(SettingsError, match=r"set BOW_MAX_VOCABULARY=(\d+)"):
        train(tmp_path / "out", data)


@pytest.mark.parametrize(
    "settings",
    [
        {"optimizer": "sgd", "learning_rate": 1.0, "learning_rate_schedule": "constant"},
        {"optimizer": "adam", "learning_rate": 0.05, "weight_decay": 1e-4},
        {"optimizer": "rmsprop", "learning_rate": 0.05, "init": "uniform"},
        {"batch_size": 1, "shuffle": False, "max_vocabulary": 8},
        {"min_count": 10, "epochs": 1, "num_threads": 1},
    ],
)
def test_every_way_to_train_ends_in_a_bundle(tmp_path: Path, data: Path, settings: dict[str, object]) -> None:
    """If it failed, a setting that `--help` offers would not work."""
    bundle = train(tmp_path / "out", data, **settings)
    check(verify(bundle).rungs, "bundle")


def test_a_fixed_vocabulary_is_part_of_the_identity(tmp_path: Path, data: Path) -> None:
    """If it failed, another vocabulary file would be taken for the same run."""
    words = tmp_path / "words.txt"
    words.write_text("parcel\npassword\n")
    one = train(tmp_path / "out", data, vocabulary_file=words)
    assert open_bundle(one).vocabulary() == ["parcel", "password"]
    words.write_text("password\nparcel\n")
    assert train(tmp_path / "out", data, vocabulary_file=words) != one


def test_a_run_from_the_cache_gives_the_same_model(tmp_path: Path, data: Path) -> None:
    """If it failed, whether a run was the first would decide what it learned."""
    settings = {"test_data": data, "validation_split": 0.2, "cache_dir": tmp_path / "cache"}
    ids = {
        open_bundle(train(tmp_path / name, data, run_name="run", **more)).bundle_id
        for name, more in (
            ("without", settings | {"cache_dir": ""}),
            ("first", settings),
            ("second", settings),
        )
    }
    assert len(ids) == 1


def test_data_whose_name_is_not_utf8_gives_a_bundle_from_the_cache_as_well(tmp_path: Path) -> None:
    """If it failed, a run would train for hours and end with our traceback, for a name from an archive."""
    path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/\xff.tsv"))
    write_tsv(path, [*TEXTS * 5, ("no label", "")])
    settings = {"test_data": path, "cache_dir": tmp_path / "cache", "max_rejected": 0.5}
    bundles = [train(tmp_path / name, path, run_name="run", **settings) for name in ("first", "second")]
    assert len({open_bundle(bundle).bundle_id for bundle in bundles}) == 1
    for bundle in bundles:
        assert run_record(bundle)["settings"]["train_data"] == f"{tmp_path}/\\udcff.tsv"
        listed = bundle.with_name("run.rejected.jsonl").read_text().splitlines()
        assert [json.loads(line)["file"] for line in listed] == [f"{tmp_path}/\\udcff.tsv"] * 2
