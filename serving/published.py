"""How bundles lie in object storage, and how one is found and fetched.

    latest                      names the bundle to use, as does every `Pointer`
    NAME/v1.json                the commit: which bundle is the first of that name; made once, never changed
    NAME/v1-0123456789ab/       its files: a bundle like any other
    NAME/v2.json                where BOW_OVERWRITE replaced it; the highest number counts

What has no commit that names it is an upload that is under way, was cut, or came too late.
"""

import contextlib
import re
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec

from serving.bundle import FILES
from serving.errors import ArtifactError
from serving.storage import Store, naming

LATEST = "latest"
_COMMIT = re.compile(r"v([0-9]+)\.json")
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
    return _read_pointer(store, LATEST)


def read_commit(store: Store, run: str, version: int) -> Commit | None:
    """The commit of a version; raises ArtifactError where the object is none."""
    key = commit_key(run, version)
    data = store.read(key)
    try:
        return None if data is None else msgspec.json.decode(data, type=Commit)
    except msgspec.MsgspecError as error:
        raise ArtifactError(
            f"{store.url_of(key)}: expected what publishing writes, found something else ({error}); publish "
            "under another BOW_RUN_NAME"
        ) from error


def current(store: Store, run: str) -> Commit | None:
    """The commit that counts for a name; None where there is no bundle of that name."""
    matches = (_COMMIT.fullmatch(each.key.removeprefix(f"{run}/")) for each in store.under(run))
    versions = [int(match[1]) for match in matches if match]
    return read_commit(store, run, max(versions)) if versions else None


@contextlib.contextmanager
def fetched(url: str, names: Sequence[str]) -> Iterator[Path]:
    """A temporary folder with those files of a bundle that are there; messages name the URL instead of it.

    url: a `latest`, a run's name, or a folder with the files of a bundle.

    Raises ArtifactError where there is no bundle, SettingsError and PlatformError as `Store` does.
    """
    with tempfile.TemporaryDirectory(prefix="bowsprit-") as temporary, naming(Path(temporary), url):
        folder = Path(temporary)
        for _ in range(_RESOLVED):
            store, prefix = _resolve(url)
            missing = _fetch(store, prefix, folder, [FILES.manifest, *names])
            # A bundle that was replaced twice is removed, its manifest first.
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
    pointer = _read_pointer(store, name)
    if pointer is None or store.find(f"{pointer.bundle}/{FILES.manifest}") is None:
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


def _read_pointer(store: Store, key: str) -> Pointer | None:
    data = store.read(key)
    try:
        return None if data is None else msgspec.json.decode(data, type=Pointer)
    except msgspec.MsgspecError as error:
        raise ArtifactError(
            f"{store.url_of(key)}: expected an object that names a bundle, found something else ({error}); "
            "remove it, or use another folder"
        ) from error
