"""The job as it is scheduled: night after night into one folder, with a gate, retention and reports."""

import json
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from prometheus_client.parser import text_string_to_metric_families

from export.publish import LATEST
from job import log
from job.main import main
from job.stopping import Interrupted, Stop
from serving.bundle import FILES, open_bundle
from serving.errors import ExitCode
from serving.main import main as serving_main
from serving.quality import read_failed_gate

pytestmark = pytest.mark.system

SUCCESS = "bowsprit_last_success_timestamp_seconds"
TOPICS = {
    "account": ["password", "login", "account", "locked"],
    "delivery": ["parcel", "arrive", "track", "courier"],
    "billing": ["invoice", "charged", "refund", "receipt"],
}


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    """Without it the name of one test's run would stand in the next test's log."""
    yield
    log._run.clear()
    structlog.reset_defaults()


def write_rows(path: Path, number: int, seed: int, *, shuffled: bool = False) -> Path:
    draw = random.Random(seed)
    labels = [draw.choice(list(TOPICS)) for _ in range(number)]
    texts = [
        " ".join(["please", *draw.choices(TOPICS[label], k=3), str(draw.randrange(50))]) for label in labels
    ]
    if shuffled:
        draw.shuffle(labels)
    rows = "".join(f"{text}\t{label}\n" for text, label in zip(texts, labels, strict=True))
    path.write_text("text\tlabel\n" + rows)
    return path


class Nights:
    """One output folder, and the jobs that run into it."""

    def __init__(self, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
        self.folder, self.out, self.capfd = folder, folder / "out", capfd
        self.test = write_rows(folder / "test.tsv", 200, seed=1000)
        self.events: list[dict[str, Any]] = []
        self.errors = ""

    def run(self, night: int, *, broken: bool = False, **settings: object) -> int:
        """Trains on that night's data; returns the exit code, and keeps the log."""
        data = write_rows(self.folder / f"train-{night}.tsv", 300, seed=night, shuffled=broken)
        environ = {
            "BOW_TRAIN_DATA": data,
            "BOW_TEST_DATA": self.test,
            "BOW_OUTPUT_DIR": self.out,
            "BOW_RUN_NAME": f"night-{night}",
            "BOW_DEVICE": "cpu",
            "BOW_LOG_FORMAT": "json",
            "BOW_TERMINATION_LOG": self.folder / "termination-log",
            "BOW_METRICS_FILE": self.folder / "tickets.prom",
        } | {f"BOW_{name.upper()}": value for name, value in settings.items()}
        code = main([], {name: str(value) for name, value in environ.items()}, Stop())
        self.errors = self.capfd.readouterr().err
        if environ["BOW_LOG_FORMAT"] == "json":
            self.events = [json.loads(line) for line in self.errors.splitlines()]
        return code

    def event(self, name: str) -> dict[str, Any]:
        (found,) = [event for event in self.events if event["event"] == name]
        return found

    @property
    def latest(self) -> str:
        return os.readlink(self.out / LATEST)  # noqa: PTH115 - as it is written

    @property
    def names(self) -> set[str]:
        return {path.name for path in self.out.iterdir()} - {LATEST}

    def metrics(self) -> dict[str, float]:
        families = text_string_to_metric_families((self.folder / "tickets.prom").read_text())
        return {sample.name: sample.value for family in families for sample in family.samples}


@pytest.fixture
def nights(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> Nights:
    return Nights(tmp_path, capfd)


def test_a_night_of_broken_data_fails_the_gate_and_the_model_in_service_stays(
    nights: Nights, capfd: pytest.CaptureFixture[str]
) -> None:
    """If it failed, one night of shuffled labels would put a useless model into service."""
    gate = {"min_accuracy": 0.9, "max_drop": 0.02}
    assert nights.run(1, **gate) == 0
    assert nights.run(2, broken=True, **gate) == ExitCode.QUALITY_GATE
    assert nights.latest == "night-1"
    assert nights.names == {"night-1", "night-2"}
    message = nights.event("failed")["reason"]
    for words in (
        "night-2: ",
        "test accuracy 0.",
        "BOW_MIN_ACCURACY asks for at least 0.9",
        "night-1, which is",
    ):
        assert words in message
    assert nights.event("kept_back")["bundle"] == str(nights.out / "night-2")
    judged = nights.event("quality_gate")
    assert (judged["passed"], judged["in_service"], judged["its_accuracy"]) == (False, "night-1", 1.0)
    assert judged["scored_anew"] is False
    failed = read_failed_gate(nights.out / "night-2")
    assert failed is not None
    assert (failed.latest, failed.latest_accuracy) == ("night-1", 1.0)
    assert len(failed.reasons) == 2
    # The bundle is whole, and says of itself that it did not pass.
    assert serving_main(["verify", str(nights.out / "night-2")]) == 0
    assert "it did not pass the quality gate: test accuracy 0." in capfd.readouterr().out
    assert serving_main(["verify", str(nights.out / "night-1")]) == 0
    assert "quality gate" not in capfd.readouterr().out
    assert nights.run(3, **gate) == 0
    assert nights.latest == "night-3"


def test_the_model_is_the_same_whether_it_passes_or_not(nights: Nights) -> None:
    """If it failed, what was in service that night would change a bundle's ID: nobody could rebuild it."""
    assert nights.run(1, run_name="judged", min_accuracy=1, epochs=1, max_vocabulary=1) == 7
    assert nights.run(1, run_name="free", epochs=1, max_vocabulary=1) == 0
    ids = {open_bundle(nights.out / name).bundle_id for name in ("judged", "free")}
    assert len(ids) == 1


def test_a_retry_of_a_run_that_did_not_pass_ends_in_the_same_way(nights: Nights) -> None:
    """If it failed, a scheduler's second try would put into service what the first one kept back."""
    assert nights.run(1) == 0
    for attempt in range(3):
        assert nights.run(2, broken=True, max_drop=0.02) == 7
        assert nights.latest == "night-1"
        assert (nights.out / "night-2" / FILES.failed_gate).exists()
        trained = [event["event"] for event in nights.events if event["event"] == "epoch"]
        assert bool(trained) == (attempt == 0)
    # Not even a better model in service since then, or none at all, makes it a good one.
    assert nights.run(3) == 0
    assert nights.run(2, broken=True, max_drop=0.02) == 7
    assert nights.latest == "night-3"


def test_who_lowers_the_limit_puts_the_kept_model_into_service(nights: Nights) -> None:
    """If it failed, the error's advice would not help, or cost another training."""
    assert nights.run(1) == 0
    assert nights.run(2, broken=True, max_drop=0.02) == 7
    assert nights.run(2, broken=True, max_drop=1) == 0
    assert nights.event("already_published")["latest"] == nights.latest == "night-2"
    assert not (nights.out / "night-2" / FILES.failed_gate).exists()


def test_a_retry_of_a_run_that_passed_ends_well_whatever_came_after_it(nights: Nights) -> None:
    """If it failed, a run that a scheduler repeats would be compared with the better model that followed."""
    assert nights.run(1, broken=True) == 0
    assert nights.run(2, max_drop=0.02) == 0
    assert nights.run(1, broken=True, max_drop=0.02) == 0
    result = nights.events[-1]
    assert (result["outcome"], result["exit_code"]) == ("already_published", 0)
    assert result["bundle_id"] == open_bundle(nights.out / "night-1").bundle_id
    assert nights.event("already_published")["latest"] == nights.latest == "night-2"
    assert not (nights.out / "night-1" / FILES.failed_gate).exists()
    # A job that was killed before `latest` moved is judged once more, since it moves now.
    (nights.out / LATEST).unlink()
    (nights.out / LATEST).symlink_to("night-1")
    assert nights.run(2, max_drop=0.02) == 0
    assert nights.latest == "night-2"


def test_a_bundle_in_service_that_is_below_a_new_limit_is_an_error_and_stays(nights: Nights) -> None:
    """If it failed, a limit would be met by a bundle that was published without one."""
    assert nights.run(1, broken=True) == 0
    assert nights.run(1, broken=True, min_accuracy=0.9) == 7
    assert nights.latest == "night-1"
    assert not (nights.out / "night-1" / FILES.failed_gate).exists()


def test_without_a_model_in_service_there_is_nothing_to_drop_from(nights: Nights) -> None:
    """If it failed, the first night could never pass."""
    assert nights.run(1, broken=True, max_drop=0) == 0
    assert nights.latest == "night-1"


def test_new_test_data_does_not_count_as_a_worse_model(nights: Nights) -> None:
    """If it failed, models would be compared on different rows: a harder test set would close the gate."""
    assert nights.run(1, max_drop=0.02) == 0
    # Half of these labels are wrong: every model does far worse on them than the manifest of night 1 says.
    write_rows(nights.test, 200, seed=7, shuffled=True)
    assert nights.run(2, max_drop=0.02) == 0
    judged = nights.event("quality_gate")
    assert judged["scored_anew"] is True
    assert judged["its_accuracy"] == judged["accuracy"] < 0.6
    assert nights.latest == "night-2"


def test_a_model_that_fails_does_not_replace_the_one_in_service(nights: Nights) -> None:
    """If it failed, a job with a fixed name would overwrite the model in service with the one that failed."""
    fixed = {"run_name": "tickets", "overwrite": True, "min_accuracy": 0.9}
    assert nights.run(1, **fixed) == 0
    good = open_bundle(nights.out / "tickets").bundle_id
    for _ in range(2):
        assert nights.run(2, broken=True, **fixed) == 7
        assert open_bundle(nights.out / LATEST).bundle_id == good
        assert nights.names == {"tickets", "tickets.failed"}
        assert read_failed_gate(nights.out / "tickets") is None
        assert read_failed_gate(nights.out / "tickets.failed") is not None
    assert str(nights.out / "tickets.failed") in nights.event("failed")["reason"]
    assert nights.run(3, **fixed) == 0
    assert nights.latest == "tickets"
    assert open_bundle(nights.out / LATEST).bundle_id != good


def test_something_in_service_that_cannot_be_compared_with_ends_the_run_before_training(
    nights: Nights,
) -> None:
    """If it failed, hours of training would end at a gate that cannot be asked."""
    assert nights.run(1) == 0
    (nights.out / "night-1" / FILES.manifest).write_text("{}")
    assert nights.run(2, max_drop=0.02) == ExitCode.BUNDLE_DAMAGED
    assert "BOW_MAX_DROP" in nights.event("failed")["reason"]
    assert not [event for event in nights.events if event["event"] == "epoch"]
    assert nights.names == {"night-1"}


def test_ten_nights_leave_as_many_bundles_as_are_to_be_kept(nights: Nights) -> None:
    """If it failed, the disk would fill, or the model in service would go."""
    (nights.out / "mine").mkdir(parents=True)
    (nights.out / "mine" / "notes.txt").write_text("mine")
    for night in range(1, 11):
        # From the eighth night on the data is broken: the model of the seventh stays in service.
        broken = night > 7
        code = nights.run(night, broken=broken, keep_bundles=3, min_accuracy=0.9, epochs=2)
        assert code == (7 if broken else 0)
    assert nights.names == {"mine", "night-7", "night-9", "night-10"}
    assert nights.latest == "night-7"
    assert nights.event("old_bundles_removed")["bundles"] == ["night-8"]
    assert (nights.out / "mine" / "notes.txt").read_text() == "mine"
    for name in ("night-7", "night-9", "night-10"):
        assert serving_main(["verify", str(nights.out / name)]) == 0
    # A retry, of a job that was killed before it had removed anything, does what it had left to do.
    for night in (1, 2):
        shutil.copytree(nights.out / "night-7", nights.out / f"night-{night}")
        os.utime(nights.out / f"night-{night}" / FILES.manifest, (night, night))
    assert nights.run(10, broken=True, keep_bundles=3, min_accuracy=0.9, epochs=2) == 7
    assert nights.names == {"mine", "night-7", "night-9", "night-10"}


def test_the_last_line_and_the_reports_say_what_a_run_came_to(nights: Nights) -> None:
    """If it failed, a dashboard would show yesterday's figures, or none."""
    termination_log = nights.folder / "termination-log"
    termination_log.touch()
    assert nights.run(1, min_accuracy=0.9) == 0
    result = nights.events[-1]
    bundle = open_bundle(nights.out / "night-1")
    assert result["event"] == "result"
    assert (result["run"], result["outcome"], result["exit_code"]) == ("night-1", "published", 0)
    assert (result["bundle_id"], result["accuracy"], result["rows"]) == (bundle.bundle_id, 1.0, 300)
    record = json.loads((bundle.path / FILES.run).read_text())
    assert result["tokens_per_second"] == round(record["tokens_per_second"])
    assert (result["device"], result["error"], result["message"]) == ("cpu", None, None)
    told = json.loads(termination_log.read_text())
    assert told == {name: result[name] for name in told}
    success = nights.metrics()[SUCCESS]
    assert nights.metrics()["bowsprit_last_run_accuracy"] == 1

    assert nights.run(2, broken=True, min_accuracy=0.9) == 7
    told = json.loads(termination_log.read_text())
    assert (told["outcome"], told["exit_code"], told["error"]) == ("kept_back", 7, "QualityError")
    assert told["message"].startswith(f"{nights.out / 'night-2'}: the model did not pass")
    assert told["bundle_id"] == open_bundle(nights.out / "night-2").bundle_id
    assert nights.metrics()[SUCCESS] == success < nights.metrics()["bowsprit_last_run_timestamp_seconds"]
    assert nights.metrics()["bowsprit_last_run_accuracy"] == told["accuracy"] < 0.9
    assert nights.metrics()["bowsprit_last_run_exit_code"] == 7


@pytest.mark.parametrize(
    ("settings", "code", "error"),
    [
        ({"epochs": "many"}, 2, "SettingsError"),
        ({"train_data": "nowhere.tsv"}, 3, "DataError"),
        ({"optimizer": "sgd", "learning_rate": 1e37, "epochs": 50}, 4, "TrainingError"),
        ({"output_dir": "/proc/none"}, 74, "PlatformError"),
    ],
)
def test_a_run_that_fails_is_reported_too(
    nights: Nights, settings: dict[str, object], code: int, error: str
) -> None:
    """If it failed, the nights that matter most would leave no trace where people look."""
    (nights.folder / "termination-log").touch()
    assert nights.run(1, **settings) == code
    told = json.loads((nights.folder / "termination-log").read_text())
    assert (told["outcome"], told["exit_code"], told["error"]) == ("failed", code, error)
    assert told["message"] == nights.event("failed")["reason"].partition("\n")[0]
    assert nights.events[-1]["event"] == "result"
    assert nights.metrics()["bowsprit_last_run_exit_code"] == code
    assert SUCCESS not in nights.metrics()


def test_a_bug_and_a_signal_are_reported_too(nights: Nights, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it failed, the ends that nobody foresaw would be the ones that nobody hears of."""
    (nights.folder / "termination-log").touch()
    for raised, code, outcome in (
        (ZeroDivisionError("why"), 1, "bug"),
        (Interrupted("by SIGTERM"), 75, "interrupted"),
    ):

        def fail(*_: object, raised: BaseException = raised, **__: object) -> None:
            raise raised

        monkeypatch.setattr("job.run.learn", fail)
        assert nights.run(1) == code
        told = json.loads((nights.folder / "termination-log").read_text())
        assert (told["outcome"], told["run"], told["rows"]) == (outcome, "night-1", 300)
        assert nights.metrics()["bowsprit_last_run_exit_code"] == code


def test_people_see_the_result_and_last_what_to_do(nights: Nights, capfd: pytest.CaptureFixture[str]) -> None:
    """If it failed, what to do about a failure would scroll away behind its figures."""
    assert nights.run(1, broken=True, min_accuracy=0.9, log_format="console") == 7
    result, error = nights.errors.splitlines()[-2:]
    assert result.startswith("night-1: kept back (exit code 7), test accuracy 0.")
    assert error.startswith("error: ")


def test_every_json_line_says_which_run_it_is_of(nights: Nights) -> None:
    """If it failed, the lines of two jobs in one log could not be told apart."""
    assert nights.run(1) == 0
    assert {event["run"] for event in nights.events} == {"night-1"}
    # A name that comes from the data is known once they are read.
    assert nights.run(1, run_name="") == 0
    named = [event.get("run") for event in nights.events]
    first = named.index(nights.latest)
    assert set(named[:first]) == {None}
    assert set(named[first:]) == {nights.latest}
    assert {event["event"] for event in nights.events[:first]} <= {"device", "data", "learning_plan"}


def test_help_is_no_run_and_is_not_reported(nights: Nights) -> None:
    """If it failed, who asks for help would reset the figures of the last night."""
    environ = {"BOW_METRICS_FILE": str(nights.folder / "tickets.prom")}
    assert main(["--help"], environ, Stop()) == 0
    assert main(["--no-such"], environ, Stop()) == 2
    assert not (nights.folder / "tickets.prom").exists()
