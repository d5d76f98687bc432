"""Data at URLs: the same rows and fingerprints as of files, and no more fetched than was asked for."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from job.corpus.cache import OBJECTS
from job.dataset import DataSpec, find_sources
from job.environment import load_settings
from job.fetch import SUPERSEDED_AFTER, fetched
from job.run import run
from job.telling.output import Output
from serving.bundle import FILES, check_files, open_bundle
from serving.errors import DataError, SettingsError
from serving.storage.published import fetched as fetched_bundle
from serving.storage.store import Store
from tests.objects import Requests, id_at, memory_url

ROWS = ["where is my parcel\tdelivery", "close my account\taccount", "thanks a lot\tother"] * 20
TSV = ("text\tlabel\n" + "\n".join(ROWS) + "\n").encode()


@pytest.fixture
def url() -> Iterator[str]:
    yield memory_url()
    MemoryFileSystem.store.clear()


@pytest.fixture(autouse=True)
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made; nothing may stay there."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


def spec(location: str) -> DataSpec:
    return DataSpec(location=location, setting="BOW_TRAIN_DATA")


def keys(location: str, url: str) -> list[str]:
    with fetched({"train": spec(location)}, None) as specs:
        copies = specs["train"].copies
        assert copies is not None
        assert all(path.is_file() for path in copies.values())
        return [name.removeprefix(f"{url}/") for name in copies]


def train(data: str, output: Path | str, **settings: object) -> Path | str:
    environ = {"BOW_TRAIN_DATA": data, "BOW_OUTPUT_DIR": str(output), "BOW_DEVICE": "cpu"}
    environ |= {f"BOW_{name.upper()}": str(value) for name, value in settings.items()}
    return run(load_settings(environ), Output(for_people=False))


@pytest.mark.parametrize(
    "location", ["one.tsv", "all", "all/", "all/*.tsv", "all/**/*.tsv", "a*/part-[12].tsv", "*/*/deep.tsv"]
)
def test_a_url_names_what_the_path_would(url: str, tmp_path: Path, location: str) -> None:
    """If it failed, data that was copied to a bucket would be other data."""
    store = Store(url)
    names = [
        "one.tsv",
        *(f"all/{name}" for name in ("part-2.tsv", "part-10.tsv", "part-1.tsv", "sub/deep.tsv")),
    ]
    for name in [*names, "all/_SUCCESS", "all/.hidden.tsv", "all/_tmp/x.tsv"]:
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "data" / name).write_bytes(TSV)
        store.write(name, TSV)
    found = find_sources(str(tmp_path / "data" / location), "auto", "BOW_TRAIN_DATA")
    assert keys(f"{url}/{location}", url) == [
        Path(source.path).relative_to(tmp_path / "data").as_posix() for source in found
    ]


def test_only_what_is_named_is_fetched(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """If it failed, a job would pay for, and wait for, the rest of a bucket."""
    store = Store(url)
    for name in ("a.tsv", "a.tsv.bak", "all/b.tsv", "all/_c.tsv"):
        store.write(name, TSV)
    requests = Requests(monkeypatch)
    assert keys(f"{url}/a.tsv", url) == ["a.tsv"]
    assert (requests.names.count("get_file"), requests.names.count("find")) == (1, 0)
    assert keys(f"{url}/all", url) == ["all/b.tsv"]
    assert requests.names.count("get_file") == 2


@pytest.mark.parametrize("location", ["nothing.tsv", "nothing", "*.csv"])
def test_a_missing_object_is_a_fault_of_the_data(url: str, location: str) -> None:
    """If it failed, a scheduler would try a misspelt URL again and again."""
    Store(url).write("a.tsv", TSV)
    with pytest.raises(DataError) as problem, fetched({"train": spec(f"{url}/{location}")}, None):
        pass
    assert f"BOW_TRAIN_DATA={url}/{location}: expected" in str(problem.value)


def test_the_fingerprint_is_that_of_a_local_copy(url: str, tmp_path: Path, temporary: Path) -> None:
    """If it failed, a run would be another one where its data lies elsewhere."""
    Store(url).write("train.tsv", TSV)
    (tmp_path / "train.tsv").write_bytes(TSV)
    local = train(str(tmp_path / "train.tsv"), tmp_path / "local")
    remote = train(f"{url}/train.tsv", tmp_path / "remote")
    assert isinstance(local, Path)
    assert isinstance(remote, Path)
    assert remote.name == local.name
    assert open_bundle(remote).bundle_id == open_bundle(local).bundle_id
    assert f'"{url}/train.tsv"' in (remote / FILES.run).read_text()
    assert list(temporary.iterdir()) == []


@pytest.mark.parametrize("with_cache", [False, True])
def test_messages_and_lists_name_the_url(url: str, tmp_path: Path, temporary: Path, with_cache: bool) -> None:
    """If it failed, users would look for bad rows in a file that is gone."""
    Store(url).write("train.tsv", TSV + b"no label\t\n")
    cache = {"cache_dir": tmp_path / "cache"} if with_cache else {}
    for _ in range(2):  # the second time from the cache
        with pytest.raises(DataError) as problem:
            train(f"{url}/train.tsv", tmp_path / "out", run_name="run", max_rejected=0, **cache)
        assert f"first {url}/train.tsv:62" in str(problem.value)
        assert f'"file": "{url}/train.tsv"' in (tmp_path / "out" / "run.rejected.jsonl").read_text()
    Store(url).write("train.tsv", b"\xff\xfe")
    with pytest.raises(DataError, match=f"^{url}/train.tsv: expected text in UTF-8"):
        train(f"{url}/train.tsv", tmp_path / "out")
    assert list(temporary.iterdir()) == []


def test_an_unchanged_object_is_fetched_once(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it failed, a nightly job would fetch the same gigabytes each night, or train on yesterday's."""
    store = Store(url)
    store.write("all/a.tsv", TSV)
    store.write("all/b.tsv", TSV)
    requests = Requests(monkeypatch)

    def fetch() -> dict[str, bytes]:
        with fetched({"train": spec(f"{url}/all")}, tmp_path / "cache") as specs:
            copies = specs["train"].copies
            assert copies is not None
            return {name.rpartition("/")[2]: path.read_bytes() for name, path in copies.items()}

    assert fetch() == fetch() == {"a.tsv": TSV, "b.tsv": TSV}
    assert requests.names.count("get_file") == 2
    (old,) = [path for path in (tmp_path / "cache" / OBJECTS).rglob("*") if path.is_file()][:1]
    store.write("all/b.tsv", TSV + b"more\tother\n")
    assert fetch() == {"a.tsv": TSV, "b.tsv": TSV + b"more\tother\n"}
    assert requests.names.count("get_file") == 3
    # Another job may be reading the older version, for a day.
    files = [path for path in (tmp_path / "cache" / OBJECTS).rglob("*") if path.is_file()]
    assert len(files) == 3
    assert old in files
    for path in files:
        os.utime(path, (0, path.stat().st_mtime - SUPERSEDED_AFTER - 1))
    store.write("all/a.tsv", TSV + b"more\tother\n")
    store.write("all/b.tsv", TSV)
    fetch()
    assert len([path for path in (tmp_path / "cache" / OBJECTS).rglob("*") if path.is_file()]) == 2


def test_a_copy_that_was_used_today_outlives_its_version(url: str, tmp_path: Path) -> None:
    """If it failed, one job would remove what another is about to read."""
    store = Store(url)
    store.write("train.tsv", TSV)
    one = {"train": spec(f"{url}/train.tsv")}
    with fetched(one, tmp_path / "cache") as specs:
        (copy,) = (specs["train"].copies or {}).values()
    before = copy.stat().st_mtime - SUPERSEDED_AFTER - 1
    os.utime(copy, (before, before))
    with fetched(one, tmp_path / "cache"):
        store.write("train.tsv", TSV + b"more\tother\n")
        with fetched(one, tmp_path / "cache"):
            assert copy.exists()


def test_a_run_with_a_cache_reads_an_unchanged_url_from_it(url: str, tmp_path: Path) -> None:
    """If it failed, BOW_CACHE_DIR would be of no use for data in a bucket."""
    Store(url).write("train.tsv", TSV)
    first = train(f"{url}/train.tsv", tmp_path / "out", cache_dir=tmp_path / "cache")
    before = sorted(path.name for path in (tmp_path / "cache" / "files").iterdir())
    assert train(f"{url}/train.tsv", tmp_path / "out", cache_dir=tmp_path / "cache") == first
    assert sorted(path.name for path in (tmp_path / "cache" / "files").iterdir()) == before
    assert len(before) == 1


def test_a_bundle_goes_where_the_url_says(url: str, tmp_path: Path, temporary: Path) -> None:
    """If it failed, BOW_OUTPUT_DIR would not take a URL."""
    Store(url).write("train.tsv", TSV + b"no label\t\n")
    output = f"{url}/out"
    settings = {"run_name": "run", "max_rejected": 0.5}
    bundle = train(f"{url}/train.tsv", output, **settings)
    assert bundle == f"{output}/run"
    with fetched_bundle(f"{output}/latest", [*FILES.hashed, FILES.run]) as folder:
        check_files(open_bundle(folder))
        shutil.copytree(folder, tmp_path / "first")
    assert b"no label" in (Store(output).read("run.rejected.jsonl") or b"")
    # A retry of a run that is done leaves its bundle alone, and another run is refused.
    assert train(f"{url}/train.tsv", output, **settings) == bundle
    with pytest.raises(SettingsError, match=f"^{output}/run: the bundle there is of another run.*epochs"):
        train(f"{url}/train.tsv", output, **settings, epochs=2)
    assert id_at(f"{output}/run") == open_bundle(tmp_path / "first").bundle_id
    Store(url).write("train.tsv", TSV)
    train(f"{url}/train.tsv", output, **settings, epochs=2, overwrite=True)
    assert id_at(f"{output}/latest") not in (None, open_bundle(tmp_path / "first").bundle_id)
    assert Store(output).read("run.rejected.jsonl") is None
    assert list(temporary.iterdir()) == []


def test_too_many_rejected_rows_publish_nothing_but_the_list(url: str, temporary: Path) -> None:
    """If it failed, nobody could find the bad rows of a job whose machine is gone."""
    Store(url).write("train.tsv", TSV + b"no label\t\n")
    with pytest.raises(DataError) as problem:
        train(f"{url}/train.tsv", f"{url}/out", run_name="run", max_rejected=0)
    assert problem.value.__notes__ == [f"The rejected rows are listed in {url}/out/run.rejected.jsonl"]
    assert [each.key for each in Store(f"{url}/out").under()] == ["run.rejected.jsonl"]
    assert list(temporary.iterdir()) == []


def test_a_folder_can_be_named_by_a_file_url(tmp_path: Path) -> None:
    """If it failed, `file://` would be read as the name of a folder."""
    (tmp_path / "train.tsv").write_bytes(TSV)
    output = f"file://{tmp_path}/out"
    assert train(f"file://{tmp_path}/train.tsv", output, run_name="run") == f"{output}/run"
    assert id_at(f"{output}/latest") == id_at(f"{output}/run") is not None
