"""What stands in object storage by name: what an object that publishing did not write is taken for."""

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest

from export.destination import destination
from serving.errors import ArtifactError, PlatformError
from serving.storage.published import (
    LATEST,
    Pointer,
    Writer,
    commit_key,
    encode,
    fetched,
    read_commit,
    read_latest,
)
from serving.storage.store import Store
from tests.objects import memory_url

POINTER = {"run": "night-1", "version": 1, "bundle": "night-1/v1-0123", "bundle_id": "00"}
WRITER = {"host": "h", "time": "2026-01-01T00:00:00.000+00:00", "token": "0123"}


@pytest.fixture
def store() -> Store:
    return Store(memory_url())


def put(store: Store, key: str, content: Any) -> None:
    store.write(key, json.dumps(content).encode())


@pytest.mark.parametrize("name", ["", ".", "..", "/tmp/x", "a/../../x", "a//b", ".latest", "a\0b", "a" * 256])
@pytest.mark.parametrize("field", ["run", "bundle"])
def test_names_that_lead_elsewhere_are_refused(store: Store, field: str, name: str) -> None:
    """If it failed, who may write to the bucket could have a job write anywhere on its machine."""
    wrong = POINTER | {field: name}
    put(store, LATEST, wrong)
    with pytest.raises(ArtifactError, match="/models/latest: expected an object that names a bundle"):
        read_latest(store)
    for commit in (
        {"pointer": wrong, "by": WRITER, "latest_before": None},
        {"pointer": POINTER, "by": WRITER, "latest_before": wrong},
    ):
        put(store, commit_key("night-1", 1), commit)
        with pytest.raises(ArtifactError, match=r"v1\.json: expected what publishing writes"):
            read_commit(store, "night-1", 1)


def test_what_publishing_writes_is_read_again(store: Store) -> None:
    """If it failed, no bundle in object storage would be found."""
    put(store, LATEST, POINTER)
    assert (found := read_latest(store)) == Pointer(**POINTER)  # type: ignore[arg-type]
    put(store, commit_key("night-1", 1), {"pointer": POINTER, "by": WRITER, "latest_before": POINTER})
    commit = read_commit(store, "night-1", 1)
    assert commit is not None
    assert (commit.pointer, commit.by, commit.latest_before) == (found, Writer(**WRITER), found)
    store.write(LATEST, encode(commit.pointer))
    assert read_latest(store) == found


def test_a_machine_without_a_temporary_folder_is_told_of_tmpdir(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """If it failed, a container whose root is read-only would say that standard output is broken."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "missing"))
    with pytest.raises(PlatformError, match="set TMPDIR"), fetched(f"{store.url}/run", []):
        pass
    with pytest.raises(PlatformError, match="set TMPDIR"), destination(store.url):
        pass
