"""How bundles lie in object storage, and how one is found and fetched.

    latest                      names the bundle to use, as does every `Pointer`
    NAME/v1.json                the commit: which bundle is the first of that name; made once, never changed
    NAME/v1-0123456789ab/       its files: a bundle like any other
    NAME/v2.json                where BOW_OVERWRITE replaced it; the highest number counts

What has no commit that names it is an upload that is under way, was cut, or came too late. A bundle that is
removed loses its manifest first and its commit last: a commit that names no manifest counts for nothing.
"""

import contextlib
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from serving.bundle import FILES
from serving.errors import ArtifactError, PlatformError
from serving.storage.store import Store, naming

LATEST = "latest"
_COMMIT = re.compile(r"v([0-9]+)\.json")
_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,254}")
"""What BOW_RUN_NAME may be, and what a path to a bundle is made of."""
T = TypeVar("T")
_RESOLVED = 3
"""How often a bundle is looked for again where it was replaced while it was fetched."""


class Pointer(msgspec.Struct, frozen=True, kw_only=True):
    """What `latest` holds."""

    run: str
    version: int
    """1 for the first bundle of that name, one more each time it was overwritten."""
    bundle: str
    """Where its files are, relative to the folder of `latest`."""
    bundle_id: str

    def __post_init__(self) -> None:
        """Refuses what would lead out of the folders where bundles are fetched from, and to."""
        for name in (self.run, *self.bundle.split("/")):
            if _NAME.fullmatch(name) is None:
                raise ValueError(f"expected names of letters, digits, '.', '_' and '-', found {name[:80]!r}")


class Writer(msgspec.Struct, frozen=True, kw_only=True):
    """Who published, for those who find the name taken."""

    host: str
    time: str
    """ISO 8601, in UTC, by the writer's clock."""
    token: str
    """No other writer has it."""

    def __str__(self) -> str:
        return f"{self.host} at {self.time}"


class Commit(msgspec.Struct, frozen=True, kw_only=True):
    """What NAME/v1.json holds."""

    pointer: Pointer
    by: Writer
    latest_before: Pointer | None
    """What `latest` named before: where it still does, the writer was ended before it moved it."""


def commit_key(run: str, version: int) -> str:
    """Where the commit of a version is."""
    return f"{run}/v{version}.json"


def bundle_prefix(run: str, version: int, token: str) -> str:
    """Where a writer puts the files that it means to publish as a version; no other writes there."""
    return f"{run}/v{version}-{token}"


def encode(value: Pointer | Commit) -> bytes:
    """The content of an object."""
    return msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n"


def read_latest(store: Store) -> Pointer | None:
    """What `latest` names; raises ArtifactError where it holds something else."""
    return read_pointer(store, LATEST)


def read_pointer(store: Store, key: str) -> Pointer | None:
    """What an object beside `latest` names; raises ArtifactError where it holds something else."""
    advice = "remove it, or use another folder"
    return _read(store, key, Pointer, expected="an object that names a bundle", advice=advice)


def read_commit(store: Store, run: str, version: int) -> Commit | None:
    """The commit of a version; raises ArtifactError where the object is none."""
    advice = "publish under another BOW_RUN_NAME"
    return _read(store, commit_key(run, version), Commit, expected="what publishing writes", advice=advice)


def commit_versions(run: str, keys: Iterable[str]) -> list[int]:
    """The versions of a name that have commits among these objects, from the lowest on."""
    matches = (_COMMIT.fullmatch(key.removeprefix(f"{run}/")) for key in keys)
    return sorted(int(match[1]) for match in matches if match)


def current(store: Store, run: str) -> Commit | None:
    """The commit that counts for a name; None where there is no bundle of that name."""
    versions = commit_versions(run, (each.key for each in store.under(run)))
    return read_commit(store, run, versions[-1]) if versions else None


def is_there(store: Store, pointer: Pointer) -> bool:
    """Whether the bundle has not been removed since it was published."""
    return store.find(f"{pointer.bundle}/{FILES.manifest}") is not None


@contextlib.contextmanager
def temporary_folder() -> Iterator[Path]:
    """A folder on this machine, gone at the end; raises PlatformError where none can be made."""
    try:
        folder = tempfile.TemporaryDirectory(prefix="bowsprit-")
    except OSError as error:
        raise PlatformError(
            f"expected a folder for temporary files, found none that can be written ({error.strerror}); "
            "set TMPDIR to one, or free some space"
        ) from error
    with folder as name:
        yield Path(name)


@contextlib.contextmanager
def fetched(url: str, names: Sequence[str]) -> Iterator[Path]:
    """A temporary folder with those files of a bundle that are there; messages name the URL instead of it.

    url: a `latest`, a run's name, or a folder with the files of a bundle.

    Raises ArtifactError where there is no bundle, SettingsError and PlatformError as `Store` does.
    """
    with temporary_folder() as folder, naming(folder, url):
        for _ in range(_RESOLVED):
            store, prefix = _resolve(url)
            missing = _fetch(store, prefix, folder, [FILES.manifest, *names])
            # A bundle that was replaced twice, or is too old to be kept, is removed, its manifest first.
            if not missing or _resolve(url)[1] == prefix:
                break
        yield folder


def _fetch(store: Store, prefix: str, folder: Path, names: Sequence[str]) -> list[str]:
    """Fetches files; returns those that are not there."""
    missing = []
    for name in dict.fromkeys(names):
        try:
            store.get(f"{prefix}/{name}" if prefix else name, folder / name)
        except FileNotFoundError:
            (folder / name).unlink(missing_ok=True)
            missing.append(name)
    return missing


def _resolve(url: str) -> tuple[Store, str]:
    """The store and the prefix that hold the files of the bundle at a URL."""
    start, _, name = url.rstrip("/").rpartition("/")
    if start.endswith("/"):  # a bucket alone
        return Store(url), ""
    store = Store(start)
    pointer = read_pointer(store, name)
    if pointer is None or not is_there(store, pointer):
        commit = current(store, name if pointer is None else pointer.run)
        pointer = pointer if commit is None else commit.pointer
    if pointer is not None:
        return store, pointer.bundle
    if store.find(f"{name}/{FILES.manifest}") is not None:
        return store, name
    raise ArtifactError(
        f"{url}: expected a bundle, found nothing that the job published; name the {LATEST} or the run in "
        f"BOW_OUTPUT_DIR, for example {start}/{LATEST}, or train again"
    )


def _read(store: Store, key: str, kind: type[T], *, expected: str, advice: str) -> T | None:
    data = store.read(key)
    try:
        return None if data is None else msgspec.json.decode(data, type=kind)
    except msgspec.MsgspecError as error:
        raise ArtifactError(
            f"{store.url_of(key)}: expected {expected}, found something else ({error}); {advice}"
        ) from error
