"""Runs whose folders are object storage: they go on from checkpoints there, and are judged there."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import structlog
from fsspec.implementations.memory import MemoryFileSystem

from job.environment import load_settings
from job.output import Output
from job.run import run
from job.stopping import Interrupted, Stop
from serving.errors import QualityError, SettingsError
from serving.storage import Store
from tests.job.test_checkpoint import ROWS, StopAfter
from tests.job.test_run import write_tsv
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


def test_retention_in_object_storage_is_refused(train: Train) -> None:
    """If it failed, who asks for it would find out when the bucket is full."""
    with pytest.raises(SettingsError, match=r"BOW_KEEP_BUNDLES: it is for folders, .* unset it"):
        train(memory_url(), KEEP_BUNDLES=3)
