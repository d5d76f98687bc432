"""What is published in object storage, by name: told by one listing, and by the commits."""

import contextlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass

from serving.bundle import FILES
from serving.errors import ArtifactError
from serving.storage.published import Commit, bundle_prefix, commit_versions, read_commit
from serving.storage.store import Store

_UPLOADED = re.compile(r"v[0-9]+-[^/]+/([^/]+)")
"""A file of an upload, relative to the run's name."""
_COMMIT = re.compile(r"[^/]+/v[0-9]+\.json")


@dataclass(frozen=True, kw_only=True)
class Held:
    """What is published under a name."""

    commit: Commit
    """The one that counts."""
    versions: Sequence[int]
    """Those that have commits, the one that counts last."""
    keys: Sequence[str]
    """All objects of the name, those of uploads that have no commit among them."""

    @property
    def run(self) -> str:
        """The name."""
        return self.commit.pointer.run

    @property
    def has_manifest(self) -> bool:
        """Whether its bundle is one; without a manifest its removal has begun."""
        return f"{self.commit.pointer.bundle}/{FILES.manifest}" in self.keys

    @property
    def is_whole(self) -> bool:
        """Whether no file of its bundle lacks."""
        names = (FILES.manifest, *FILES.hashed)
        return {f"{self.commit.pointer.bundle}/{name}" for name in names} <= set(self.keys)

    @property
    def passed(self) -> bool:
        """Whether its bundle passed the quality gate, or none was asked for."""
        return f"{self.commit.pointer.bundle}/{FILES.failed_gate}" not in self.keys


def committed_keys(store: Store) -> frozenset[str]:
    """The objects that may be commits."""
    return frozenset(each.key for each in store.under() if _COMMIT.fullmatch(each.key))


def published(store: Store, keys: Iterable[str]) -> list[Held]:
    """What `keys`, a listing of the store, holds that the job published, and nothing else.

    A name under which there is anything that publishing does not write is left out.
    """
    by_run: dict[str, list[str]] = {}
    for key in keys:
        run, slash, _ = key.partition("/")
        if slash:
            by_run.setdefault(run, []).append(key)
    found = (_held(store, run, keys) for run, keys in by_run.items())
    return [held for held in found if held is not None]


def newest_passed(store: Store) -> Commit | None:
    """The bundle that was published last, of those that may go into service."""
    every = published(store, [each.key for each in store.under()])
    commits = [held.commit for held in every if held.is_whole and held.passed]
    return max(commits, key=lambda commit: (commit.by.time, commit.pointer.run), default=None)


def _held(store: Store, run: str, keys: Sequence[str]) -> Held | None:
    versions = commit_versions(run, keys)
    commits = {f"{run}/v{version}.json" for version in versions}
    for key in keys:
        uploaded = _UPLOADED.fullmatch(key.removeprefix(f"{run}/"))
        if key not in commits and (uploaded is None or uploaded[1] not in asdict(FILES).values()):
            return None
    if not versions:
        return None
    commit = None
    with contextlib.suppress(ArtifactError):
        commit = own_commit(store, run, versions[-1])
    return None if commit is None else Held(commit=commit, versions=versions, keys=keys)


def own_commit(store: Store, run: str, version: int) -> Commit | None:
    """A commit that says of itself what its key does; raises ArtifactError where it holds something else."""
    commit = read_commit(store, run, version)
    if commit is None:
        return None
    pointer = commit.pointer
    is_own = (pointer.run, pointer.version) == (run, version)
    return commit if is_own and pointer.bundle == bundle_prefix(run, version, commit.by.token) else None
