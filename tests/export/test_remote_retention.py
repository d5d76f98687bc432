"""Retention in object storage: whatever cuts it off, and whoever else publishes, every bundle is whole."""

import contextlib
from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from export import remote
from export.committed import committed_keys
from export.remote import push
from export.remote_retention import remove_old
from serving.bundle import FILES
from serving.errors import ArtifactError, PlatformError
from serving.storage.published import LATEST, current, encode, read_latest
from serving.storage.store import Store
from tests.objects import NAMES, Requests, at_each_request, broken, id_at, memory_url, prefixes, put_folder

pytestmark = pytest.mark.usefixtures("storage_in_memory")

NIGHTS = [f"night-{number}" for number in range(1, 6)]


@pytest.fixture(scope="module")
def five_nights(bundles: list[Path]) -> tuple[str, dict[str, Any]]:
    """Where they are in memory, and what is there."""
    url = memory_url()
    for night in NIGHTS:
        push(Store(url), bundles[0], night, overwrite=False)
    return url, dict(MemoryFileSystem.store)


@pytest.fixture
def store(five_nights: tuple[str, dict[str, Any]]) -> Store:
    """Five nights."""
    url, content = five_nights
    MemoryFileSystem.store.update(content)
    return Store(url)


def retain(store: Store, keep: int, run: str = NIGHTS[-1]) -> list[str]:
    return remove_old(store, keep, run, committed_keys(store))


def runs(store: Store) -> set[str]:
    """The names under which there is anything."""
    return {each.key.partition("/")[0] for each in store.under() if "/" in each.key}


def is_found(store: Store, run: str) -> bool:
    """Whether a reader finds a whole bundle under a name; another gets an error."""
    try:
        return id_at(store.url_of(run)) is not None
    except ArtifactError:
        return False


def test_the_newest_bundles_stay_and_nothing_of_the_others(store: Store) -> None:
    """If it failed, the bucket would fill, or the newest models would go and old ones stay."""
    assert retain(store, 3) == NIGHTS[:2]
    assert runs(store) == set(NIGHTS[2:])
    assert all(is_found(store, run) for run in [LATEST, *NIGHTS[2:]])
    assert retain(store, 3) == []


@pytest.mark.parametrize("name", [LATEST, "canary"])
def test_what_a_pointer_names_stays_however_old_it_is(store: Store, name: str) -> None:
    """If it failed, a month of nights that fail the gate would delete the model that is served."""
    first = current(store, NIGHTS[0])
    assert first is not None
    store.write(name, encode(first.pointer))
    retain(store, 1)
    assert runs(store) == {NIGHTS[0], NIGHTS[-1]}
    assert is_found(store, name)


def test_the_bundle_that_was_just_published_and_newer_ones_stay(store: Store) -> None:
    """If it failed, a retry of an old run would remove its own bundle, or that of a job that is ahead."""
    assert retain(store, 1, NIGHTS[2]) == NIGHTS[:2]
    assert runs(store) == set(NIGHTS[2:])


def test_the_versions_of_a_name_are_one_bundle_and_go_together(store: Store, bundles: list[Path]) -> None:
    """If it failed, what BOW_OVERWRITE has replaced would stay for ever, or push out other runs."""
    for bundle in bundles[1:]:
        push(store, bundle, "often", overwrite=True)
    push(store, bundles[0], "often", overwrite=True)
    push(store, bundles[0], "z-last", overwrite=False)
    assert retain(store, 2, "z-last") == NIGHTS
    assert runs(store) == {"often", "z-last"}
    assert is_found(store, "often")
    assert retain(store, 1, "z-last") == ["often"]
    assert runs(store) == {"z-last"}


def test_an_upload_under_way_is_never_touched(store: Store, bundles: list[Path]) -> None:
    """If it failed, one job's retention would take away what another one is about to publish."""
    uploads = {"another/v1-underway", f"{NIGHTS[0]}/v2-underway", f"{NIGHTS[1]}/v1-late"}
    for prefix in uploads:
        put_folder(store, bundles[1], prefix)
    retain(store, 1)
    assert prefixes(store) == {*uploads, read_latest(store).bundle}  # type: ignore[union-attr]
    assert {each.key for each in store.under() if each.key.count("/") == 1} == {f"{NIGHTS[-1]}/v1.json"}


def files_of(store: Store, run: str) -> str:
    commit = current(store, run)
    assert commit is not None
    return commit.pointer.bundle


@pytest.mark.parametrize(
    "change",
    [
        lambda store: store.write(f"{NIGHTS[0]}/notes.txt", b"mine"),
        lambda store: store.write(f"{files_of(store, NIGHTS[0])}/notes.txt", b"mine"),
        lambda store: store.write(f"{files_of(store, NIGHTS[0])}/more/{FILES.weights}", b"mine"),
        lambda store: store.delete([f"{files_of(store, NIGHTS[0])}/{FILES.weights}"]),
        lambda store: store.write(f"{NIGHTS[0]}/v1.json", b"{}"),
        lambda store: store.write(f"{NIGHTS[0]}/v1.json", store.read(f"{NIGHTS[3]}/v1.json")),
        lambda store: store.write(f"{NIGHTS[0]}/v0.json", b"mine"),
        lambda store: store.delete([f"{NIGHTS[0]}/v1.json"]),
    ],
    ids=["notes", "notes in it", "a folder in it", "a file lacks", "no commit", "another's", "old", "none"],
)
def test_what_is_not_a_bundle_and_nothing_else_is_never_touched(
    store: Store, change: Callable[[Store], object]
) -> None:
    """If it failed, objects of the user's own in the bucket would be lost."""
    change(store)
    before = {each.key: store.read(each.key) for each in store.under(NIGHTS[0])}
    assert retain(store, 2) == NIGHTS[1:3]
    assert {each.key: store.read(each.key) for each in store.under(NIGHTS[0])} == before
    assert all(is_found(store, run) for run in NIGHTS[3:])


def test_a_marked_bundle_is_removed_by_the_same_rule(store: Store) -> None:
    """If it failed, bundles that did not pass the gate would stay for ever."""
    store.write(f"{files_of(store, NIGHTS[0])}/{FILES.failed_gate}", b"{}")
    assert retain(store, 4) == NIGHTS[:1]
    assert runs(store) == set(NIGHTS[1:])


def overwrite(store: Store, bundles: list[Path]) -> None:
    """Makes the first night the third oldest, with two versions."""
    push(store, bundles[1], NIGHTS[0], overwrite=True)
    for night in ("night-6", "night-7"):
        push(store, bundles[0], night, overwrite=False)
    assert retain(store, 4, "night-7") == NIGHTS[1:4]


def begin_again(saved: dict[str, Any], requests: Requests) -> None:
    """Puts back what was in memory, and counts the requests from one."""
    MemoryFileSystem.store.clear()
    MemoryFileSystem.store.update(saved)
    requests.names.clear()


@pytest.mark.parametrize("lost", ["the request", "the answer"])
def test_a_removal_that_is_cut_leaves_whole_bundles_and_the_next_run_goes_on(
    store: Store, bundles: list[Path], monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    """If it failed, a network that breaks would leave half a model under a name, or files for ever."""
    overwrite(store, bundles)
    before, saved = committed_keys(store), dict(MemoryFileSystem.store)
    requests, gone = Requests(monkeypatch), set[int]()

    def break_off(number: int, _name: str) -> None:
        if number >= cut:
            raise ConnectionResetError("cut")

    for cut in count(1):
        begin_again(saved, requests)
        setattr(requests, "before" if lost == "the request" else "after", break_off)
        with contextlib.suppress(PlatformError):
            remove_old(store, 2, "night-7", before)
        requests.before = requests.after = lambda _number, _name: None
        assert broken(store) == []
        assert read_latest(store).run == "night-7"  # type: ignore[union-attr]
        assert all(is_found(store, run) for run in (LATEST, "night-6", "night-7"))
        oldest, older = (is_found(store, run) for run in (NIGHTS[4], NIGHTS[0]))
        assert oldest <= older, "the oldest goes first"
        gone.add(2 - oldest - older)
        if len(requests.names) < cut:
            break
        push(store, bundles[0], "night-8", overwrite=False)
        retain(store, 2, "night-8")
        assert runs(store) == {"night-7", "night-8"}
        assert broken(store) == []
    assert gone == {0, 1, 2}
    assert cut > 3 * len(NAMES)


@pytest.mark.parametrize("keep", [1, 2])
def test_two_writers_at_once_leave_each_others_new_bundle(
    store: Store, bundles: list[Path], ids: list[str], monkeypatch: pytest.MonkeyPatch, keep: int
) -> None:
    """If it failed, of two jobs that end together one would lose its model, or `latest` its bundle."""
    saved, requests = dict(MemoryFileSystem.store), Requests(monkeypatch)
    before = committed_keys(store)  # both begin before one of them publishes

    def publish(which: int) -> None:
        push(store, bundles[which], f"at-once-{which}", overwrite=False)
        remove_old(store, keep, f"at-once-{which}", before)

    for when in count(keep, 2):  # half of the moments with each number
        begin_again(saved, requests)
        requests.before = lambda number, _name: publish(2) if number == when else None  # noqa: B023
        publish(1)
        requests.before = lambda _number, _name: None
        if len(requests.names) < when:
            break
        assert broken(store) == []
        for which in (1, 2):
            assert id_at(store.url_of(f"at-once-{which}")) == ids[which]
        assert id_at(store.url_of(LATEST)) in ids[1:]
        push(store, bundles[0], "after", overwrite=False)
        retain(store, keep, "after")
        assert len(runs(store)) == keep
    assert when > 30


def test_a_job_that_is_held_up_never_leaves_latest_on_a_bundle_that_is_gone(
    store: Store, bundles: list[Path], ids: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it failed, a machine that stands still for a night would take the model out of service.

    While one job publishes, at each of its requests, another one begins, publishes, and keeps one bundle.
    """
    saved, requests = dict(MemoryFileSystem.store), Requests(monkeypatch)
    refused = 0

    def another(number: int, _name: str) -> None:
        if number == when:
            push(store, bundles[2], "another", overwrite=False)
            retain(store, 1, "another")

    for when in count(1):
        begin_again(saved, requests)
        requests.before = another
        try:
            push(store, bundles[1], "held-up", overwrite=False)
        except PlatformError as error:
            assert "another job with BOW_KEEP_BUNDLES" in str(error)  # noqa: PT017 - mostly there is none
            refused += 1
            assert id_at(store.url_of("held-up")) is None
        else:
            assert id_at(store.url_of("held-up")) == ids[1] or read_latest(store).run == "another"  # type: ignore[union-attr]
        requests.before = lambda _number, _name: None
        if len(requests.names) < when:
            break
        assert broken(store) == []
        assert id_at(store.url_of(LATEST)) in ids[1:]
    assert refused


def test_a_late_move_of_latest_never_leaves_it_on_a_bundle_that_is_gone(
    store: Store, bundles: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it failed, the retry of an old run would put what another job is removing into service."""
    old = current(store, NIGHTS[2])
    assert old is not None
    push(store, bundles[1], "new", overwrite=False)
    saved, requests = dict(MemoryFileSystem.store), Requests(monkeypatch)
    outcomes, lost = [], 0

    def move_late(number: int, _name: str) -> None:
        if number == when:
            try:
                remote._point_latest(store, old.pointer)
            except PlatformError:
                outcomes.append("refused")
            else:
                outcomes.append("moved")

    for when in count(1):
        begin_again(saved, requests)
        requests.before = move_late
        removed = retain(store, 3, "new")  # this one last of three
        requests.before = lambda _number, _name: None
        if len(requests.names) < when:
            break
        assert broken(store) == []
        assert is_found(store, LATEST), when
        assert is_found(store, NIGHTS[2]) == (NIGHTS[2] not in removed)
        lost += outcomes[-1] == "moved" and NIGHTS[2] in removed
    assert set(outcomes) == {"moved", "refused"}
    assert 0 < lost <= 2, "between the last look and the removal of the manifest"


def test_a_name_that_is_published_anew_while_its_bundle_is_removed_keeps_the_new_one(
    store: Store, bundles: list[Path], ids: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it failed, a slow job would remove a bundle that was just published, having judged an older one.

    At each request of a removal another job does the same, and a third one publishes under the name.
    """
    before, lost = committed_keys(store), []

    def publish_anew() -> None:
        remove_old(store, 4, NIGHTS[-1], before)
        push(store, bundles[1], NIGHTS[0], overwrite=False)

    def remove() -> None:
        remove_old(store, 4, NIGHTS[-1], before)

    for when in at_each_request(monkeypatch, remove, publish_anew):
        assert broken(store) == []
        if not is_found(store, NIGHTS[0]):
            lost.append(when)
    assert when > len(NAMES)
    assert len(lost) <= 1, "between the last look at the commit and its removal"


def latest_is_gone(store: Store) -> None:
    """`latest` as a job leaves it that is held up until its bundle is removed."""
    gone = current(store, NIGHTS[2])
    assert gone is not None
    store.delete([f"{gone.pointer.bundle}/{FILES.manifest}"])
    store.write(LATEST, encode(gone.pointer))


def test_what_is_published_while_latest_is_mended_stays_in_service(
    store: Store, bundles: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it failed, retention would take the newest model out of service, and nobody be told.

    At each request of the job that moves `latest` away from a removed bundle, another one publishes.
    """
    latest_is_gone(store)

    def publish() -> None:
        push(store, bundles[1], "meanwhile", overwrite=False)

    for when in at_each_request(monkeypatch, lambda: remote.mend_latest(store), publish):
        assert read_latest(store) == current(store, "meanwhile").pointer, when  # type: ignore[union-attr]
    assert read_latest(store) == current(store, NIGHTS[-1]).pointer  # type: ignore[union-attr]
    assert when > 10


def test_who_is_never_ahead_of_the_others_says_so(
    store: Store, bundles: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it failed, a job would move `latest` for ever, or leave it behind as if all were well."""
    latest_is_gone(store)
    requests, names = Requests(monkeypatch), (f"another-{number}" for number in count(1))

    def publish_first(_number: int, name: str) -> None:
        if name == "pipe_file":
            requests.before = lambda _number, _name: None
            push(store, bundles[1], next(names), overwrite=False)
            requests.before = publish_first

    requests.before = publish_first
    with pytest.raises(PlatformError, match=f"in each of {remote._MENDED} attempts"):
        remote.mend_latest(store)
    assert next(names) == f"another-{remote._MENDED + 1}"
    requests.before = lambda _number, _name: None
    assert is_found(store, LATEST)


def test_a_reader_gets_the_new_bundle_when_the_old_one_is_removed_under_it(
    store: Store, bundles: list[Path], ids: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it failed, a server that starts while old bundles go would not start, or mix two models."""
    saved, requests = dict(MemoryFileSystem.store), Requests(monkeypatch)
    found = set()

    def replace(number: int, _name: str) -> None:
        if number == when:
            push(store, bundles[1], "new", overwrite=False)
            retain(store, 1, "new")

    for when in count(1):
        begin_again(saved, requests)
        requests.before = replace
        found.add(id_at(store.url_of(LATEST)))
        if len(requests.names) < when:
            break
        # By its name it may be gone, and whoever asks for that is told so.
        begin_again(saved, requests)
        with contextlib.suppress(ArtifactError):
            assert id_at(store.url_of(NIGHTS[-1])) in (ids[0], None)
    assert found == {ids[0], ids[1]}


def test_a_name_whose_removal_was_cut_can_be_published_again(
    store: Store, bundles: list[Path], ids: list[str]
) -> None:
    """If it failed, the same bundle would count as published already, and `latest` name what is gone."""
    old = files_of(store, NIGHTS[0])
    store.delete([f"{old}/{FILES.manifest}", f"{old}/{FILES.weights}"])
    commit = push(store, bundles[0], NIGHTS[0], overwrite=False)
    assert commit.pointer.version == 2
    assert id_at(store.url_of(LATEST)) == id_at(store.url_of(NIGHTS[0])) == ids[0]
    assert retain(store, 1, NIGHTS[0]) == NIGHTS[1:]
    assert retain(store, 1, NIGHTS[0]) == []


def test_an_object_that_takes_the_name_latest_meanwhile_is_an_error_of_the_storage(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it failed, a job whose bundle is published would end as if it were damaged.

    It comes at each request of the removal.
    """
    begin, told = committed_keys(store), []

    def remove() -> None:
        try:
            remove_old(store, 1, NIGHTS[-1], begin)
        except PlatformError as error:
            told.append(str(error))

    for _ in at_each_request(monkeypatch, remove, lambda: store.write(LATEST, b"mine")):
        assert broken(store) == []
    assert len(told) > 10
    assert all("/latest: expected an object that names a bundle" in each for each in told)
