"""Publishing to object storage, where nothing can be renamed and several objects not written at once.

Two writers of one name follow the same steps, and whatever ends one of them, the other's bundle is whole:

1. Upload all files under a prefix that no other writer has, the manifest last.
2. Make the commit of the next version, if it is absent. The store lets one writer do that; the other is told
   who did, and removes what it uploaded.
3. Point `latest` at the bundle, then look whether there is a newer version meanwhile; if so, point at that.
4. Remove what can never be committed any more: uploads for versions up to this one. So what a cut upload left
   is gone after the next run of that name. The version before stays, for those who are fetching it.

A store without conditional writes lets both make the commit; the bundle that is named last counts then.

A bundle may be removed again, by `export.remote_retention`: its manifest first, its commit last. So a commit
counts only with the manifest, and who points `latest` at a bundle looks for that once more when it has.
"""

import socket
import uuid
from datetime import UTC, datetime
from pathlib import Path

from export.committed import committed_keys, newest_passed
from serving.bundle import FILES, open_bundle
from serving.errors import PlatformError, SettingsError
from serving.storage.published import (
    LATEST,
    Commit,
    Pointer,
    Writer,
    bundle_prefix,
    commit_key,
    current,
    encode,
    is_there,
    read_commit,
    read_latest,
)
from serving.storage.store import Store

_MENDED = 5
"""How often `latest` is looked at where other jobs remove, or publish, what it should name meanwhile."""


def check_usable(store: Store) -> None:
    """Tries whether bundles can be published there, so that a long run need not find out last.

    Raises ArtifactError where `latest` is none that publishing could move.
    """
    store.check_writable()
    read_latest(store)


def push(store: Store, folder: Path, run: str, *, overwrite: bool, move_latest: bool = True) -> Commit:
    """Publishes a sealed bundle under a name; returns the commit that counts.

    That is another writer's where it published the same bundle, by its ID.

    Raises SettingsError where the name is taken, and PlatformError where the storage fails: the next run of
    that name removes what was uploaded, or finds the bundle published and moves `latest`.
    """
    bundle_id = open_bundle(folder).bundle_id
    held = current(store, run)
    if held is not None and not overwrite and is_there(store, held.pointer):
        return _same(store, held, bundle_id, move_latest=move_latest)
    writer = Writer(
        host=socket.gethostname(),
        time=datetime.now(UTC).isoformat(timespec="milliseconds"),
        token=uuid.uuid4().hex[:12],
    )
    version = 1 if held is None else held.pointer.version + 1
    prefix = bundle_prefix(run, version, writer.token)
    _upload(store, folder, prefix)
    pointer = Pointer(run=run, version=version, bundle=prefix, bundle_id=bundle_id)
    commit = Commit(pointer=pointer, by=writer, latest_before=read_latest(store))
    is_whole = _is_whole(store, folder, prefix)
    if not is_whole or not store.write_if_absent(commit_key(run, version), encode(commit)):
        winner = read_commit(store, run, version)
        store.delete_all(prefix)
        if winner is not None:
            return _same(store, winner, bundle_id, move_latest=move_latest)
        raise PlatformError(
            f"{store.url_of(prefix)}: expected the files of the bundle as they were uploaded, found some "
            "missing or of another size; another job or a rule of the bucket removes objects there: look for "
            "it, then run again"
        )
    if move_latest:
        _point_latest(store, pointer)
    _remove_dead(store, pointer)
    return commit


def settle(store: Store, run: str) -> None:
    """Takes the last steps for a bundle that is published, whose job may have been ended before them.

    Raises PlatformError where it was removed meanwhile.
    """
    commit = current(store, run)
    if commit is None:
        raise _removed(store, run)
    before = committed_keys(store)
    latest = read_latest(store)
    is_older = latest is not None and latest.run == run and latest.version < commit.pointer.version
    if latest is None or is_older or latest == commit.latest_before:
        _point_latest(store, commit.pointer)
        # Another job may have moved `latest` since it was read, and this one have written over that.
        newest = newest_passed(store)
        if newest is not None and commit_key(newest.pointer.run, newest.pointer.version) not in before:
            _point_latest(store, newest.pointer)
    _remove_dead(store, commit.pointer)


def _upload(store: Store, folder: Path, prefix: str) -> None:
    files = sorted(path for path in folder.iterdir() if path.name != FILES.manifest)
    for path in [*files, folder / FILES.manifest]:
        store.put(path, f"{prefix}/{path.name}")


def _is_whole(store: Store, folder: Path, prefix: str) -> bool:
    """Whether all is there that was uploaded: a writer that was faster may have taken it for dead."""
    expected = {f"{prefix}/{path.name}": path.stat().st_size for path in folder.iterdir()}
    return {each.key: each.size for each in store.under(prefix)} == expected


def _same(store: Store, held: Commit, bundle_id: str, *, move_latest: bool) -> Commit:
    """The other writer's commit where it published the same bundle; raises SettingsError where not."""
    if held.pointer.bundle_id == bundle_id:
        if move_latest:
            settle(store, held.pointer.run)
        return held
    raise SettingsError(
        f"{store.url_of(held.pointer.run)}: there was no such bundle when the job began, and there is one "
        f"now ({store.url_of(held.pointer.bundle)}), published by {held.by}; another job has the same "
        "BOW_RUN_NAME. Set another, or run again with BOW_OVERWRITE=true"
    )


def _point_latest(store: Store, pointer: Pointer) -> None:
    while True:
        try:
            store.write(LATEST, encode(pointer))
        except PlatformError as error:
            raise PlatformError(
                f"{error}. The bundle is whole and in {store.url_of(pointer.bundle)}; the next run of "
                f"BOW_RUN_NAME={pointer.run} moves {LATEST} to it"
            ) from error
        # Another writer's newer version may have been named already, and this one have written over that.
        newest = current(store, pointer.run)
        if newest is None or newest.pointer.version <= pointer.version:
            break
        pointer = newest.pointer
    if not is_there(store, pointer):
        mend_latest(store)
        raise _removed(store, pointer.run)


def mend_latest(store: Store) -> None:
    """Moves `latest` on to the newest bundle where it names one that was removed.

    That is one whose job was held up between its last look and the moment in which it wrote `latest`. A job
    that publishes while the newest is looked for here may have its `latest` written over: so what was written
    is held against the newest once more.

    Raises PlatformError where other jobs are ahead each time.
    """
    written = None
    for _ in range(_MENDED):
        latest = read_latest(store)
        if latest is None or (latest != written and is_there(store, latest)):
            return
        newest = newest_passed(store)
        if newest is None or newest.pointer == latest:
            return
        written = newest.pointer
        store.write(LATEST, encode(written))
    raise PlatformError(
        f"{store.url_of(LATEST)}: expected to name the newest bundle, found another one published, or "
        f"removed, in each of {_MENDED} attempts; run again once fewer jobs publish there"
    )


def _removed(store: Store, run: str) -> PlatformError:
    return PlatformError(
        f"{store.url_of(run)}: the bundle was published, and was gone before {LATEST} named it: another job "
        "with BOW_KEEP_BUNDLES took it for one of the oldest; run again, or let it keep more"
    )


def _remove_dead(store: Store, pointer: Pointer) -> None:
    """Removes the uploads that lost or were cut, and the bundles before the last; their commits stay.

    A commit that is gone could be made again, by a writer that is late.
    """
    before = read_commit(store, pointer.run, pointer.version - 1) if pointer.version > 1 else None
    kept = {pointer.bundle} | ({before.pointer.bundle} if before is not None else set())
    dead: dict[str, list[str]] = {}
    for each in store.under(pointer.run):
        prefix, _, name = each.key.rpartition("/")
        version = prefix.removeprefix(f"{pointer.run}/v").partition("-")[0]
        if prefix not in kept and version.isdecimal() and int(version) <= pointer.version:
            dead.setdefault(prefix, []).append(name)
    for prefix, names in dead.items():
        # The manifest first, so that what is left of a bundle is never taken for one.
        store.delete(f"{prefix}/{name}" for name in sorted(names, key=lambda name: name != FILES.manifest))
