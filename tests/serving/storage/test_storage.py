"""Objects under a URL: what is there, what is told of what fails, and what is waited for."""

import errno
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from serving.errors import PlatformError, SettingsError
from serving.storage import errors as storage_errors
from serving.storage import store as storage
from serving.storage.errors import ATTEMPTS, tried
from serving.storage.store import Store, is_url, naming, url_problem
from tests.objects import Requests, memory_url, put_folder

REPOSITORY = Path(__file__).parents[3]


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The waits, which take no time."""
    taken: list[float] = []
    monkeypatch.setattr(storage_errors.time, "sleep", taken.append)
    return taken


@pytest.fixture(params=["memory", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    return Store(memory_url() if request.param == "memory" else f"file://{tmp_path}/some/folder")


@pytest.mark.parametrize(
    ("location", "expected"),
    [
        ("s3://bucket/key", True),
        ("memory://x", True),
        ("S3://bucket/key", True),
        ("data/train.tsv", False),
        ("/data/s3://x", False),
        ("C:\\data", False),
        (Path("s3:/bucket"), False),
    ],
)
def test_urls_are_told_from_paths(location: object, expected: bool) -> None:
    """If it failed, a local file would be looked for in a bucket, or the other way round."""
    assert is_url(location) == expected


def test_objects_are_written_listed_read_and_removed(store: Store, tmp_path: Path) -> None:
    """If it failed, nothing that is built on it would work."""
    assert (store.under(), store.read("a"), store.find("a")) == ([], None, None)
    store.write("a", b"1")
    store.write("b/c", b"22")
    store.write("b/d/e", b"333")
    store.write("b.c", b"")
    assert [each.key for each in store.under()] == ["a", "b.c", "b/c", "b/d/e"]
    assert [(each.key, each.size) for each in store.under("b")] == [("b/c", 2), ("b/d/e", 3)]
    assert [each.key for each in store.glob("b/**")] == ["b/c", "b/d/e"]
    assert store.find("b") is None
    assert store.read("b") is None
    found = store.find("b/c")
    assert found is not None
    assert (found.key, found.size) == ("b/c", 2)
    assert found.version
    store.write("b/c", b"4")
    assert store.read("b/c") == b"4"
    store.get("b/d/e", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == b"333"
    with pytest.raises(FileNotFoundError):
        store.get("nothing", tmp_path / "other")
    store.delete(["a", "nothing"])
    store.delete_all("b")
    assert [each.key for each in store.under()] == ["b.c"]


def test_a_folder_is_copied_there_and_back(store: Store, tmp_path: Path) -> None:
    """If it failed, what is kept there would come back with other names or contents."""
    files = {f"part {number}/file": bytes([number]) * number for number in range(30)}
    for name, content in files.items():
        (tmp_path / "from" / name).parent.mkdir(parents=True)
        (tmp_path / "from" / name).write_bytes(content)
    put_folder(store, tmp_path / "from", "kept")
    assert {each.key: each.size for each in store.under("kept")} == {
        f"kept/{name}": len(content) for name, content in files.items()
    }
    store.get_all((each, tmp_path / str(each.size)) for each in store.under("kept"))
    for content in files.values():
        assert (tmp_path / str(len(content))).read_bytes() == content


def test_an_object_is_made_once(store: Store) -> None:
    """If it failed, two jobs would each believe that a name is theirs."""
    assert store.write_if_absent("a/claim", b"one")
    assert not store.write_if_absent("a/claim", b"two")
    assert store.write_if_absent("a/claim", b"one")  # an answer that was lost: it is the writer's own
    assert store.read("a/claim") == b"one"


def test_a_store_without_conditional_writes_is_asked_what_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it failed, nothing could be published to a store that lacks them."""
    store = Store(memory_url())
    write = MemoryFileSystem.pipe_file

    def no_conditions(self: Any, path: str, value: bytes, mode: str = "overwrite", **more: Any) -> Any:
        if mode == "create":
            raise OSError(errno.ENOSYS, "A header you provided implies functionality that is not implemented")
        return write(self, path, value, mode=mode, **more)

    monkeypatch.setattr(MemoryFileSystem, "pipe_file", no_conditions)
    assert store.write_if_absent("claim", b"one")
    assert not store.write_if_absent("claim", b"two")
    assert store.read("claim") == b"one"


def test_what_may_pass_is_waited_for_longer_and_longer(
    waits: list[float], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it failed, a moment's overload would end a run of hours, or be made worse."""
    store = Store(memory_url())
    requests = Requests(monkeypatch)

    def busy(number: int, _name: str) -> None:
        if number < 4:
            raise OSError(errno.EBUSY, "Please reduce your request rate")

    requests.before = busy
    store.write("a", b"1")
    assert len(waits) == 3
    assert waits[0] < waits[1] < waits[2]
    assert [record.levelname for record in caplog.records] == ["WARNING"] * 3
    assert "attempt 1 of 6 failed" in caplog.text
    assert store.read("a") == b"1"


class RefusalError(Exception):
    """As botocore's ClientError is."""

    def __init__(self, status: int, code: str) -> None:
        super().__init__(f"An error occurred ({code})")
        self.response = {"ResponseMetadata": {"HTTPStatusCode": status}, "Error": {"Code": code}}


class NoCredentialsError(Exception):
    """As botocore's."""


@pytest.mark.parametrize(
    ("error", "attempts", "expected"),
    [
        (ConnectionRefusedError(errno.ECONNREFUSED, "refused"), ATTEMPTS, "expected an answer"),
        (TimeoutError(), ATTEMPTS, "expected an answer"),
        (RefusalError(503, "SlowDown"), ATTEMPTS, "in 6 attempts"),
        (RefusalError(500, "InternalError"), ATTEMPTS, "in 6 attempts"),
        (RefusalError(403, "InvalidAccessKeyId"), 1, "expected credentials"),
        (PermissionError("Access Denied"), 1, "AWS_ACCESS_KEY_ID"),
        (NoCredentialsError("Unable to locate credentials"), 1, "expected credentials"),
        (RefusalError(404, "NoSuchBucket"), 1, "expected a bucket"),
        (OSError(errno.EINVAL, "The authorization header is malformed"), 1, "AWS_REGION"),
        (OSError(errno.ENOSPC, "No space", "/tmp/x"), 1, "/tmp/x: cannot be read or written"),
    ],
)
def test_what_does_not_pass_is_told_with_what_to_do(
    waits: list[float], error: Exception, attempts: int, expected: str
) -> None:
    """If it failed, nobody would know whether to try elsewhere, ask for a permission, or correct a URL."""
    asked = []

    def ask() -> None:
        asked.append(1)
        raise error

    with pytest.raises(PlatformError) as problem:
        tried("s3://bucket/key", ask)
    assert expected in str(problem.value)
    assert "s3://bucket/key" in str(problem.value)
    assert len(asked) == attempts


@pytest.mark.parametrize("scheme", ["http", "ftp"])
def test_a_server_that_cannot_be_reached_is_waited_for(waits: list[float], scheme: str) -> None:
    """If it failed, a network that is down would pass for data that is missing, or for a bug of ours."""
    with pytest.raises(PlatformError, match="expected an answer"):
        Store(f"{scheme}://127.0.0.1:1/data.tsv").find("")
    assert len(waits) == ATTEMPTS - 1


def test_a_mistake_of_ours_stays_one(waits: list[float]) -> None:
    """If it failed, a bug would be blamed on the storage."""
    with pytest.raises(ZeroDivisionError):
        tried("s3://bucket/key", lambda: 1 // 0)
    assert waits == []


def test_a_secret_that_a_library_quotes_is_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it failed, a credential would end in a log."""
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")

    def ask() -> None:
        raise PermissionError("the key hunter2 is wrong")

    with pytest.raises(PlatformError) as problem:
        tried("s3://bucket/key", ask)
    assert "hunter2" not in str(problem.value)


@pytest.mark.parametrize(
    "url",
    [
        "s3://key:hunter2@bucket/x",
        "S3://key:hunter2@bucket/x",
        "https://host/x.tsv?X-Amz-Signature=hunter2",
        "HTTPS://host/x.tsv?X-Amz-Signature=hunter2",
        "s3://",
    ],
)
def test_a_url_that_may_hold_a_secret_is_refused_without_showing_it(url: str) -> None:
    """If it failed, a password would stand in every log line and in run.json."""
    problem = url_problem(url)
    assert problem is not None
    assert "hunter2" not in problem
    assert url_problem("s3://bucket/data/part-?.tsv") is None


def test_a_missing_library_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    """If it failed, users would have to guess the name of an extra."""
    monkeypatch.setitem(sys.modules, "s3fs", None)
    with pytest.raises(SettingsError, match=r"bowsprit\[s3\]"):
        Store("s3://bucket/x")
    with pytest.raises(SettingsError, match="such as s3://bucket/path"):
        Store("nosuchscheme://bucket/x")


def test_without_a_url_nothing_of_it_is_imported() -> None:
    """If it failed, serving a bundle on this machine would need, and wait for, a storage library."""
    code = "import sys, serving.main, serving.storage.published\n"
    code += "print({'fsspec', 's3fs', 'torch'} & {*sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert done.stdout == "set()\n"


def test_messages_name_the_url_instead_of_the_copy(tmp_path: Path) -> None:
    """If it failed, users would look for a temporary folder that is gone."""
    error = PlatformError(f"{tmp_path}/run: cannot be read")
    error.add_note(f"listed in {tmp_path}/list")
    with pytest.raises(PlatformError) as problem, naming(tmp_path, "s3://bucket/models"):
        raise error
    assert str(problem.value) == "s3://bucket/models/run: cannot be read"
    assert problem.value.__notes__ == ["listed in s3://bucket/models/list"]


def test_an_object_of_another_size_than_listed_is_refused(tmp_path: Path) -> None:
    """If it failed, half an object would be read as the whole."""
    store = Store(memory_url())
    store.write("a", b"123")
    with pytest.raises(PlatformError, match="expected 4 bytes, got 3"):
        store.get("a", tmp_path / "a", size=4)


def test_the_connections_options_are_those_of_s3() -> None:
    """If it failed, requests would be repeated in three places, and an unreachable host take an hour."""
    pytest.importorskip("s3fs")
    store = Store("s3://bucket/x")
    assert store._fs.retries == 2
    assert store._fs.config_kwargs == storage._OPTIONS["s3"]["config_kwargs"]
