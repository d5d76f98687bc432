"""Publishing to object storage: whatever cuts it off, and whoever else publishes, every bundle is whole."""

import contextlib
import shutil
from pathlib import Path

import pytest

from export.destination import destination
from export.remote import push, settle
from serving.bundle import FILES
from serving.errors import ArtifactError, PlatformError, SettingsError
from serving.storage.published import LATEST, current, read_latest
from serving.storage.store import Store
from tests.objects import Requests, at_each_request, broken, id_at, memory_url, prefixes, put_folder

pytestmark = pytest.mark.usefixtures("storage_in_memory")


@pytest.fixture
def store() -> Store:
    return Store(memory_url())


def test_a_bundle_gets_its_name_and_latest_names_it(
    store: Store, bundles: list[Path], ids: list[str]
) -> None:
    """If it failed, nobody would find the new model where the README says it is."""
    commit = push(store, bundles[0], "run", overwrite=False)
    assert id_at(f"{store.url}/run") == id_at(f"{store.url}/{LATEST}") == ids[0]
    assert id_at(store.url_of(commit.pointer.bundle)) == ids[0]
    assert sorted(each.key for each in store.under() if each.key.count("/") < 2) == [LATEST, "run/v1.json"]


def test_overwriting_writes_beside_the_old_bundle_and_switches(
    store: Store, bundles: list[Path], ids: list[str]
) -> None:
    """If it failed, those who fetch the old bundle at that moment would get half of each."""
    old = push(store, bundles[0], "run", overwrite=False).pointer.bundle
    new = push(store, bundles[1], "run", overwrite=True).pointer.bundle
    assert id_at(store.url_of(old)) == ids[0]
    assert id_at(f"{store.url}/run") == id_at(f"{store.url}/{LATEST}") == ids[1]
    newest = push(store, bundles[2], "run", overwrite=True).pointer.bundle
    assert prefixes(store) == {new, newest}
    assert id_at(f"{store.url}/run") == id_at(f"{store.url}/{LATEST}") == ids[2]


def test_a_name_that_is_taken_is_refused_and_says_by_whom(
    store: Store, bundles: list[Path], ids: list[str]
) -> None:
    """If it failed, one of two jobs would lose its model without a word."""
    held = push(store, bundles[0], "run", overwrite=False)
    with pytest.raises(SettingsError) as refusal:
        push(store, bundles[1], "run", overwrite=False)
    assert str(held.by) in str(refusal.value)
    assert "BOW_RUN_NAME" in str(refusal.value)
    assert prefixes(store) == {held.pointer.bundle}
    # The same bundle is no conflict: a scheduler may have started its job twice.
    assert push(store, bundles[0], "run", overwrite=False) == held
    assert id_at(f"{store.url}/{LATEST}") == ids[0]


@pytest.mark.parametrize("when", range(1, 26))
def test_of_two_writers_at_once_one_wins_and_neither_breaks_the_other(
    store: Store, bundles: list[Path], ids: list[str], monkeypatch: pytest.MonkeyPatch, when: int
) -> None:
    """If it failed, jobs with one name would publish a mixture, or remove each other's files."""
    requests = Requests(monkeypatch)

    won: list[str] = []

    def publish(which: int) -> None:
        with contextlib.suppress(SettingsError):
            push(store, bundles[which], "run", overwrite=False)
            won.append(ids[which])

    requests.before = lambda number, _name: publish(1) if number == when else None
    publish(0)
    assert len(won) == 1 or when > len(requests.names)
    assert [id_at(f"{store.url}/run")] == [id_at(f"{store.url}/{LATEST}")] == won
    assert len(prefixes(store)) == 1


@pytest.mark.parametrize("when", range(1, 26))
def test_of_two_that_overwrite_at_once_the_result_is_whole(
    store: Store, bundles: list[Path], ids: list[str], monkeypatch: pytest.MonkeyPatch, when: int
) -> None:
    """If it failed, `latest` would name an upload that the other job took for a dead one."""
    push(store, bundles[2], "run", overwrite=False)
    requests = Requests(monkeypatch)

    won: list[str] = []

    def publish(which: int) -> None:
        with contextlib.suppress(SettingsError):
            push(store, bundles[which], "run", overwrite=True)
            won.append(ids[which])

    requests.before = lambda number, _name: publish(1) if number == when else None
    publish(0)
    assert won
    assert id_at(f"{store.url}/run") in won
    assert id_at(f"{store.url}/{LATEST}") == id_at(f"{store.url}/run")
    assert read_latest(store) == current(store, "run").pointer


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("lost", ["the request", "the answer"])
@pytest.mark.parametrize("cut", range(1, 24))
def test_a_connection_that_is_cut_leaves_latest_on_a_whole_bundle_and_the_next_run_succeeds(
    bundles: list[Path],
    ids: list[str],
    monkeypatch: pytest.MonkeyPatch,
    cut: int,
    lost: str,
    overwrite: bool,
) -> None:
    """If it failed, a network that breaks at the wrong moment would put half a model into service."""
    store = Store(memory_url())
    if overwrite:
        push(store, bundles[0], "run", overwrite=False)
    requests = Requests(monkeypatch)

    def break_off(number: int, _name: str) -> None:
        if number >= cut:
            raise ConnectionResetError("cut")

    setattr(requests, "before" if lost == "the request" else "after", break_off)
    if cut == 1 and lost == "the request":
        with pytest.raises(PlatformError, match="run again"):
            push(store, bundles[1], "run", overwrite=overwrite)
    else:
        try:
            push(store, bundles[1], "run", overwrite=overwrite)
        except PlatformError as error:
            assert "ConnectionResetError: cut in 6 attempts" in str(error)  # noqa: PT017
    requests.before = requests.after = lambda _number, _name: None
    before = ids[0] if overwrite else None
    assert id_at(f"{store.url}/{LATEST}") in (before, ids[1])
    assert id_at(f"{store.url}/run") in (before, ids[1])
    if id_at(f"{store.url}/run") == ids[1]:
        settle(store, "run")  # as the job does, which finds its bundle published
    else:
        push(store, bundles[1], "run", overwrite=overwrite)
    assert id_at(f"{store.url}/{LATEST}") == id_at(f"{store.url}/run") == ids[1]
    assert len(prefixes(store)) == (2 if overwrite else 1)


def test_there_are_as_many_requests_as_the_tests_cut(
    store: Store, bundles: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it failed, a step of publishing would never be the one that is cut."""
    requests = Requests(monkeypatch)
    push(store, bundles[0], "run", overwrite=False)
    assert 18 <= len(requests.names) <= 23


def test_an_answer_that_was_lost_is_told_from_another_writer(
    store: Store, bundles: list[Path], ids: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it failed, a job would be told that another has its name, when that was the job itself."""
    requests = Requests(monkeypatch)
    broken: list[int] = []

    def lose_one_answer(number: int, _name: str) -> None:
        if current_commit_was_made(store) and not broken:
            broken.append(number)
            raise ConnectionResetError("lost")

    requests.after = lose_one_answer
    commit = push(store, bundles[0], "run", overwrite=False)
    assert broken
    assert current(store, "run") == commit
    assert id_at(f"{store.url}/{LATEST}") == ids[0]


def current_commit_was_made(store: Store) -> bool:
    return bool(store._fs.store.get(f"{store._path}/run/v1.json"))


def test_a_retry_moves_latest_only_where_it_was_left_behind(
    store: Store, bundles: list[Path], ids: list[str]
) -> None:
    """If it failed, a retried job would take a newer bundle out of service, or leave its own out of it."""
    push(store, bundles[0], "old", overwrite=False)
    behind = store.read(LATEST)
    assert behind is not None
    push(store, bundles[1], "new", overwrite=False)
    settle(store, "old")
    assert id_at(f"{store.url}/{LATEST}") == ids[1]
    store.write(LATEST, behind)  # as a job leaves it that is killed between its commit and `latest`
    settle(store, "new")
    assert id_at(f"{store.url}/{LATEST}") == ids[1]
    store.delete([LATEST])
    settle(store, "old")
    assert id_at(f"{store.url}/{LATEST}") == ids[0]


def test_a_retry_moves_latest_on_from_an_older_version_of_its_name(
    store: Store, bundles: list[Path], ids: list[str]
) -> None:
    """If it failed, what was overwritten would stay in service, whoever put it there late."""
    push(store, bundles[0], "run", overwrite=False)
    late = store.read(LATEST)
    assert late is not None
    push(store, bundles[1], "other", overwrite=False)
    push(store, bundles[2], "run", overwrite=True)
    store.write(LATEST, late)  # by the first job, which was held up, and is killed before it looks again
    settle(store, "run")
    assert id_at(f"{store.url}/{LATEST}") == ids[2]


def test_a_retry_leaves_latest_to_what_is_published_meanwhile(
    store: Store, bundles: list[Path], ids: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it failed, the retry of an old run would take a bundle out of service that was just published.

    At each request of the retry another job publishes.
    """
    push(store, bundles[0], "old", overwrite=False)
    behind = store.read(LATEST)
    assert behind is not None
    push(store, bundles[1], "retried", overwrite=False)
    store.write(LATEST, behind)

    def publish() -> None:
        push(store, bundles[2], "meanwhile", overwrite=False)

    for when in at_each_request(monkeypatch, lambda: settle(store, "retried"), publish):
        assert id_at(f"{store.url}/{LATEST}") == ids[2], when
    assert id_at(f"{store.url}/{LATEST}") == ids[1]


def test_what_a_cut_upload_left_goes_with_the_next_run(
    store: Store, bundles: list[Path], tmp_path: Path
) -> None:
    """If it failed, jobs that were cut would fill the bucket."""
    put_folder(store, bundles[1], "run/v1-cut")
    put_folder(store, bundles[1], "run/v2-underway")
    put_folder(store, bundles[1], "run.1/v1-another")
    commit = push(store, bundles[0], "run", overwrite=False)
    assert prefixes(store) == {commit.pointer.bundle, "run/v2-underway", "run.1/v1-another"}


def test_what_is_overwritten_is_at_no_moment_half_a_bundle(
    store: Store, bundles: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it failed, a reader that is late, or a job that is cut, would take what is left for a bundle."""
    for bundle in bundles[:2]:
        push(store, bundle, "run", overwrite=True)
    halves: list[str] = []

    def replace() -> None:
        push(store, bundles[2], "run", overwrite=True)

    for _ in at_each_request(monkeypatch, replace, lambda: halves.extend(broken(store))):
        assert halves == []
    assert len(prefixes(store)) == 2


def test_objects_that_vanish_while_they_are_uploaded_publish_nothing(
    store: Store, bundles: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it failed, a bucket's clean-up rule, or a job that takes no care, would break a bundle."""
    requests = Requests(monkeypatch)

    def remove(_number: int, name: str) -> None:
        if len(requests.names) == 10 and name == "put_file":
            store.delete(each.key for each in store.under() if each.key.endswith(FILES.bow_model))

    requests.after = remove
    with pytest.raises(PlatformError, match="as they were uploaded"):
        push(store, bundles[0], "run", overwrite=False)
    assert id_at(f"{store.url}/run") is None
    assert store.read(LATEST) is None


def test_a_reader_gets_the_bundle_that_replaces_what_is_removed_under_it(
    store: Store, bundles: list[Path], ids: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it failed, a server that starts while bundles are overwritten would not start."""
    push(store, bundles[0], "run", overwrite=False)
    requests = Requests(monkeypatch)
    replaced: list[bool] = []

    def replace_twice(_number: int, name: str) -> None:
        if name == "get_file" and requests.names.count("get_file") == 4 and not replaced:
            replaced.append(True)
            push(store, bundles[1], "run", overwrite=True)
            push(store, bundles[2], "run", overwrite=True)

    requests.after = replace_twice
    assert id_at(f"{store.url}/{LATEST}") == ids[2]
    assert replaced


def test_the_folder_of_the_run_is_left_as_it_is(store: Store, bundles: list[Path], tmp_path: Path) -> None:
    """If it failed, publishing would change what it copies."""
    copy = shutil.copytree(bundles[0], tmp_path / "copy")
    push(store, copy, "run", overwrite=False)
    assert {path.name: path.read_bytes() for path in copy.iterdir()} == {
        path.name: path.read_bytes() for path in bundles[0].iterdir()
    }


def test_a_latest_that_is_not_the_jobs_is_found_before_training(store: Store) -> None:
    """If it failed, each retry of a job would train, upload and leave a bundle that cannot be published."""
    store.write(LATEST, b"mine")
    with pytest.raises(ArtifactError, match="expected an object that names a bundle"), destination(store.url):
        pass
    assert [each.key for each in store.under()] == [LATEST]
