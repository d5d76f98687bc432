"""Copies the objects that data locations name, so that they are read as files are."""

import contextlib
import functools
import hashlib
import tempfile
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import replace
from glob import has_magic
from pathlib import Path

import structlog

from job.corpus.cache import OBJECTS, is_unused, mark_used
from job.corpus.scratch import cache_errors
from job.dataset import DataSpec
from serving.errors import DataError
from serving.storage.store import Object, Store, is_url

SUPERSEDED_AFTER = 24 * 3600.0
"""Seconds since its last use after which the copy of an older version is removed: another job may read it."""

log = structlog.get_logger()


@contextlib.contextmanager
def fetched(specs: Mapping[str, DataSpec], cache_dir: Path | None) -> Iterator[dict[str, DataSpec]]:
    """The specs, by use, with copies of what their URLs name; without a cache the copies go at the end.

    With a cache, an object that has not changed is not fetched again.

    Raises DataError where a URL names no object, SettingsError and PlatformError as `Store` does.
    """
    with contextlib.ExitStack() as stack:
        make_folder = functools.cache(
            lambda: Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bowsprit-")))
        )
        found = {}
        for use, spec in specs.items():
            if is_url(spec.location):
                store, objects = _find(spec)
                cache = None if cache_dir is None else cache_dir / OBJECTS
                spec = replace(
                    spec, copies=_fetch(store, objects, cache, make_folder() if cache is None else None)
                )
            found[use] = spec
        yield found


def _find(spec: DataSpec) -> tuple[Store, list[Object]]:
    """The objects that a location names, by the rules of `job.dataset.find_sources`, and where they are."""
    start, _, name = spec.location.rstrip("/").rpartition("/")
    store = Store(spec.location) if start.endswith("/") else Store(start)
    name = "" if start.endswith("/") else name
    if name and not spec.location.endswith("/") and (found := store.find(name)) is not None:
        return store, [found]
    folder = Store(spec.location)
    if found_all := [each for each in folder.under() if not _is_hidden(each.key)]:
        return folder, found_all
    if has_magic(spec.location):
        store, pattern = _split(spec.location)
        if found_all := [each for each in store.glob(pattern) if "/." not in f"/{each.key}"]:
            return store, found_all
    raise DataError(
        f"{spec.setting}={spec.location}: expected an object, a folder or a glob, found no object of that "
        f"name or under it; correct {spec.setting}, or put the data there"
    )


def _is_hidden(key: str) -> bool:
    return any(part.startswith((".", "_")) for part in key.split("/"))


def _split(location: str) -> tuple[Store, str]:
    """The folder of a glob before its first wildcard, and the rest."""
    parts = location.split("/")
    first = next(number for number, part in enumerate(parts) if has_magic(part))
    return Store("/".join(parts[:first])), "/".join(parts[first:])


def _fetch(store: Store, objects: list[Object], cache: Path | None, folder: Path | None) -> dict[str, Path]:
    """Where the copies are, by URL, in the order in which they are read."""
    objects = sorted(objects, key=lambda each: each.key.split("/"))
    if cache is None:
        assert folder is not None
        places = {each.key: folder / uuid.uuid4().hex for each in objects}
        _copy(store, {each: places[each.key] for each in objects})
        wanted = objects
    else:
        with cache_errors(cache):
            places = {each.key: _place(cache, store.url_of(each.key), each) for each in objects}
            wanted = [each for each in objects if not mark_used(places[each.key])]
            _fetch_into_cache(store, wanted, places)
    if wanted:
        num_bytes = sum(each.size or 0 for each in wanted)
        log.info("fetched", url=store.url, objects=len(wanted), bytes=num_bytes)
    return {store.url_of(each.key): places[each.key] for each in objects}


def _place(cache: Path, url: str, found: Object) -> Path:
    """Where the cache has an object in this version; what has none is fetched each time."""
    version = found.version or uuid.uuid4().hex
    return cache / _key(url) / _key(f"{version} {found.size}")


def _fetch_into_cache(store: Store, objects: list[Object], places: Mapping[str, Path]) -> None:
    """Copies objects under other names first: what has its name is whole."""
    unfinished = {each.key: places[each.key].with_name(f".{uuid.uuid4().hex}") for each in objects}
    try:
        for path in unfinished.values():
            path.parent.mkdir(parents=True, exist_ok=True)
            for old in path.parent.iterdir():
                if is_unused(old, SUPERSEDED_AFTER):
                    old.unlink(missing_ok=True)
        _copy(store, {each: unfinished[each.key] for each in objects})
        for key, path in unfinished.items():
            path.rename(places[key])
    finally:
        for path in unfinished.values():
            path.unlink(missing_ok=True)


def _copy(store: Store, files: Mapping[Object, Path]) -> None:
    try:
        store.get_all(files.items())
    except FileNotFoundError as error:
        raise DataError(
            f"{store.url}: an object was there when the data was listed, and was gone when it was copied "
            f"({error}); run again once nobody changes the data"
        ) from error


def _key(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:32]
