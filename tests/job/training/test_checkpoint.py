"""Runs that are ended in the middle and go on: the same bytes, of the same run, or a clear refusal."""

import errno
import json
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import structlog

from job.environment import load_settings
from job.run import run
from job.run_lock import only_job
from job.stopping import Interrupted, Stop
from job.telling.output import Output
from job.training import checkpoint, checkpoints
from job.training.trainer import evaluate
from serving.bundle import FILES
from serving.errors import PlatformError, SettingsError, TrainingError
from tests.job.test_run import TEXTS, write_tsv

ROWS = [(f"{text} w{place % 7}", label) for place, (text, label) in enumerate(TEXTS * 12)]
EPOCHS = 4
BATCHES = 6
"""Of an epoch."""


class StopAfter(Stop):
    """A signal comes while so many updates are done."""

    def __init__(self, updates: int) -> None:
        super().__init__()
        self.left = updates

    @property  # type: ignore[override]
    def signal_name(self) -> str | None:
        self.left -= 1
        return "SIGTERM" if self.left < 0 else None

    @signal_name.setter
    def signal_name(self, name: str | None) -> None:
        pass


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_tsv(tmp_path / "train.tsv", ROWS)


Train = Callable[..., Path]


@pytest.fixture
def train(tmp_path: Path, data: Path) -> Train:
    def call(folder: str = "out", stop: Stop | None = None, **settings: object) -> Path:
        environ = {"TRAIN_DATA": data, "OUTPUT_DIR": tmp_path / folder, "DEVICE": "cpu", "RUN_NAME": "night"}
        environ |= {"EPOCHS": EPOCHS, "BATCH_SIZE": 16, **settings}
        named = {f"BOW_{name}": str(value) for name, value in environ.items()}
        return run(load_settings(named), Output(for_people=False), stop)

    return call


def bytes_of(bundle: Path) -> dict[str, bytes]:
    return {name: (bundle / name).read_bytes() for name in (FILES.manifest, *FILES.hashed)}


KINDS: dict[str, dict[str, object]] = {
    "adagrad": {},
    "sgd": {"OPTIMIZER": "sgd", "LEARNING_RATE": 0.5},
    "adam": {"OPTIMIZER": "adam"},
    "in order": {"SHUFFLE": "false"},
    "patience": {"VALIDATION_SPLIT": 0.2, "PATIENCE": 2, "EPOCHS": 20, "LEARNING_RATE": 2},
    "n-grams": {"CHAR_NGRAMS": "2-3", "WEIGHTING": "tfidf", "NORMALIZE": "l2"},
}


@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_goes_on_ends_with_the_bytes_of_one_that_was_never_ended(train: Train, kind: str) -> None:
    """If it failed, a preempted run would give another model, and nobody could rebuild it."""
    undisturbed = bytes_of(train("undisturbed", **KINDS[kind]))
    num_ends = 0
    while True:
        try:
            # Every few updates, so that it ends within epochs, at their end, and right after it went on.
            bundle = train("ended", StopAfter(1 + 5 * num_ends % 8), **KINDS[kind])
        except Interrupted:
            num_ends += 1
        else:
            break
    assert num_ends > 2
    assert bytes_of(bundle) == undisturbed
    assert sorted(path.name for path in bundle.parent.iterdir()) == ["latest", "night"]


def test_checkpoints_are_kept_as_often_as_was_asked_for(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it failed, a machine that dies without a word would cost all of the work."""
    steps: list[int] = []
    save = checkpoint.save

    def noted(path: Path, state: object, identity: object) -> None:
        save(path, state, identity)  # type: ignore[arg-type]
        steps.append(state.step)  # type: ignore[attr-defined]

    monkeypatch.setattr(checkpoint, "save", noted)
    train(CHECKPOINT_EVERY=1e-9, CHECKPOINT_DIR=tmp_path / "kept" / "here")
    # Once more with the last epoch done, so that a signal after it costs nothing.
    assert steps == [*range(1, EPOCHS * BATCHES + 1), EPOCHS * BATCHES]
    assert list((tmp_path / "kept" / "here").iterdir()) == []
    steps.clear()
    train("never", CHECKPOINT_EVERY=0)
    train("seldom", CHECKPOINT_EVERY=3600)
    assert steps == []


def test_a_shared_folder_of_checkpoints_has_one_job_of_a_name(train: Train, tmp_path: Path) -> None:
    """If it failed, a job would remove what another one of that name is writing, which then fails."""
    kept = tmp_path / "kept"
    kept.mkdir()
    unfinished = kept / ".night.checkpoint-of-another"
    unfinished.mkdir()
    (unfinished / ".tmp123456").touch()
    (kept / ".night.checkpoint-fetched").touch()
    with only_job(kept, "night"), pytest.raises(PlatformError, match="kept/night: another job is making it"):
        train("mine", CHECKPOINT_DIR=kept)
    assert unfinished.exists()
    train("mine", CHECKPOINT_DIR=kept)  # what is there now is of a job that was killed
    assert list(kept.iterdir()) == []
    train("same", CHECKPOINT_DIR=tmp_path / "mine" / ".." / "same")
    assert sorted(path.name for path in (tmp_path / "same").iterdir()) == ["latest", "night"]


@pytest.mark.parametrize("folder", ["/proc/none", "train.tsv", "train.tsv/below"])
def test_a_folder_that_cannot_hold_checkpoints_is_refused_before_anything_is_read(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    """If it failed, the job would find out at the signal, and lose all that it has learned."""
    monkeypatch.setattr("job.run.read_data", None)
    with pytest.raises(PlatformError, match=rf"{folder}: no checkpoint can be written .*BOW_CHECKPOINT_DIR"):
        train(CHECKPOINT_DIR=tmp_path / folder)


def test_a_checkpoint_that_cannot_be_removed_is_told_and_no_error(
    train: Train, ended: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it failed, a run that has published its bundle would count as failed, and be tried again."""
    unlink = Path.unlink

    def refuse(path: Path, missing_ok: bool = False) -> None:
        if path == ended:
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(path))
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", refuse)
    with structlog.testing.capture_logs() as logs:
        bundle = train()
    (said,) = [each for each in logs if each["event"] == "checkpoint_not_removed"]
    assert (said["path"], said["log_level"]) == (str(ended), "warning")
    assert (bundle.parent / "latest").resolve() == bundle


def test_a_signal_after_the_last_step_keeps_what_was_learned(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it failed, a signal while the last epoch is scored would cost the whole of training."""
    stop = Stop()
    scored: list[int] = []

    def signalled(*arguments: object) -> object:
        scored.append(1)
        if len(scored) == EPOCHS:
            stop.signal_name = "SIGTERM"
        return evaluate(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("job.training.trainer.evaluate", signalled)
    settings = {"VALIDATION_SPLIT": 0.2, "EPOCHS": EPOCHS}
    with pytest.raises(Interrupted, match="what was learned in"):
        train(stop=stop, **settings)
    with structlog.testing.capture_logs() as logs:
        bundle = train(**settings)
    assert [each["epochs_done"] for each in logs if each["event"] == "resumed"] == [EPOCHS]
    monkeypatch.undo()
    assert bytes_of(bundle) == bytes_of(train("undisturbed", **settings))


@pytest.fixture
def always_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Training that takes no time at all is worth a checkpoint."""
    monkeypatch.setattr(checkpoints, "WORTH_SECONDS", 0.0)
    monkeypatch.setattr(checkpoints, "WORTH_RATIO", 0.0)


def end_in_export(train: Train, stage: str, **settings: object) -> str:
    """Runs until a signal comes in the export or in what proves it; returns what the job says then."""
    stop = Stop()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(f"job.run.{stage}", lambda *_, **__: stop._handle(signal.SIGTERM, None))
        with pytest.raises(Interrupted) as interrupted:
            train(stop=stop, **settings)
    return str(interrupted.value)


@pytest.mark.usefixtures("always_worth_it")
@pytest.mark.parametrize("stage", ["write_model", "climb_all", "seal"])
@pytest.mark.parametrize("kind", ["adagrad", "patience"])
def test_a_run_that_is_ended_in_the_export_takes_no_step_again(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, stage: str
) -> None:
    """If it failed, a machine that is lost after hours of training would cost them all."""
    undisturbed = train("undisturbed", **KINDS[kind])
    said = end_in_export(train, stage, **KINDS[kind])
    assert re.search(
        r"interrupted by SIGTERM: what was learned in \d+ steps is in .*\.night\.checkpoint;", said
    )
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [".night.checkpoint"]
    monkeypatch.setattr("job.training.trainer.train_step", None)
    # Ended once more, it has lost nothing either, and kept no other.
    monkeypatch.setattr(checkpoints, "WORTH_SECONDS", 1e9)
    assert end_in_export(train, stage, **KINDS[kind]) == said
    bundle = train(**KINDS[kind])
    assert bytes_of(bundle) == bytes_of(undisturbed)
    epochs = [json.loads((each / FILES.run).read_text())["epochs"] for each in (bundle, undisturbed)]
    assert epochs[0] == epochs[1]
    assert sorted(path.name for path in bundle.parent.iterdir()) == ["latest", "night"]


def test_training_that_took_no_longer_than_a_checkpoint_keeps_none(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it failed, short runs would take longer, and those of large models write more than they learn."""
    for seconds, bytes_per_second, every in ((10.0, 1e8, 300), (0.0, 1.0, 300), (0.0, 1e8, 0)):
        monkeypatch.setattr(checkpoints, "WORTH_SECONDS", seconds)
        monkeypatch.setattr(checkpoints, "BYTES_PER_SECOND", bytes_per_second)
        said = end_in_export(train, "write_model", CHECKPOINT_EVERY=every, GRACE_SECONDS=1e9)
        assert said == "interrupted by SIGTERM: nothing was published; run it again"
        assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.usefixtures("always_worth_it")
def test_a_disk_too_full_for_the_last_checkpoint_does_not_end_the_run(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it failed, hours of training would be lost for want of room for a copy of what they gave."""

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("job.training.checkpoint.save_file", full)
    with structlog.testing.capture_logs() as logs:
        bundle = train()
    (said,) = [each for each in logs if each["event"] == "checkpoint_not_kept"]
    assert (said["log_level"], "No space left on device" in said["reason"]) == ("warning", True)
    assert sorted(path.name for path in bundle.parent.iterdir()) == ["latest", "night"]


@pytest.mark.usefixtures("always_worth_it")
def test_training_that_diverged_leaves_no_checkpoint(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it failed, the run with the learning rate that the error advises would be refused."""
    monkeypatch.setattr("job.training.trainer.MAX_WEIGHT", 1e-9)
    with pytest.raises(TrainingError, match="BOW_LEARNING_RATE"):
        train()
    assert list((tmp_path / "out").iterdir()) == []


@pytest.fixture
def ended(train: Train, tmp_path: Path) -> Path:
    """The checkpoint of a run that was ended."""
    with pytest.raises(Interrupted, match="interrupted by SIGTERM: what was learned in 8 steps is in"):
        train(stop=StopAfter(7))
    return tmp_path / "out" / ".night.checkpoint"


def test_a_checkpoint_of_other_settings_or_data_is_refused(train: Train, data: Path, ended: Path) -> None:
    """If it failed, a model would be half of one run and half of another."""
    before = ended.read_bytes()
    with pytest.raises(SettingsError, match=r"with other learning_rate, seed; remove it .*BOW_OVERWRITE"):
        train(SEED=9, LEARNING_RATE=0.1)
    write_tsv(data, ROWS[1:])
    with pytest.raises(SettingsError, match="with other train data"):
        train()
    assert ended.read_bytes() == before
    assert not (ended.parent / "night").exists()


def test_it_makes_way_where_overwriting_is_asked_for(train: Train, ended: Path) -> None:
    """If it failed, `make train` with a changed setting would be refused after a Ctrl-C."""
    bundle = train(SEED=9, OVERWRITE="true")
    assert not ended.exists()
    assert bytes_of(bundle) == bytes_of(train("undisturbed", SEED=9))


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "byte", "header"])
def test_a_damaged_checkpoint_is_refused(train: Train, ended: Path, damage: str) -> None:
    """If it failed, a model would go on from numbers that nobody learned."""
    content = bytearray(ended.read_bytes())
    match damage:
        case "empty":
            content.clear()
        case "cut":
            del content[-5:]
        case "text":
            content[:] = b"no checkpoint"
        case "byte":
            content[-100] ^= 1
        case "header":
            place = content.index(b"crc32")
            content[place : place + 5] = b"crc33"
    ended.write_bytes(content)
    with pytest.raises(SettingsError, match=r"\.night\.checkpoint: is not .*remove it to begin anew"):
        train()


def test_a_checkpoint_that_cannot_be_read_is_not_taken_for_a_damaged_one(
    train: Train, ended: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it failed, a disk that fails for a moment would cost the work of days, or a retry that helps."""

    def broken(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with monkeypatch.context() as patch:
        patch.setattr(checkpoint, "safe_open", broken)
        with pytest.raises(PlatformError, match=r"night\.checkpoint: .* cannot be read .Input/output error"):
            train(OVERWRITE="true")
    aside = ended.rename(ended.with_name("aside"))
    ended.symlink_to(ended)  # which root cannot open either
    with pytest.raises(PlatformError, match=r"cannot be read .Too many levels"):
        train(OVERWRITE="true")
    aside.replace(ended)
    with structlog.testing.capture_logs() as logs:
        train(OVERWRITE="true")
    assert "resumed" in [each["event"] for each in logs]


def test_nothing_of_a_damaged_checkpoint_that_is_removed_stays(train: Train, tmp_path: Path) -> None:
    """If it failed, the best epoch of numbers that nobody learned would be taken for this run's."""
    with pytest.raises(Interrupted):
        train(stop=StopAfter(8), **KINDS["patience"])
    kept = tmp_path / "out" / ".night.checkpoint"
    content = bytearray(kept.read_bytes())
    content[-100] ^= 1
    kept.write_bytes(content)
    with structlog.testing.capture_logs() as logs:
        bundle = train(**KINDS["patience"], OVERWRITE="true")
    (removed,) = [each for each in logs if each["event"] == "checkpoint_removed"]
    assert removed["reason"] == f"{kept}: is not what was written there"
    assert bytes_of(bundle) == bytes_of(train("undisturbed", **KINDS["patience"]))


def test_the_speed_of_a_run_that_went_on_is_that_of_its_own_steps(train: Train, ended: Path) -> None:
    """If it failed, a run that was ended near its end would seem a hundred times as fast."""
    record = json.loads((train() / FILES.run).read_text())
    tokens = record["tokens_per_second"] * record["stages"]["train"]["seconds"]
    left = 1 - 8 / (EPOCHS * BATCHES)
    assert tokens == pytest.approx(left * record["num_tokens"] * EPOCHS, rel=1e-3)


def test_a_full_disk_keeps_the_last_checkpoint(
    train: Train, ended: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it failed, half a checkpoint would take the place of a whole one."""
    before = ended.read_bytes()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("job.training.checkpoint.save_file", full)
    with pytest.raises(
        PlatformError, match=r"the checkpoint cannot be written .No space left on device.*_DIR"
    ):
        train(CHECKPOINT_EVERY=1e-9)
    assert ended.read_bytes() == before
    assert [path.name for path in ended.parent.iterdir()] == [ended.name]


def test_what_a_killed_job_was_writing_is_in_a_folder_that_the_next_one_removes(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it failed, each job that is killed while it writes would leave a file as large as a checkpoint."""
    written: list[Path] = []

    def killed(_tensors: object, path: Path, _facts: object) -> None:
        written.append(path.with_name(".tmp123456"))  # safetensors' own kind of name
        raise KeyboardInterrupt

    monkeypatch.setattr(checkpoint, "save_file", killed)
    with pytest.raises(KeyboardInterrupt):
        train(CHECKPOINT_EVERY=1e-9)
    monkeypatch.undo()
    written[0].parent.mkdir()  # a job that is killed removes nothing
    written[0].touch()
    train()
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["latest", "night"]


def test_a_grace_period_that_is_too_short_is_warned_of(train: Train) -> None:
    """If it failed, a large model's checkpoint would be cut off each time, and nobody would know why."""
    with structlog.testing.capture_logs() as logs:
        train(GRACE_SECONDS=1e-9)
    (said,) = [each for each in logs if each["event"] == "checkpoints"]
    assert said["bytes"] > 100
    assert [each["log_level"] for each in logs if each["event"] == "grace_too_short"] == ["warning"]
    with structlog.testing.capture_logs() as logs:
        train("other")
    assert "grace_too_short" not in [each["event"] for each in logs]
