"""The Slurm script, run by a real Slurm: finished, interrupted, preempted, cancelled, and given mistakes."""

import json
import shlex
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from serving.bundle import open_bundle
from serving.errors import ExitCode
from tests.system.conftest import REPOSITORY
from tests.system.slurm import Slurm, missing_package, running_slurm

pytestmark = pytest.mark.system

SCRIPT = REPOSITORY / "deploy" / "slurm" / "bowsprit.sbatch"
SHORT = "# Four sentences.\nBOW_TRAIN_DATA=tutorial\nBOW_DEVICE=cpu\nBOW_EPOCHS=7\n"
ENDLESS = SHORT.replace("BOW_EPOCHS=7", "BOW_EPOCHS=100000000")
LONG = SHORT.replace("BOW_EPOCHS=7", "BOW_EPOCHS=60000\nBOW_BATCH_SIZE=1")
TRAINING = '"event": "model"'
"""What the job says just before it trains."""
ENVIRON = {"RECIPE": "my.env", "BOWSPRIT_VENV": sys.prefix, "PYTHONPATH": str(REPOSITORY)}

COUNT_REQUESTS = """
import pathlib, signal, sys, time
signal.signal(signal.SIGTERM, lambda *_: print("asked to end", flush=True))
pathlib.Path("started").touch()
signal.pause()
time.sleep(1)
sys.exit(75)
"""


@pytest.fixture(scope="module")
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    """A Slurm of one node, which is installed where it is not here."""
    package = missing_package()
    if package is not None:
        pytest.skip(f"{package} could not be installed: apt-get install {package}, as root")
    with running_slurm(tmp_path_factory.mktemp("slurm")) as running:
        yield running


def test_a_submitted_run_ends_in_a_bundle_of_the_jobs_name(slurm: Slurm, tmp_path: Path) -> None:
    """If it failed, nobody could train by the script, or the recipe would win over their settings."""
    (tmp_path / "my.env").write_text(SHORT)
    number = slurm.submit(SCRIPT, tmp_path, **ENVIRON, BOW_EPOCHS="3")
    record = slurm.wait(number, "COMPLETED", "FAILED")
    assert (record["JobState"], record["ExitCode"], record["Restarts"]) == ("COMPLETED", "0:0", "0"), log(
        tmp_path
    )
    bundle = tmp_path / "artifacts" / f"slurm-{number}"
    assert open_bundle(bundle).bundle_id
    assert json.loads((bundle / "manifest.json").read_text())["settings"]["epochs"] == 3


def test_a_run_whose_time_is_over_is_requeued(slurm: Slurm, tmp_path: Path) -> None:
    """If it failed, a run that needs more time than Slurm gives it would be killed, and not come back."""
    (tmp_path / "my.env").write_text(ENDLESS)
    # Less than the two minutes of which the script wants to be told: Slurm tells it at its next look.
    number = slurm.submit(SCRIPT, tmp_path, "--time=1", **ENVIRON)
    await_training(tmp_path)
    record = slurm.wait(number, "PENDING", "FAILED", "TIMEOUT")
    assert record["Restarts"] == "1"
    assert '"event": "interrupted"' in log(tmp_path)
    assert "bowsprit.sbatch: interrupted; requeued" in log(tmp_path)
    assert not (tmp_path / "artifacts" / f"slurm-{number}").exists()
    slurm("scancel", number)


def test_a_run_that_is_requeued_goes_on_and_ends_as_an_undisturbed_one(slurm: Slurm, tmp_path: Path) -> None:
    """If it failed, every preemption would cost the work of hours, or change the model."""
    (tmp_path / "my.env").write_text(LONG)
    number = slurm.submit(SCRIPT, tmp_path, **ENVIRON)
    until(lambda: '"event": "checkpoints"' in log(tmp_path), lambda: log(tmp_path))
    time.sleep(1)
    slurm("scancel", "--batch", "--signal=USR1", number)
    assert slurm.wait(number, "PENDING", "FAILED", "COMPLETED")["Restarts"] == "1", log(tmp_path)
    # Slurm would start it in two minutes; in the second in which it was requeued, its node refuses it.
    slurm("scontrol", "update", f"jobid={number}", "StartTime=now+2", "TimeLimit=10")
    record = slurm.wait(number, "COMPLETED", "FAILED")
    assert (record["JobState"], record["ExitCode"], record["Restarts"]) == ("COMPLETED", "0:0", "1"), log(
        tmp_path
    )
    assert log(tmp_path).count(TRAINING) == 2  # the log of the first attempt is kept
    assert log(tmp_path).count('"event": "resumed"') == 1
    another = slurm.submit(SCRIPT, tmp_path, **ENVIRON)
    assert slurm.wait(another, "COMPLETED", "FAILED")["Restarts"] == "0"
    ended, undisturbed = (open_bundle(tmp_path / "artifacts" / f"slurm-{each}") for each in (number, another))
    assert ended.bundle_id == undisturbed.bundle_id


def test_a_run_that_was_restarted_often_enough_keeps_its_code(slurm: Slurm, tmp_path: Path) -> None:
    """If it failed, a run that never gets done in its time would take a node for ever."""
    (tmp_path / "my.env").write_text(ENDLESS)
    number = slurm.submit(SCRIPT, tmp_path, **ENVIRON, BOWSPRIT_MAX_RESTARTS="0")
    await_training(tmp_path)
    slurm("scancel", "--batch", "--signal=USR1", number)
    record = slurm.wait(number, "FAILED", "PENDING")
    assert (record["ExitCode"], record["Restarts"]) == (f"{ExitCode.INTERRUPTED:d}:0", "0"), log(tmp_path)
    assert "--time" in log(tmp_path)


def test_a_run_that_is_signalled_while_it_starts_is_requeued(slurm: Slurm, tmp_path: Path) -> None:
    """If it failed, a signal before Python can answer it would look like a failure of the job's."""
    (tmp_path / "my.env").write_text(ENDLESS)
    stand_in(tmp_path / "venv" / "bin" / "python", "touch started; exec sleep 60")
    number = slurm.submit(SCRIPT, tmp_path, **ENVIRON | {"BOWSPRIT_VENV": "venv"})
    until((tmp_path / "started").exists, lambda: log(tmp_path))
    slurm("scancel", "--batch", "--signal=USR1", number)
    assert slurm.wait(number, "FAILED", "PENDING")["Restarts"] == "1", log(tmp_path)
    slurm("scancel", number)


@pytest.mark.parametrize("how", [["scancel", "--batch", "--signal=USR1"], ["scancel"]], ids=" ".join)
def test_the_job_is_asked_to_end_once(slurm: Slurm, tmp_path: Path, how: list[str]) -> None:
    """If it failed, a job would take the second time for impatience, and leave at once what it could save."""
    stand_in(
        tmp_path / "venv" / "bin" / "python", f"exec {shlex.quote(sys.executable)} -c '{COUNT_REQUESTS}'"
    )
    number = slurm.submit(SCRIPT, tmp_path, BOWSPRIT_VENV="venv", BOWSPRIT_MAX_RESTARTS="0")
    until((tmp_path / "started").exists, lambda: log(tmp_path))
    slurm(*how, number)
    until(lambda: "asked" in log(tmp_path) and "interrupted" in log(tmp_path), lambda: log(tmp_path))
    assert log(tmp_path).count("asked to end") == 1


def test_a_preempted_run_is_requeued_once(slurm: Slurm, tmp_path: Path) -> None:
    """If it failed, the script would requeue what Slurm requeues already, or end before the job does."""
    (tmp_path / "my.env").write_text(ENDLESS)
    number = slurm.submit(SCRIPT, tmp_path, **ENVIRON)
    await_training(tmp_path)
    slurm("sbatch", "--partition=urgent", "--gres=gpu:1", "--output=/dev/null", "--wrap=true")
    assert slurm.wait(number, "PENDING")["Restarts"] == "1"
    until(lambda: "left to Slurm" in log(tmp_path), lambda: log(tmp_path))
    assert log(tmp_path).count('"event": "interrupted"') == 1
    assert slurm.job(number)["Restarts"] == "1"
    slurm("scancel", number)


def test_a_cancelled_run_does_not_come_back(slurm: Slurm, tmp_path: Path) -> None:
    """If it failed, nobody could cancel a job: it ends like an interrupted one, and would return."""
    (tmp_path / "my.env").write_text(ENDLESS)
    number = slurm.submit(SCRIPT, tmp_path, **ENVIRON)
    await_training(tmp_path)
    slurm("scancel", number)
    until(lambda: "left to Slurm" in log(tmp_path), lambda: log(tmp_path))
    assert slurm.wait(number, "CANCELLED", "PENDING", "RUNNING")["Restarts"] == "0"
    assert log(tmp_path).count('"event": "interrupted"') == 1


@pytest.mark.parametrize(
    ("recipe", "says"),
    [
        (SHORT.replace("BOW_EPOCHS=7", "BOW_EPOCHS=none"), "BOW_EPOCHS: expected"),
        (None, "there is no recipe my.env"),
    ],
    ids=["a wrong setting", "no recipe"],
)
def test_a_wrong_setting_is_not_tried_again(
    slurm: Slurm, tmp_path: Path, recipe: str | None, says: str
) -> None:
    """If it failed, Slurm would try the same wrong setting for ever, or not have its code on record."""
    if recipe is not None:
        (tmp_path / "my.env").write_text(recipe)
    number = slurm.submit(SCRIPT, tmp_path, **ENVIRON)
    record = slurm.wait(number, "FAILED", "COMPLETED")
    assert (record["JobState"], record["ExitCode"], record["Restarts"]) == (
        "FAILED",
        f"{ExitCode.SETTINGS:d}:0",
        "0",
    )
    assert says in log(tmp_path)


def test_a_run_that_was_given_a_gpu_does_not_train_on_the_cpu(slurm: Slurm, tmp_path: Path) -> None:
    """If it failed, a node with a broken driver would hold a GPU for hours, and train beside it."""
    (tmp_path / "my.env").write_text(SHORT.replace("BOW_DEVICE=cpu\n", ""))
    number = slurm.submit(SCRIPT, tmp_path, **ENVIRON)
    record = slurm.wait(number, "COMPLETED", "FAILED")
    code = ExitCode.DONE if torch.cuda.is_available() else ExitCode.PLATFORM
    assert record["ExitCode"] == f"{code:d}:0", log(tmp_path)


def test_an_image_is_run_by_apptainer_in_the_folder_of_the_submission(slurm: Slurm, tmp_path: Path) -> None:
    """If it failed, a recipe's relative paths would be others in the image, or the GPU be missing."""
    (tmp_path / "my.env").write_text(SHORT)
    # Debian has no Apptainer: this writes down what it was asked for, and runs the job without an image.
    program = stand_in(
        tmp_path / "bin" / "apptainer",
        f'printf "%s\\n" "$@" >asked-for; exec {shlex.quote(sys.executable)} -m job',
    )
    path = f"{program.parent}:/usr/bin:/bin"
    number = slurm.submit(SCRIPT, tmp_path, **ENVIRON, BOWSPRIT_SIF="bowsprit 1.sif", PATH=path)
    record = slurm.wait(number, "COMPLETED", "FAILED")
    assert record["ExitCode"] == "0:0", log(tmp_path)
    asked_for = (tmp_path / "asked-for").read_text().splitlines()
    assert asked_for == ["run", "--bind", f"{tmp_path}:/work", "--pwd", "/work", "--nv", "bowsprit 1.sif"]
    assert open_bundle(tmp_path / "artifacts" / f"slurm-{number}").bundle_id


def log(folder: Path) -> str:
    """What the job of a folder has said so far."""
    path = folder / "job.log"
    return path.read_text() if path.exists() else ""


def stand_in(path: Path, commands: str) -> Path:
    """A program that does what a shell does with some commands."""
    path.parent.mkdir(parents=True)
    path.write_text(f"#!/bin/sh\n{commands}\n")
    path.chmod(0o755)
    return path


def await_training(folder: Path) -> None:
    """Returns when the job of a folder trains."""
    until(lambda: TRAINING in log(folder), lambda: log(folder))


def until(holds: Callable[[], bool], explain: Callable[[], str]) -> None:
    """Returns when something holds, and fails with an explanation where it does not come to."""
    deadline = time.monotonic() + 90
    while not holds():
        assert time.monotonic() < deadline, explain()
        time.sleep(0.1)
