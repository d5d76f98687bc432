"""Runs whose folders are object storage: they go on from checkpoints there, and are judged there."""

import errno
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog
from fsspec.implementations.memory import MemoryFileSystem

from job.environment import load_settings
from job.run import run
from job.stopping import Interrupted, Stop
from job.telling.output import Output
from job.training import checkpoints
from serving.errors import PlatformError, QualityError
from serving.storage.store import Store
from tests.job.test_run import write_tsv
from tests.job.training.test_checkpoint import ROWS, StopAfter
from tests.objects import id_at, memory_url


@pytest.fixture(autouse=True)
def nothing_stays_in_memory() -> Iterator[None]:
    yield
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]


Train = Callable[..., str]


@pytest.fixture
def train(tmp_path: Path) -> Train:
    write_tsv(tmp_path / "train.tsv", ROWS)

    def call(url: str, stop: Stop | None = None, **settings: object) -> str:
        environ = {"TRAIN_DATA": tmp_path / "train.tsv", "OUTPUT_DIR": url, "DEVICE": "cpu"}
        environ |= {"RUN_NAME": "night", "EPOCHS": 4, "BATCH_SIZE": 16, **settings}
        named = {f"BOW_{name}": str(value) for name, value in environ.items()}
        return str(run(load_settings(named), Output(for_people=False), stop))

    return call


@pytest.mark.parametrize("where", ["beside", "apart"])
def test_a_run_goes_on_from_object_storage_on_another_machine(
    train: Train, tmp_path: Path, where: str
) -> None:
    """If it failed, a pod that is moved to another node would begin anew, or end with another model."""
    undisturbed, output, kept = memory_url(), memory_url(), memory_url()
    train(undisturbed)
    settings = {} if where == "beside" else {"CHECKPOINT_DIR": kept}
    key = ".night.checkpoint" if where == "beside" else "night.checkpoint"
    store = Store(output if where == "beside" else kept)
    with pytest.raises(Interrupted, match=f"steps is in {store.url_of(key)}; run it again"):
        train(output, StopAfter(9), **settings)
    assert [each.key for each in store.under()] == [key]
    with structlog.testing.capture_logs() as logs:
        train(output, **settings)
    (resumed,) = [each for each in logs if each["event"] == "resumed"]
    assert resumed["checkpoint"] == store.url_of(key)
    assert id_at(f"{output}/latest") == id_at(f"{undisturbed}/latest") is not None
    assert store.find(key) is None


def test_a_store_that_cannot_hold_checkpoints_is_refused_before_anything_is_read(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it failed, a run that has published its bundle would end with 74, and each retry again."""

    def refuse(_: MemoryFileSystem, path: str) -> None:
        raise PermissionError(errno.EACCES, "Access Denied")

    monkeypatch.setattr(MemoryFileSystem, "rm_file", refuse)
    monkeypatch.setattr("job.run.read_data", None)
    kept = memory_url()
    with pytest.raises(PlatformError, match=rf"{kept}/.*deleting there") as problem:
        train(str(tmp_path / "out"), CHECKPOINT_DIR=kept)
    assert "BOW_CHECKPOINT_DIR" in problem.value.__notes__[0]


def test_a_run_that_is_ended_in_the_export_takes_no_step_on_another_machine(
    train: Train, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it failed, a pod that is moved after hours of training would train again."""
    undisturbed, url = memory_url(), memory_url()
    train(undisturbed)
    monkeypatch.setattr(checkpoints, "WORTH_SECONDS", 0.0)
    monkeypatch.setattr(checkpoints, "WORTH_RATIO", 0.0)
    stop = Stop()
    with monkeypatch.context() as patch:
        patch.setattr("job.run.write_model", lambda *_: stop._handle(signal.SIGTERM, None))
        with pytest.raises(Interrupted, match=rf"steps is in {url}/\.night\.checkpoint; run it again"):
            train(url, stop)
    monkeypatch.setattr("job.training.trainer.train_step", None)
    train(url)
    assert id_at(f"{url}/latest") == id_at(f"{undisturbed}/latest") is not None
    assert Store(url).find(".night.checkpoint") is None


def test_a_copy_that_the_time_left_is_too_short_for_is_not_begun(train: Train, tmp_path: Path) -> None:
    """If it failed, the job would be killed in the middle of it, and its exit code lost."""
    kept = memory_url()
    settings = {"CHECKPOINT_DIR": kept, "GRACE_SECONDS": 1e-9, "CHECKPOINT_EVERY": 0}
    local = tmp_path / "out"
    with pytest.raises(Interrupted, match=str(local / r"\.night\.checkpoint")):
        train(str(local), StopAfter(9), **settings)
    assert Store(kept).under() == []
    with structlog.testing.capture_logs() as logs:
        train(str(local), **settings)
    assert "resumed" in [each["event"] for each in logs]


def test_a_checkpoint_that_was_half_fetched_is_fetched_again(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it failed, a machine that dies while it fetches would leave a run that no retry gets out of."""
    local, settings = tmp_path / "out", {"CHECKPOINT_DIR": memory_url()}
    with pytest.raises(Interrupted):
        train(str(local), StopAfter(9), **settings)
    (local / ".night.checkpoint").unlink()  # another machine has none

    def half(_store: Store, _key: str, file: Path, *, size: int | None = None) -> None:
        file.write_bytes(bytes((size or 2) // 2))
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(Store, "get", half)
        with pytest.raises(KeyboardInterrupt):
            train(str(local), **settings)
    with structlog.testing.capture_logs() as logs:
        train(str(local), **settings)
    assert "resumed" in [each["event"] for each in logs]
    assert sorted(path.name for path in local.iterdir()) == ["latest", "night"]


def test_the_gate_compares_with_what_latest_names_there(train: Train, tmp_path: Path) -> None:
    """If it failed, a night of broken data would go into service from a bucket."""
    url = memory_url()
    write_tsv(tmp_path / "test.tsv", ROWS[::3])
    settings = {"TEST_DATA": tmp_path / "test.tsv", "MAX_DROP": 0.05}
    train(url, RUN_NAME="first", **settings)
    good = id_at(f"{url}/latest")
    labels = [label for _, label in ROWS]
    random.Random(1).shuffle(labels)
    write_tsv(tmp_path / "train.tsv", [(text, label) for (text, _), label in zip(ROWS, labels, strict=True)])
    for _ in range(2):  # the second time it is there already
        with pytest.raises(QualityError, match=r"first, which is in service, has 1\.0000"):
            train(url, RUN_NAME="second", **settings)
        assert id_at(f"{url}/latest") == good
    assert id_at(f"{url}/second") is None
    assert id_at(f"{url}/second.failed") not in (good, None)


def test_test_data_in_object_storage_is_scored_by_the_model_in_service(train: Train, tmp_path: Path) -> None:
    """If it failed, the second night of new test data would end in an error, and every night after it."""
    url, data = memory_url(), Store(memory_url())
    for night, rows in (("first", ROWS[::3]), ("second", ROWS[::4])):
        data.put(write_tsv(tmp_path / "test.tsv", rows), "test.tsv")
        with structlog.testing.capture_logs() as logs:
            train(url, RUN_NAME=night, TEST_DATA=data.url_of("test.tsv"), MAX_DROP=0.05)
    (judged,) = [each for each in logs if each["event"] == "quality_gate"]
    assert judged["scored_anew"]
    assert judged["passed"]
    assert id_at(f"{url}/latest") == id_at(f"{url}/second")


def test_of_two_runs_that_fail_at_once_none_moves_latest(train: Train, tmp_path: Path) -> None:
    """If it failed, a lost node and its replacement would put a failed model into service together."""
    url = memory_url()
    for _ in range(2):
        with pytest.raises(QualityError, match="BOW_MIN_ACCURACY"):
            train(url, TEST_DATA=write_tsv(tmp_path / "test.tsv", [("a", "account")]), MIN_ACCURACY=1)
    assert id_at(f"{url}/latest") is None


def names_in(url: str) -> set[str]:
    """The names under which there is anything."""
    return {each.key.partition("/")[0] for each in Store(url).under() if "/" in each.key}


def test_nights_leave_as_many_bundles_as_are_to_be_kept(train: Train, tmp_path: Path) -> None:
    """If it failed, the bucket would fill, or the model in service would go."""
    url, test = memory_url(), write_tsv(tmp_path / "test.tsv", ROWS[::3])
    bad = write_tsv(tmp_path / "bad.tsv", [("where is my parcel", "no such label")])
    settings = {"KEEP_BUNDLES": 2, "TEST_DATA": test, "MIN_ACCURACY": 0.1}
    for night in "abc":
        train(url, RUN_NAME=night, **settings)
    assert names_in(url) == {"b", "c"}
    for night in "de":
        with pytest.raises(QualityError, match="latest still names c"):
            train(url, RUN_NAME=night, **settings | {"TEST_DATA": bad})
    assert names_in(url) == {"c", "e.failed"}
    assert id_at(f"{url}/latest") == id_at(f"{url}/c") is not None


@pytest.mark.parametrize("where", ["a folder", "object storage"])
def test_a_job_that_may_not_remove_publishes_and_says_so(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    """If it failed, a missing permission would fail every night, or the bucket fill without a word."""
    url = memory_url() if where == "object storage" else str(tmp_path / "out")
    for night in "ab":
        train(url, RUN_NAME=night)
    remove, rename = MemoryFileSystem.rm_file, Path.rename

    def refuse(file_system: MemoryFileSystem, path: str) -> None:
        if "/v1" in path:
            raise PermissionError(errno.EACCES, "Access Denied")
        remove(file_system, path)

    def refuse_rename(path: Path, target: Path) -> Path:
        if path.name in "ab":
            raise PermissionError(errno.EACCES, "Access Denied", str(path))
        return rename(path, target)

    with monkeypatch.context() as patch, structlog.testing.capture_logs() as logs:
        patch.setattr(MemoryFileSystem, "rm_file", refuse)
        patch.setattr(Path, "rename", refuse_rename)
        train(url, RUN_NAME="c", KEEP_BUNDLES=1)
    (said,) = [each for each in logs if each["event"] == "old_bundles_not_removed"]
    assert said["log_level"] == "warning"
    assert ("deleting there" if where == "object storage" else "the permissions of") in said["reason"]
    assert logs[-1]["event"] == "published"
    # A retry, which has nothing else to do, does it once it may.
    train(url, RUN_NAME="c", KEEP_BUNDLES=1)
    if where == "object storage":
        assert names_in(url) == {"c"}
        assert id_at(f"{url}/latest") is not None
    else:
        assert sorted(path.name for path in Path(url).iterdir()) == ["c", "latest"]


def test_a_run_whose_removal_was_cut_trains_again(train: Train) -> None:
    """If it failed, its name would be refused until another run tidies up, or the broken bundle be served."""
    url = memory_url()
    train(url)
    expected = id_at(f"{url}/latest")
    store = Store(url)
    store.delete(each.key for each in store.under("night") if each.key.endswith("manifest.json"))
    train(url)
    assert id_at(f"{url}/night") == id_at(f"{url}/latest") == expected


def test_a_bundle_in_service_that_is_removed_while_it_is_fetched_is_looked_for_again(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it failed, a job that compares would end for good because another one published meanwhile."""
    url, test = memory_url(), write_tsv(tmp_path / "test.tsv", ROWS[::3])
    train(url, RUN_NAME="first", TEST_DATA=test)
    get, done = Store.get, []

    def replaced(store: Store, key: str, file: Path, *, size: int | None = None) -> None:
        if key.startswith("first/") and not done:
            done.append(key)
            train(url, RUN_NAME="second", TEST_DATA=test, KEEP_BUNDLES=1)
        get(store, key, file, size=size)

    monkeypatch.setattr(Store, "get", replaced)
    with structlog.testing.capture_logs() as logs:
        train(url, RUN_NAME="third", TEST_DATA=test, MAX_DROP=0.05)
    assert done
    (judged,) = [each for each in logs if each["event"] == "quality_gate"]
    assert judged["in_service"] == "second"
