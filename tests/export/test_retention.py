"""Retention: the newest bundles stay, and nothing but old, whole bundles ever goes."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from export.publish import LATEST, alone, staging
from export.retention import remove_old
from job.environment import load_settings
from job.run import run
from job.telling.output import Output
from serving.bundle import FILES

REPOSITORY = Path(__file__).parents[2]
NAMES = ["oldest", "older", "old", "new", "newest"]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("made")
    environ = {"BOW_TRAIN_DATA": "tutorial", "BOW_OUTPUT_DIR": str(folder), "BOW_DEVICE": "cpu"}
    return run(load_settings(environ | {"BOW_RUN_NAME": "run"}), Output(for_people=False))


def copies(made: Path, folder: Path, latest: str = "newest") -> Path:
    """An output folder with bundles of five nights."""
    folder.mkdir(exist_ok=True)
    for night, name in enumerate(NAMES):
        shutil.copytree(made, folder / name)
        os.utime(folder / name / FILES.manifest, (1_000_000 + night, 1_000_000 + night))
    (folder / LATEST).symlink_to(latest)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    return copies(made, tmp_path / "out")


def bundles(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} & set(NAMES)


def test_the_newest_bundles_stay_by_when_their_manifest_was_written(folder: Path) -> None:
    """If it failed, the disk would fill, or the newest models would go and old ones stay."""
    assert remove_old(folder, 3, folder / "newest") == ["older", "oldest"]
    assert {path.name for path in folder.iterdir()} == {"old", "new", "newest", LATEST}
    assert remove_old(folder, 3, folder / "newest") == []


def test_the_bundle_in_service_stays_however_old_it_is(made: Path, tmp_path: Path) -> None:
    """If it failed, a month of nights that fail the gate would delete the model that is served."""
    folder = copies(made, tmp_path / "out", latest="oldest")
    remove_old(folder, 1, folder / "newest")
    assert bundles(folder) == {"oldest", "newest"}
    assert (folder / LATEST / FILES.manifest).exists()


def test_the_bundle_that_was_just_published_stays_though_it_is_not_in_service(folder: Path) -> None:
    """If it failed, a run would delete its own bundle, and its error would name nothing."""
    remove_old(folder, 1, folder / "oldest")
    assert bundles(folder) == {"oldest", "newest"}


def test_a_link_of_the_users_own_keeps_its_bundle(folder: Path) -> None:
    """If it failed, a link `canary` beside `latest` would lead to nothing after some nights."""
    (folder / "canary").symlink_to("oldest")
    remove_old(folder, 1, folder / "newest")
    assert bundles(folder) == {"oldest", "newest"}


def test_a_link_that_leads_to_itself_keeps_nothing(folder: Path) -> None:
    """If it failed, such a link would end every job after its bundle is published."""
    (folder / "loop").symlink_to("loop")
    (folder / "nowhere").symlink_to("gone")
    remove_old(folder, 1, folder / "newest")
    assert bundles(folder) == {"newest"}
    assert (folder / "loop").is_symlink()


def test_a_marked_bundle_is_removed_by_the_same_rule(folder: Path) -> None:
    """If it failed, bundles that did not pass the gate would stay for ever."""
    (folder / "oldest" / FILES.failed_gate).write_text("{}")
    remove_old(folder, 4, folder / "newest")
    assert bundles(folder) == set(NAMES) - {"oldest"}


@pytest.mark.parametrize(
    "change",
    [
        lambda path: (path / "notes.txt").write_text("mine"),
        lambda path: (path / "more").mkdir(),
        lambda path: (path / FILES.manifest).unlink(),
        lambda path: (path / FILES.manifest).write_text("{}"),
        lambda path: (path / FILES.weights).unlink(),
        lambda path: (path / FILES.text_model).write_bytes(b"half"),
        lambda path: path.rename(path.with_name(".hidden")),
        lambda path: (shutil.rmtree(path), path.mkdir(), (path / "thesis.tex").write_text("mine")),
        lambda path: (shutil.rmtree(path), path.write_text("mine")),
    ],
    ids=[
        "notes in it",
        "a folder in it",
        "unsealed",
        "foreign",
        "a file lacks",
        "cut",
        "hidden",
        "other",
        "file",
    ],
)
def test_what_is_not_a_bundle_and_nothing_else_is_never_touched(
    folder: Path, change: Callable[[Path], object]
) -> None:
    """If it failed, a folder of the user's own beside the bundles, or in one, would be lost."""
    change(folder / "oldest")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if "oldest" in str(path)}
    removed = remove_old(folder, 2, folder / "newest")
    assert removed == ["old", "older"]
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if "oldest" in str(path)} == before


def test_the_staging_folder_of_a_living_job_is_never_touched(made: Path, folder: Path) -> None:
    """If it failed, one job's retention would take away what another one is about to publish."""
    with staging(folder) as theirs:
        shutil.copytree(made, theirs, dirs_exist_ok=True)
        remove_old(folder, 1, folder / "newest")
        assert (theirs / FILES.manifest).exists()
    assert {path.name for path in folder.iterdir()} == {"newest", LATEST}


def test_one_job_at_a_time_looks_at_latest_and_moves_it(tmp_path: Path) -> None:
    """If it failed, two jobs that end together could both pass the gate against the same old bundle."""
    with alone(tmp_path):
        other = os.open(tmp_path, os.O_RDONLY)
        with pytest.raises(BlockingIOError):
            fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
    os.close(other)


def test_a_kill_at_any_step_of_removing_leaves_only_whole_bundles(made: Path, tmp_path: Path) -> None:
    """If it failed, a node that dies while it tidies up would leave half a model under a name."""
    copies(made, tmp_path / "base")
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("killed_retention.py")), str(tmp_path)],
        cwd=REPOSITORY,
        env=dict(os.environ) | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    records = [json.loads(line) for line in done.stdout.splitlines()]
    assert [record["code"] for record in records] == [-signal.SIGKILL] * (len(records) - 1) + [0]
    steps = [str(record["before"]) for record in records]
    assert {f"os.rename {name}" for name in ("oldest", "older", "old")} <= set(steps)
    assert f"os.remove {FILES.text_model}" in steps
    for record in records:
        assert record["broken"] == [], record
        assert {"new", "newest"} <= set(record["named"]), record
        assert (record["again"], record["left"]) == (0, [LATEST, "new", "newest"]), record
    # The oldest goes first, so that what is left is always the newest.
    assert [len(record["named"]) for record in records] == sorted(
        (len(record["named"]) for record in records), reverse=True
    )
    for record in records:
        assert set(record["named"]) == set(NAMES[len(NAMES) - len(record["named"]) :])
