"""Publishing: a bundle appears whole or not at all, whatever ends the job, and `latest` always holds."""

import errno
import fcntl
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from export import publish as publishing
from export.publish import LATEST, point_latest_again, prepare_folder, publish, staging
from job.environment import load_settings
from job.run import run
from job.telling.output import Output
from serving.bundle import FILES, open_bundle
from serving.errors import ExitCode, PlatformError, SettingsError

REPOSITORY = Path(__file__).parents[2]
FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def publish_text(output_dir: Path, name: str, text: str, *, overwrite: bool = False) -> Path:
    """Publishes a folder with one file; what is in it is no concern of publishing."""
    with staging(output_dir) as folder:
        (folder / "file").write_text(text)
        return publish(folder, output_dir, name, overwrite=overwrite)


def text_of(bundle: Path) -> str:
    return (bundle / "file").read_text()


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def linked(output_dir: Path) -> str:
    return os.readlink(output_dir / LATEST)  # noqa: PTH115 - as it is written


@pytest.fixture(params=["exchange", "renames"])
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to replace a bundle: file systems differ in whether they can exchange two names."""
    if request.param == "renames":
        monkeypatch.setattr(publishing, "_exchange", lambda *_: False)
    return str(request.param)


def test_a_bundle_gets_its_name_and_latest_points_at_it(tmp_path: Path) -> None:
    """If it failed, nobody would find the new model where the README says it is."""
    assert publish_text(tmp_path, "run", "one") == tmp_path / "run"
    assert text_of(tmp_path / "run") == text_of(tmp_path / LATEST) == "one"
    assert names(tmp_path) == [LATEST, "run"]


def test_latest_is_relative_so_that_the_folder_can_be_moved_and_mounted_elsewhere(tmp_path: Path) -> None:
    """If it failed, `latest` would point at nothing inside a container, or after a copy."""
    (tmp_path / "out").mkdir()
    publish_text(tmp_path / "out", "run", "one")
    assert linked(tmp_path / "out") == "run"
    (tmp_path / "out").rename(tmp_path / "moved")
    assert text_of(tmp_path / "moved" / LATEST) == "one"


def test_a_published_bundle_can_be_read_by_others(tmp_path: Path) -> None:
    """If it failed, the user that serves could not open what the user that trains has published."""
    assert publish_text(tmp_path, "run", "one").stat().st_mode & 0o777 == 0o755


def test_latest_moves_to_each_new_bundle_and_the_others_stay(tmp_path: Path) -> None:
    """If it failed, publishing one model would touch another."""
    for name in ("one", "two", "three"):
        publish_text(tmp_path, name, name)
        assert linked(tmp_path) == name
    assert [text_of(tmp_path / name) for name in ("one", "two", "three")] == ["one", "two", "three"]
    assert names(tmp_path) == [LATEST, "one", "three", "two"]


def test_a_bundle_is_replaced_where_that_is_asked_for(tmp_path: Path, way: str) -> None:
    """If it failed, BOW_OVERWRITE=true would leave the old model, or parts of it."""
    publish_text(tmp_path, "run", "old")
    publish_text(tmp_path, "run", "new", overwrite=True)
    assert text_of(tmp_path / "run") == text_of(tmp_path / LATEST) == "new"
    assert names(tmp_path) == [LATEST, "run"]


def test_two_folders_are_exchanged(tmp_path: Path) -> None:
    """If it failed, an overwritten bundle would be missing for a moment."""
    for name in ("one", "other"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").write_text(name)
    if not publishing._exchange(tmp_path / "one", tmp_path / "other"):
        pytest.skip("this file system does not exchange two names")
    assert [text_of(tmp_path / name) for name in ("one", "other")] == ["other", "one"]
    with pytest.raises(FileNotFoundError):
        publishing._exchange(tmp_path / "one", tmp_path / "nowhere")


def test_a_bundle_that_appeared_meanwhile_is_not_replaced_unasked(tmp_path: Path) -> None:
    """If it failed, two jobs of one name would destroy each other's models in silence."""
    publish_text(tmp_path, "run", "theirs")
    with pytest.raises(SettingsError, match="BOW_OVERWRITE=true") as caught:
        publish_text(tmp_path, "run", "ours")
    assert str(tmp_path / "run") in str(caught.value)
    assert text_of(tmp_path / LATEST) == "theirs"
    assert names(tmp_path) == [LATEST, "run"]


def test_latest_is_never_missing_while_it_moves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it failed, a server that starts at the wrong moment would find no model."""
    publish_text(tmp_path, "one", "one")
    seen = []
    replace = Path.replace

    def watched(path: Path, target: Path) -> Path:
        seen.append(text_of(tmp_path / LATEST))
        moved = replace(path, target)
        seen.append(text_of(tmp_path / LATEST))
        return moved

    monkeypatch.setattr(Path, "replace", watched)
    publish_text(tmp_path, "two", "two")
    assert seen == ["one", "two"]


def test_a_folder_called_latest_is_left_alone_and_the_bundle_is_whole(tmp_path: Path) -> None:
    """If it failed, a folder of the user's own would be lost, or a finished training with it."""
    (tmp_path / LATEST).mkdir()
    (tmp_path / LATEST / "notes").write_text("mine")
    with pytest.raises(PlatformError, match="cannot be made to point at run") as caught:
        publish_text(tmp_path, "run", "one")
    assert f"the bundle is whole and in {tmp_path / 'run'}" in str(caught.value)
    assert caught.value.exit_code == ExitCode.PLATFORM
    assert text_of(tmp_path / "run") == "one"
    assert (tmp_path / LATEST / "notes").read_text() == "mine"
    assert names(tmp_path) == [LATEST, "run"]


def test_a_file_called_latest_is_left_alone_and_the_bundle_is_whole(tmp_path: Path) -> None:
    """If it failed, a file of the user's own would be lost."""
    (tmp_path / LATEST).write_text("mine")
    with pytest.raises(PlatformError, match="cannot be made to point at run"):
        publish_text(tmp_path, "run", "one")
    assert text_of(tmp_path / "run") == "one"
    assert (tmp_path / LATEST).read_text() == "mine"


def test_a_link_to_nothing_called_latest_is_moved(tmp_path: Path) -> None:
    """If it failed, deleting the newest bundle by hand would make the next one fail."""
    publish_text(tmp_path, "one", "one")
    shutil.rmtree(tmp_path / "one")
    publish_text(tmp_path, "two", "two")
    assert text_of(tmp_path / LATEST) == "two"


@pytest.mark.parametrize("kind", ["a file", "a link"])
def test_a_name_that_is_no_folder_is_replaced_without_leftovers(tmp_path: Path, kind: str) -> None:
    """If it failed, every overwrite of a link would leave something that no run ever removes."""
    if kind == "a file":
        (tmp_path / "run").write_text("mine")
    else:
        publish_text(tmp_path, "real", "real")
        (tmp_path / "run").symlink_to("real")
    publish_text(tmp_path, "run", "new", overwrite=True)
    prepare_folder(tmp_path)
    assert text_of(tmp_path / "run") == "new"
    assert [name for name in names(tmp_path) if name.startswith(".")] == []


def test_a_bundle_that_was_to_make_way_for_one_that_never_came_is_put_back(tmp_path: Path) -> None:
    """If it failed, a job killed on a file system without exchange would take the old model with it."""
    publish_text(tmp_path, "run", "old")
    aside = tmp_path / ".staging-killed" / "replaced"
    aside.mkdir(parents=True)
    (tmp_path / "run").rename(aside / "run")
    prepare_folder(tmp_path)
    assert text_of(tmp_path / LATEST) == text_of(tmp_path / "run") == "old"
    assert names(tmp_path) == [LATEST, "run"]


def test_a_retry_leaves_latest_at_a_newer_bundle(tmp_path: Path) -> None:
    """If it failed, repeating an old job would take the newest model out of service."""
    for name in ("old", "new"):
        publish_text(tmp_path, name, name)
        (tmp_path / name / FILES.manifest).touch()
    point_latest_again(tmp_path, "old")
    assert linked(tmp_path) == "new"
    publish_text(tmp_path, "older", "older")
    point_latest_again(tmp_path, "new")
    assert linked(tmp_path) == "new"
    assert names(tmp_path) == [LATEST, "new", "old", "older"]


@pytest.mark.parametrize("where", ["file", "file/below", "/proc/nowhere"])
def test_a_folder_that_cannot_be_made_is_an_error_before_training(tmp_path: Path, where: str) -> None:
    """If it failed, hours of training would end without a place for the model."""
    (tmp_path / "file").write_text("mine")
    with pytest.raises(PlatformError, match="BOW_OUTPUT_DIR") as caught:
        prepare_folder(tmp_path / where)
    assert where in str(caught.value)
    assert caught.value.exit_code == ExitCode.PLATFORM == 74
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("code", [errno.EROFS, errno.EACCES, errno.ENOSPC, errno.EDQUOT])
def test_a_folder_that_takes_no_file_is_an_error_before_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """If it failed, hours of training would end at a full disk or a read-only folder."""

    def refuse(**_: object) -> None:
        raise OSError(code, os.strerror(code), str(tmp_path))

    # For root nothing is read-only, and a full disk is nothing that a test can make.
    monkeypatch.setattr(publishing.tempfile, "TemporaryFile", refuse)
    with pytest.raises(PlatformError, match=os.strerror(code)) as caught:
        prepare_folder(tmp_path)
    assert str(tmp_path) in str(caught.value)


def test_a_new_folder_is_made_with_those_above_it_and_left_empty(tmp_path: Path) -> None:
    """If it failed, the first run on a fresh volume would fail, or a test file would lie about."""
    prepare_folder(tmp_path / "a" / "b")
    assert names(tmp_path / "a" / "b") == []


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), ValueError("bug"), FULL])
def test_a_staging_folder_goes_whatever_ends_the_job(tmp_path: Path, error: BaseException) -> None:
    """If it failed, every failed run would leave a model's worth of files."""
    expected: type[BaseException] = PlatformError if error is FULL else type(error)

    def end_while_staging() -> None:
        with staging(tmp_path) as folder:
            (folder / "file").write_text("half")
            (folder / "below").mkdir()
            raise error

    with pytest.raises(expected):
        end_while_staging()
    assert names(tmp_path) == []


@pytest.mark.parametrize("step", ["fsync", "rename", "symlink", "replace"])
@pytest.mark.parametrize("overwrite", [False, True])
def test_storage_that_fails_at_any_step_of_publishing_leaves_a_whole_bundle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str, overwrite: bool
) -> None:
    """If it failed, a full disk would take the old model with it."""
    publish_text(tmp_path, "run", "old")
    name = "run" if overwrite else "other"

    def fail(*_: object, **__: object) -> None:
        raise FULL

    if step == "rename" and overwrite:
        monkeypatch.setattr(publishing, "_exchange", fail)
    else:
        monkeypatch.setattr(os, step, fail)
    with pytest.raises(PlatformError, match="No space left on device") as caught:
        publish_text(tmp_path, name, "new", overwrite=overwrite)
    monkeypatch.undo()
    assert caught.value.exit_code == ExitCode.PLATFORM
    assert str(tmp_path) in str(caught.value)
    named = step in ("symlink", "replace")  # the bundle had its name when `latest` failed
    assert text_of(tmp_path / "run") == ("new" if named and overwrite else "old")
    assert (tmp_path / "other").exists() == (named and not overwrite)
    assert linked(tmp_path) == "run"
    assert [each for each in names(tmp_path) if each.startswith(".")] == []


def test_a_system_without_exchange_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it failed, BOW_OVERWRITE=true would not work on NFS, on older kernels, or on a Mac."""

    class NoLibrary:
        def __init__(self, *_: object, **__: object) -> None: ...

    class RefusingLibrary(NoLibrary):
        def renameat2(self, *_: object) -> int:
            publishing.ctypes.set_errno(errno.EINVAL)
            return -1

    for library in (NoLibrary, RefusingLibrary):
        monkeypatch.setattr(publishing.ctypes, "CDLL", library)
        publish_text(tmp_path, "run", "old", overwrite=True)
        publish_text(tmp_path, "run", library.__name__, overwrite=True)
        assert text_of(tmp_path / LATEST) == library.__name__
        assert names(tmp_path) == [LATEST, "run"]


HOLD = """
import sys
from pathlib import Path
from export.publish import staging

with staging(Path(sys.argv[1])) as folder:
    (folder / "file").write_text("half")
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def other_job(tmp_path: Path) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """Another process that stages a bundle in the same output folder until its standard input ends."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        cwd=REPOSITORY,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        yield process, Path(process.stdout.readline().strip())
        process.kill()


def test_the_staging_folder_of_a_living_job_stays_and_that_of_a_killed_one_goes(
    tmp_path: Path, other_job: tuple[subprocess.Popen[str], Path]
) -> None:
    """If it failed, two jobs would take each other's files away, or killed ones fill the disk."""
    process, folder = other_job
    prepare_folder(tmp_path)
    publish_text(tmp_path, "run", "one")
    assert text_of(folder) == "half"
    process.kill()
    process.wait(timeout=30)
    assert text_of(folder) == "half"
    prepare_folder(tmp_path)
    assert names(tmp_path) == [LATEST, "run"]


def test_a_living_job_ends_cleanly_beside_another(
    tmp_path: Path, other_job: tuple[subprocess.Popen[str], Path]
) -> None:
    """If it failed, a job would fail because another one began."""
    process, folder = other_job
    prepare_folder(tmp_path)
    process.communicate("", timeout=30)
    assert process.returncode == 0
    assert not folder.exists()


def test_where_there_are_no_locks_nothing_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it failed, a job on such a file system would remove what another one is writing."""

    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)
    with staging(tmp_path) as folder:
        (folder / "file").write_text("theirs")
        prepare_folder(tmp_path)
        assert text_of(folder) == "theirs"
    publish_text(tmp_path, "run", "one")
    assert names(tmp_path) == [LATEST, "run"]


def test_nothing_else_in_the_output_folder_is_touched(tmp_path: Path) -> None:
    """If it failed, a folder that the user shares with the job would lose files."""
    for name in ("run.rejected.jsonl", ".hidden", "staging", ".stagingX"):
        (tmp_path / name).write_text("mine")
    (tmp_path / "folder").mkdir()
    before = names(tmp_path)
    prepare_folder(tmp_path)
    publish_text(tmp_path, "run", "one")
    assert names(tmp_path) == sorted([*before, LATEST, "run"])


def test_a_storage_that_takes_no_more_ends_the_job_with_74_and_leaves_nothing(tmp_path: Path) -> None:
    """If it failed, a full disk would look like a bug, or leave half a bundle to fill it."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("BOW_")}
    environ |= {"BOW_TRAIN_DATA": "tutorial", "BOW_OUTPUT_DIR": str(tmp_path), "BOW_DEVICE": "cpu"}
    done = subprocess.run(
        [sys.executable, "-m", "job"],
        cwd=REPOSITORY,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
        # No file may grow beyond 4 KiB: the nearest thing to a full disk that needs no mount.
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
    )
    assert done.returncode == ExitCode.PLATFORM, done.stderr
    assert "BOW_OUTPUT_DIR" in done.stderr
    assert "Traceback" not in done.stderr
    assert names(tmp_path) == []


def test_a_retry_after_a_kill_just_before_latest_moved_moves_it(tmp_path: Path) -> None:
    """If it failed, a scheduler's retry would end well while `latest` still lacks the new model."""
    environ = {"BOW_TRAIN_DATA": "tutorial", "BOW_OUTPUT_DIR": str(tmp_path), "BOW_DEVICE": "cpu"}
    bundle = run(load_settings(environ), Output(for_people=False))
    (tmp_path / LATEST).unlink()  # as a kill between the bundle's name and `latest` leaves it
    assert run(load_settings(environ), Output(for_people=False)) == bundle
    assert linked(tmp_path) == bundle.name


CASES = ("fresh", "exchange", "renames")


Records = list[dict[str, Any]]


def kills(folder: Path, *options: str) -> dict[str, Records]:
    """What the job left behind when it was killed at each of its steps, by case; whole runs come last."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("BOW_")}
    done = subprocess.run(
        [sys.executable, str(Path(__file__).with_name("killed_job.py")), str(folder), *options],
        cwd=REPOSITORY,
        env=environ | {"PYTHONPATH": str(REPOSITORY)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    records: Records = [json.loads(line) for line in done.stdout.splitlines()]
    return {case: [record for record in records if record["case"] == case] for case in CASES}


@pytest.fixture(scope="module")
def after_kills(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Records]:
    return kills(tmp_path_factory.mktemp("kills"), *CASES)


def assert_every_kill_is_harmless(case: str, records: Records) -> None:
    assert [record["code"] for record in records] == [-signal.SIGKILL] * (len(records) - 1) + [0]
    steps = [str(record["before"]) for record in records]
    assert {"os.rename .manifest.json", "fsync", "write half of model.onnx"} <= set(steps)
    assert ("_exchange" in steps) == (case == "exchange")
    before = "absent" if case == "fresh" else "old"
    in_between = []
    for record in records:
        # Whole bundles alone have a name, and what else there is was either finished or is refused.
        assert record["run"] in (before, "new", "absent"), record
        assert record["latest"] in (before, "new", "absent"), record
        assert set(record["others"].values()) <= {"old", "new", "rejected"}, record
        if record["run"] == "absent" and case != "fresh":
            in_between.append(record)
        else:
            # `latest` is behind by the step between the two at most.
            assert record["latest"] == record["run"] or (case == "fresh" and record["latest"] == "absent")
        assert (record["again"], record["latest again"]) == (0, "new"), record
    # Where two names cannot be exchanged there is one moment without the name: both bundles are whole then.
    assert len(in_between) == (1 if case == "renames" else 0)
    for record in in_between:
        # The third is the staging folder that holds the two.
        assert sorted(record["others"].values()) == ["new", "old", "rejected"]
    runs = [record["run"] for record in records if record["run"] != "absent"]
    assert runs == sorted(runs, key=["old", "new"].index)


@pytest.mark.system
@pytest.mark.parametrize("case", CASES)
def test_a_kill_at_any_step_leaves_no_broken_bundle_with_a_name(
    after_kills: dict[str, Records], case: str
) -> None:
    """If it failed, a node that dies at the wrong moment would put a broken model into service."""
    assert_every_kill_is_harmless(case, after_kills[case])


@pytest.mark.system
@pytest.mark.parametrize("case", CASES)
def test_the_next_run_removes_what_any_kill_left(after_kills: dict[str, Records], case: str) -> None:
    """If it failed, killed jobs would fill the disk, or a stale copy of a model would lie about for ever."""
    assert [(each["before"], each["left"]) for each in after_kills[case] if each["left"]] == []


@pytest.mark.system
@pytest.mark.parametrize("case", CASES)
def test_a_kill_at_any_step_of_the_whole_job_is_harmless(tmp_path: Path, case: str) -> None:
    """If it failed, the stages before publishing would break what publishing alone keeps."""
    assert_every_kill_is_harmless(case, kills(tmp_path, case, "--whole")[case])


def test_the_bundle_of_a_killed_jobs_retry_is_the_same(tmp_path: Path) -> None:
    """If it failed, a retry would publish another model than the run that was killed."""
    environ = {"BOW_TRAIN_DATA": "tutorial", "BOW_DEVICE": "cpu", "BOW_RUN_NAME": "run"}
    ids = []
    for name in ("one", "two"):
        settings = load_settings(environ | {"BOW_OUTPUT_DIR": str(tmp_path / name)})
        (tmp_path / name / ".staging-killed").mkdir(parents=True)
        (tmp_path / name / ".staging-killed" / FILES.text_model).write_bytes(b"half")
        ids.append(open_bundle(run(settings, Output(for_people=False))).bundle_id)
        assert names(tmp_path / name) == [LATEST, "run"]
    assert ids[0] == ids[1]
