"""Where a run publishes: a folder, or object storage by way of a temporary folder on this machine."""

import contextlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from export import remote, remote_retention, retention
from export.committed import committed_keys
from export.publish import LATEST, point_latest_again, publish, storage_errors
from serving.bundle import FILES
from serving.errors import PlatformError
from serving.storage.published import Pointer, current, read_latest, temporary_folder
from serving.storage.store import Store, is_url, naming


@dataclass(frozen=True, kw_only=True)
class Destination:
    """A folder in which a run makes and publishes its bundle, and the storage that gets it from there."""

    folder: Path
    store: Store | None
    """None where the folder is the destination itself."""
    keep: int | None
    """How many bundles stay; None for all."""
    before: frozenset[str]
    """The commits that were in the storage when the job began; none where all stay."""

    def shown(self, path: Path) -> Path | str:
        """What to call a path in the folder: where it is for good."""
        if self.store is None:
            return path
        return self.store.url_of(path.relative_to(self.folder).as_posix())

    def pull(self, run: str) -> None:
        """Takes the manifest of the bundle that has this name over into the folder, if there is one."""
        if self.store is not None and (commit := current(self.store, run)) is not None:
            self._get(commit.pointer, self.folder / run, [FILES.manifest])
            if not (self.folder / run / FILES.manifest).exists():
                (self.folder / run).rmdir()  # the bundle is being removed, or was and its job cut off

    def pull_latest(self, *, whole: bool) -> None:
        """Takes the bundle that `latest` names over into the folder, for comparison, if there is one.

        whole: with all files, rather than its manifest alone.

        Raises ArtifactError where `latest` names none.
        """
        pointer = None if self.store is None else read_latest(self.store)
        while self.store is not None and pointer is not None:
            # Apart from this run's own bundle, which may be another version of the same name.
            folder = self.folder / ".latest" / pointer.run
            self._get(pointer, folder, [FILES.manifest, *(FILES.hashed if whole else [])])
            # It may have been replaced and removed while it was fetched.
            fetched, pointer = pointer, read_latest(self.store)
            if pointer == fetched:
                (self.folder / LATEST).symlink_to(folder)
                break

    def latest(self) -> str | None:
        """The run whose bundle `latest` names there; None where there is none."""
        if self.store is not None:
            pointer = read_latest(self.store)
            return None if pointer is None else pointer.run
        link = self.folder / LATEST
        return link.resolve().name if link.exists() else None

    def publish(self, staged: Path, run: str, *, overwrite: bool, move_latest: bool) -> Path:
        """Gives a sealed bundle its name, as `export.publish.publish` does; returns its folder."""
        bundle = publish(staged, self.folder, run, overwrite=overwrite, move_latest=move_latest)
        if self.store is not None:
            remote.push(self.store, bundle, run, overwrite=overwrite, move_latest=move_latest)
        return bundle

    def settle(self, run: str) -> None:
        """Takes the last steps of publishing for a bundle that is published already."""
        point_latest_again(self.folder, run)
        if self.store is not None:
            remote.settle(self.store, run)

    def remove_old(self, bundle: Path) -> list[str]:
        """Removes old bundles, now that this one is published; returns their names.

        Raises PlatformError where the storage fails, or does not allow it.
        """
        if self.keep is None:
            return []
        if self.store is None:
            return retention.remove_old(self.folder, self.keep, bundle)
        return remote_retention.remove_old(self.store, self.keep, bundle.name, self.before)

    def _get(self, pointer: Pointer, folder: Path, names: Sequence[str]) -> None:
        assert self.store is not None
        folder.mkdir(parents=True, exist_ok=True)
        for name in names:
            with contextlib.suppress(FileNotFoundError):
                self.store.get(f"{pointer.bundle}/{name}", folder / name)

    def rejected_list(self, run: str | None) -> Path:
        """Where a run lists its rejected rows; None for one whose data will give it a name."""
        return self.folder / f"{run or 'run'}.rejected.jsonl"

    def remove_list(self, path: Path) -> None:
        """Removes a list that an earlier run left. Raises PlatformError."""
        with storage_errors(self.folder):
            path.unlink(missing_ok=True)
        if self.store is not None:
            self.store.delete([path.name])

    def push_lists(self) -> None:
        """Copies the files beside the bundles, such as the lists of rejected rows."""
        if self.store is not None:
            for path in self.folder.iterdir():
                if path.is_file() and not path.is_symlink() and not path.name.startswith("."):
                    self.store.put(path, path.name)


@contextlib.contextmanager
def destination(location: Path | str, keep: int | None = None) -> Iterator[Destination]:
    """Where a run publishes; what it says of a temporary folder names the URL instead.

    keep: how many bundles stay there; None for all.

    Raises SettingsError and PlatformError where the URL cannot be written to, ArtifactError where `latest` is
    not the job's there.
    """
    if not isinstance(location, str) or not is_url(location):
        yield Destination(folder=Path(location), store=None, keep=keep, before=frozenset())
        return
    store = Store(location)
    remote.check_usable(store)
    before = frozenset[str]() if keep is None else committed_keys(store)
    with temporary_folder() as folder:
        place = Destination(folder=folder, store=store, keep=keep, before=before)
        with naming(place.folder, store.url):
            try:
                yield place
            except Exception as error:
                try:
                    place.push_lists()
                except PlatformError as another:
                    error.add_note(f"What the run listed could not be copied: {another}")
                raise
            place.push_lists()
