"""What the tests of object storage share: bundles to publish, and a store in memory that can be cut off."""

import threading
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import pytest
from fsspec.implementations.memory import MemoryFileSystem

from job.environment import load_settings
from job.run import run
from job.telling.output import Output
from serving.bundle import FILES, check_files, open_bundle
from serving.errors import ArtifactError
from serving.storage.published import fetched
from serving.storage.store import Store

REQUESTS = ("info", "find", "cat_file", "pipe_file", "put_file", "get_file", "rm_file")
"""What a store is asked; each is one request or more."""
NAMES = [*FILES.hashed, FILES.run]


def train(folder: Path, seed: int) -> Path:
    """A bundle of the tutorial's data; another seed gives another one."""
    environ = {"BOW_TRAIN_DATA": "tutorial", "BOW_DEVICE": "cpu", "BOW_INIT": "uniform"}
    environ |= {"BOW_SEED": str(seed), "BOW_OUTPUT_DIR": str(folder), "BOW_RUN_NAME": f"seed-{seed}"}
    return Path(run(load_settings(environ), Output(for_people=False)))


def id_at(url: str) -> str | None:
    """The ID of the bundle at a URL, every file of which is whole; None where nothing is published."""
    try:
        with fetched(url, NAMES) as folder:
            bundle = open_bundle(folder)
            check_files(bundle)
            assert (folder / FILES.run).exists()
            return bundle.bundle_id
    except ArtifactError as error:
        if "nothing that the job published" not in str(error):
            raise
        return None


def memory_url() -> str:
    """A place in memory that no other test uses."""
    return f"memory://{uuid.uuid4().hex}/models"


def prefixes(store: Store) -> set[str]:
    """The folders of files under the runs' names."""
    return {each.key.rpartition("/")[0] for each in store.under() if each.key.count("/") > 1}


def put_folder(store: Store, folder: Path, prefix: str) -> None:
    """Copies the files of a folder, however deep, to keys under `prefix`/."""
    for path in folder.rglob("*"):
        if path.is_file():
            store.put(path, f"{prefix}/{path.relative_to(folder).as_posix()}")


def broken(store: Store) -> list[str]:
    """What has a manifest, and lacks a file."""
    keys = {each.key for each in store.under()}
    starts = {key.removesuffix(FILES.manifest) for key in keys if key.endswith(f"/{FILES.manifest}")}
    return [start for start in starts if not {f"{start}{name}" for name in NAMES} <= keys]


class Requests:
    """Counts what the store in memory is asked, and lets `fail` raise instead of, or after, an answer."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.names: list[str] = []
        self.before: Callable[[int, str], None] = lambda _number, _name: None
        self.after: Callable[[int, str], None] = lambda _number, _name: None
        self._inside = threading.local()  # files are copied in several threads
        for name in REQUESTS:
            monkeypatch.setattr(MemoryFileSystem, name, self._counted(name, getattr(MemoryFileSystem, name)))

    def _counted(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        def ask(*arguments: Any, **keywords: Any) -> Any:
            if getattr(self._inside, "yes", False):  # the library's own calls
                return method(*arguments, **keywords)
            self.names.append(name)
            number = len(self.names)
            self.before(number, name)
            self._inside.yes = True
            try:
                answer = method(*arguments, **keywords)
            finally:
                self._inside.yes = False
            self.after(number, name)
            return answer

        return ask


def at_each_request(
    monkeypatch: pytest.MonkeyPatch, work: Callable[[], None], meanwhile: Callable[[], None]
) -> Iterator[int]:
    """The number of each request of `work` before which `meanwhile` came, with what the store holds then.

    It begins with the same content each time; in the end the work was not disturbed.
    """
    saved, requests = dict(MemoryFileSystem.store), Requests(monkeypatch)
    for when in count(1):
        MemoryFileSystem.store.clear()
        MemoryFileSystem.store.update(saved)
        requests.names.clear()
        requests.before = partial(_at, when, meanwhile)
        work()
        requests.before = lambda _number, _name: None
        if len(requests.names) < when:
            return
        yield when


def _at(when: int, action: Callable[[], None], number: int, _name: str) -> None:
    if number == when:
        action()
