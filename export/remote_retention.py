"""Retention in object storage: of the bundles there only the newest stay, and nothing else is touched.

There is no lock: other jobs publish, and remove, meanwhile, and whatever ends one of them, the next goes on.
So a bundle goes in this order:

1. The manifest. From then on it is no bundle: who is fetching it finds a file missing and looks again what
   `latest` names, and nobody takes what is left for whole.
2. A look at `latest`. A job that was held up may have pointed it at this bundle after the last look before
   step 1; then it is moved on to the newest. The other job looks for the manifest after it has moved `latest`
   (`export.remote`), so of the two at least one sees what the other did.
3. The other files, and those of the versions before, which BOW_OVERWRITE has replaced.
4. The commits, that of the highest version last. Were they first, a removal that was cut would leave files
   that look like an upload under way, which nobody may remove. A commit without a manifest says that the
   removal was begun, and the next run finishes it.

Only what had its commit when the job began, and was published before the job's own bundle, is removed: jobs
that run at once leave each other's bundles alone, and so one bundle more may stay until the next run. Uploads
without a commit are never touched.
"""

import contextlib

from export.committed import Held, own_commit, published
from export.remote import mend_latest
from serving.bundle import FILES
from serving.errors import ArtifactError, PlatformError
from serving.storage.published import LATEST, commit_key, read_latest, read_pointer
from serving.storage.store import Object, Store

_POINTER_BYTES = 1 << 14
"""No pointer is larger, and an object that is need not be read."""


def remove_old(store: Store, keep: int, run: str, before: frozenset[str]) -> list[str]:
    """Removes all but the `keep` newest bundles, by the time in their commits; returns their names.

    Never removed, and counted first: that of `run`, which was just published, and what `latest` or a pointer
    of the user's own beside it names. So more than `keep` may stay. A name's versions are one bundle.

    before: the objects that were there when the job began.

    Raises PlatformError where the storage fails, does not allow to remove, or got an object meanwhile that is
    not the job's: what is left is whole, or is removed by the next run.
    """
    try:
        return _remove_old(store, keep, run, before)
    except ArtifactError as error:
        raise PlatformError(str(error)) from error


def _remove_old(store: Store, keep: int, run: str, before: frozenset[str]) -> list[str]:
    objects = store.under()
    beside = [each for each in objects if "/" not in each.key]
    held = published(store, [each.key for each in objects])
    needed = {run} | _named(store, beside)
    own = [each for each in held if each.run == run]
    if not own:
        return []  # another job has removed it, or written over it
    whole = sorted((each for each in held if each.is_whole), key=_age, reverse=True)
    others = [each for each in whole if each.run not in needed]
    old = others[max(0, keep - (len(whole) - len(others))) :]
    begun = [each for each in held if not each.has_manifest]
    removed = []
    for each in begun + old[::-1]:  # so that a job that is cut off has removed the oldest
        may_go = commit_key(each.run, each.versions[-1]) in before and _age(each) < _age(own[0])
        if may_go and each.run not in needed | _named(store, beside) and _remove(store, each):
            removed.append(each.run)
    return sorted(removed)


def _age(held: Held) -> tuple[str, str]:
    return held.commit.by.time, held.run


def _named(store: Store, beside: list[Object]) -> set[str]:
    """The runs that are in service: those that an object beside `latest`, or this itself, names."""
    pointers = [read_latest(store)]
    for each in beside:
        if each.key == LATEST or each.key.endswith(".jsonl") or (each.size or 0) > _POINTER_BYTES:
            continue
        with contextlib.suppress(ArtifactError):
            pointers.append(read_pointer(store, each.key))
    return {pointer.run for pointer in pointers if pointer is not None}


def _remove(store: Store, held: Held) -> bool:
    """Removes a bundle with the versions before it; returns False where one of them is not the job's."""
    run = held.run
    try:
        commits = [own_commit(store, run, version) for version in held.versions]
    except ArtifactError:
        return False
    if None in commits or commits[-1] != held.commit:
        return False  # another job is removing it
    store.delete([f"{held.commit.pointer.bundle}/{FILES.manifest}"])
    mend_latest(store)
    for version, commit in zip(held.versions, commits, strict=True):
        if commit is None:
            continue
        start = f"{commit.pointer.bundle}/"
        keys = [key for key in held.keys if key.startswith(start)]
        store.delete(sorted(keys, key=lambda key: not key.endswith(f"/{FILES.manifest}")))
        # Another job may have removed it, and a third one have published under the name again.
        if own_commit(store, run, version) == commit:
            store.delete([commit_key(run, version)])
    return True
